//! The model that is built into the binary: tiny, with random weights, so that everything can be tried at once.

use hadal_model::{Files, OpenError};

/// The name under which it is served.
pub(crate) const NAME: &str = "hadal-tiny";

macro_rules! file {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../tests/golden/deepseek_v32/", $name)) as &'static [u8])
    };
}

const FILES: [(&str, &[u8]); 5] = [
    file!("config.json"),
    file!("generation_config.json"),
    file!("model.safetensors"),
    file!("tokenizer.json"),
    file!("tokenizer_config.json"),
];

/// Opens it.
///
/// # Errors
/// Never, unless the binary is broken.
pub(crate) fn open() -> Result<Files, OpenError> {
    Files::embedded(&FILES)
}
