//! Files that a command writes at its end.

use std::io::{self, ErrorKind};
use std::path::Path;

use hadal_shell::exit::Exit;

use crate::fault::Fault;

/// That a file can be written, as it is wanted only after the measuring, which takes minutes. What is there is left as
/// it is, and so is a place where nothing is.
///
/// # Errors
/// When it cannot.
pub(crate) fn writable(path: &Path) -> Result<(), Fault> {
    tried(path).map_err(|error| unwritten(path, &error))
}

fn tried(path: &Path) -> io::Result<()> {
    match std::fs::OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            std::fs::OpenOptions::new().append(true).open(path).map(drop)
        }
        Err(error) => Err(error),
    }
}

/// Writes a whole file.
///
/// # Errors
/// When it cannot.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Fault> {
    std::fs::write(path, text).map_err(|error| unwritten(path, &error))
}

fn unwritten(path: &Path, error: &io::Error) -> Fault {
    Fault::say(Exit::Io, format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_a_file_can_be_written_shows_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("curves.svg");
        writable(&path).unwrap();
        assert!(!path.exists());
        std::fs::write(&path, "from before").unwrap();
        writable(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "from before");
        assert!(writable(folder.path()).is_err() && writable(&folder.path().join("no/curves.svg")).is_err());
    }
}
