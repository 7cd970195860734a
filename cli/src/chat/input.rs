//! Lines of stdin, as a channel.

use std::io::{self, BufRead, Read};

use tokio::sync::mpsc;

/// Bytes of one line at most; what is longer is cut into several.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Lines of stdin, without their ends. A read cannot be interrupted, so it has a thread that the end of the process
/// ends.
pub(super) fn lines() -> io::Result<mpsc::Receiver<io::Result<String>>> {
    let (sender, receiver) = mpsc::channel(1);
    let read = move || {
        let mut stdin = io::stdin().lock();
        loop {
            match line(&mut stdin) {
                Ok(None) => return,
                Ok(Some(line)) => {
                    if sender.blocking_send(Ok(line)).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    // Whoever listened may be gone, and then nobody needs to know.
                    let _ = sender.blocking_send(Err(error));
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().name("stdin".into()).spawn(read)?;
    Ok(receiver)
}

/// One line; none at the end. Broken UTF-8 becomes U+FFFD.
pub(super) fn line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    if input.take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_ends_and_broken_characters() {
        let mut input: &[u8] = b"a\r\n\xff\n\nlast";
        let mut read = || line(&mut input).unwrap();
        assert_eq!(read().as_deref(), Some("a"));
        assert_eq!(read().as_deref(), Some("\u{fffd}"));
        assert_eq!(read().as_deref(), Some(""));
        assert_eq!(read().as_deref(), Some("last"));
        assert_eq!(read(), None);
    }
}
