//! Bytes of a checkpoint's file: mapped from disk, or built into the binary.
//!
//! The only unsafe code of this crate is here.
#![allow(unsafe_code, reason = "mapping a file is unsafe because another process may change it")]

use std::fs::File;
use std::io;
use std::path::Path;

/// Read-only bytes that live as long as they are held.
pub(crate) enum Bytes {
    /// A mapped file.
    Mapped(memmap2::Mmap),
    /// Part of the binary, or of a test.
    Static(&'static [u8]),
    /// Made up in memory.
    Owned(Vec<u8>),
    /// An empty file, which cannot be mapped.
    Empty,
}

impl Bytes {
    /// Maps a file.
    ///
    /// # Errors
    /// Those of opening and mapping it.
    pub(crate) fn map(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Bytes::Empty);
        }
        // SAFETY: the map is read-only and the bytes are only ever read as integers, for which every bit pattern is
        // valid. It relies on nobody truncating the file while it is mapped: that would raise SIGBUS, as it would for
        // every reader of mapped checkpoints; a checkpoint is written once, under another name, and then moved.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Bytes::Mapped(map))
    }

    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
            Bytes::Empty => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_reads_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(Bytes::map(&path).unwrap().as_slice(), b"abc");
        std::fs::write(&path, b"").unwrap();
        assert!(Bytes::map(&path).unwrap().as_slice().is_empty());
    }
}
