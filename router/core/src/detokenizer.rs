//! Tokens to text, one at a time. Text so far is always the beginning of the text of the whole: bytes that may still
//! become a character are held back until they do, or until they cannot.

use std::str;
use std::sync::Arc;

use crate::vocabulary::Vocabulary;

/// Turns one sequence of tokens into text. Special tokens are left out, as `skip_special_tokens` of Hugging Face does.
pub struct Detokenizer {
    vocabulary: Arc<Vocabulary>,
    /// The beginning of a character: at most three bytes between calls.
    partial: Vec<u8>,
}

impl Detokenizer {
    /// A sequence's beginning.
    pub fn new(vocabulary: Arc<Vocabulary>) -> Self {
        Self { vocabulary, partial: Vec::new() }
    }

    /// Appends to `out` what the token makes certain. Cost: the token's own bytes.
    pub fn push(&mut self, token: u32, out: &mut String) {
        if self.vocabulary.is_special(token) {
            return;
        }
        self.partial.extend_from_slice(self.vocabulary.bytes(token));
        let done = push_certain(&self.partial, out);
        self.partial.drain(..done);
    }

    /// The end: a character that was only begun becomes U+FFFD.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&String::from_utf8_lossy(&self.partial));
        self.partial.clear();
    }
}

/// Appends all of `bytes` but an unfinished character at the end; gives the bytes used. Broken bytes become U+FFFD in
/// the same groups as `String::from_utf8_lossy` makes, whatever the pieces in which they come.
fn push_certain(bytes: &[u8], out: &mut String) -> usize {
    let mut used = 0;
    loop {
        let rest = &bytes[used..];
        let error = match str::from_utf8(rest) {
            Ok(text) => {
                out.push_str(text);
                return bytes.len();
            }
            Err(error) => error,
        };
        let valid = error.valid_up_to();
        out.push_str(&String::from_utf8_lossy(&rest[..valid]));
        used += valid;
        match error.error_len() {
            Some(broken) => {
                out.push(char::REPLACEMENT_CHARACTER);
                used += broken;
            }
            None => return used,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_give_the_text_of_the_whole() {
        let whole = b"a\xe4\xbd\xa0\xff\xf0\x9f\x99z\xe2\x82\xf0\x9f\x99\x82\xc3";
        for cut in 0..whole.len() {
            for second in cut..whole.len() {
                let (mut text, mut partial) = (String::new(), Vec::new());
                for piece in [&whole[..cut], &whole[cut..second], &whole[second..]] {
                    partial.extend_from_slice(piece);
                    let done = push_certain(&partial, &mut text);
                    partial.drain(..done);
                    assert!(partial.len() < 4);
                }
                text.push_str(&String::from_utf8_lossy(&partial));
                assert_eq!(text, String::from_utf8_lossy(whole));
            }
        }
    }
}
