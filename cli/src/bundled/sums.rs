//! Holds the bundled model's files against their sums. `build.rs` includes this file too, so that a damaged checkout does
//! not become a binary; the binary itself looks once more, at its own bytes. What is to be checked is said by the caller:
//! a `SUMS` that lost lines must not check less.

use std::fmt;

/// The files of the bundled model.
pub(crate) const NAMES: [&str; 5] =
    ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/// Hexadecimal digits of a BLAKE3.
const DIGITS: usize = 64;

/// What is not as it should be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// A line of `SUMS`, counted from 1, is none.
    Line(usize),
    /// `SUMS` has no line for a file.
    NoSum(String),
    /// A file is not as its sum says; `found` is none where it is missing.
    File { name: String, expected: String, found: Option<String> },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(number) => write!(f, "SUMS is damaged: line {number} is not a BLAKE3, two spaces and a name"),
            Self::NoSum(name) => write!(f, "SUMS is damaged: it has no line for {name}"),
            Self::File { name, expected, found: Some(found) } => {
                write!(f, "{name} is damaged: its BLAKE3 is {found}, and should be {expected}")
            }
            Self::File { name, expected, found: None } => {
                write!(f, "{name} is missing; its BLAKE3 should be {expected}")
            }
        }
    }
}

/// The lines of `SUMS`, as `b3sum` writes them: a sum and a name.
pub(crate) fn lines(sums: &str) -> Result<Vec<(&str, &str)>, Damage> {
    let parsed = sums.lines().enumerate().map(|(i, line)| {
        line.split_once("  ")
            .filter(|(sum, name)| sum.len() == DIGITS && !name.is_empty() && sum.bytes().all(|b| b.is_ascii_hexdigit()))
            .ok_or(Damage::Line(i + 1))
    });
    parsed.collect()
}

/// Reads each of these files, and names the first that has no sum, is missing or is damaged.
pub(crate) fn check<'a, B: AsRef<[u8]>>(
    sums: &str,
    names: impl IntoIterator<Item = &'a str>,
    mut read: impl FnMut(&str) -> Option<B>,
) -> Result<(), Damage> {
    let lines = lines(sums)?;
    for name in names {
        let Some((expected, _)) = lines.iter().find(|(_, of)| *of == name) else {
            return Err(Damage::NoSum(name.to_owned()));
        };
        let found = read(name).map(|bytes| blake3::hash(bytes.as_ref()).to_hex().to_string());
        if found.as_deref() != Some(*expected) {
            return Err(Damage::File { name: name.to_owned(), expected: (*expected).to_owned(), found });
        }
    }
    Ok(())
}
