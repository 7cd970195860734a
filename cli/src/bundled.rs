//! The model that is built into the binary: `models/sample`, small and trained, so that everything can be tried at once.

mod sums;

use hadal_model::{Files, OpenError};

/// The name under which it is served.
pub(crate) const NAME: &str = "hadal-sample";

macro_rules! file {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../models/sample/", $name)) as &'static [u8])
    };
}

const SUMS: &str = include_str!("../../models/sample/SUMS");
const FILES: [(&str, &[u8]); sums::NAMES.len()] = [
    file!("config.json"),
    file!("generation_config.json"),
    file!("model.safetensors"),
    file!("tokenizer.json"),
    file!("tokenizer_config.json"),
];

/// Why it cannot be opened: the binary is broken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Its bytes are not those that were built in.
    #[error("the bundled model's {0}; this binary is broken: build or install it again, or name a checkpoint folder")]
    Damaged(sums::Damage),
    /// It was built from files that are no checkpoint.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Opens it.
///
/// # Errors
/// Never, unless the binary is broken.
pub(crate) fn open() -> Result<Files, Error> {
    let names = FILES.iter().map(|(name, _)| *name);
    sums::check(SUMS, names, |name| FILES.iter().find(|(n, _)| *n == name).map(|(_, bytes)| bytes))
        .map_err(Error::Damaged)?;
    Ok(Files::embedded(&FILES)?)
}

#[cfg(test)]
mod tests;
