//! Holds the bundled model's files against their sums. `build.rs` includes this file too, so that a damaged checkout does
//! not become a binary; the binary itself looks once more, at its own bytes.

use std::fmt;

/// A file that is not as its sum says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    name: String,
    expected: String,
    found: Option<String>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, expected, found } = self;
        match found {
            Some(found) => write!(f, "{name} is damaged: its BLAKE3 is {found}, and should be {expected}"),
            None => write!(f, "{name} is missing; its BLAKE3 should be {expected}"),
        }
    }
}

/// The lines of `SUMS`, as `b3sum` writes them: a sum and a name.
pub(crate) fn lines(sums: &str) -> impl Iterator<Item = (&str, &str)> {
    sums.lines().filter_map(|line| line.split_once("  "))
}

/// Reads every file of `sums`, and names the first that is missing or damaged.
pub(crate) fn check<B: AsRef<[u8]>>(sums: &str, mut read: impl FnMut(&str) -> Option<B>) -> Result<(), Damage> {
    for (expected, name) in lines(sums) {
        let found = read(name).map(|bytes| blake3::hash(bytes.as_ref()).to_hex().to_string());
        if found.as_deref() != Some(expected) {
            return Err(Damage { name: name.to_owned(), expected: expected.to_owned(), found });
        }
    }
    Ok(())
}
