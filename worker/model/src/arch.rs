//! The architectures that Hadal serves: one file each, and one line in the registry.

mod deepseek_v2;
mod deepseek_v3;
mod deepseek_v32;
mod glm_moe_dsa;

use crate::config::{ConfigError, LayerChoice, Raw, Scoring};

/// What sets an architecture apart from the others of the family.
#[derive(Debug)]
pub struct Architecture {
    /// `model_type` in `config.json`.
    pub name: &'static str,
    /// The class in `architectures`, for configurations without a `model_type`.
    pub(crate) class: &'static str,
    /// What its gate does where the configuration is silent.
    pub(crate) gate: GateDefaults,
    /// How each of so many main layers chooses rows.
    pub(crate) choices: fn(&Raw, usize) -> Result<Vec<LayerChoice>, ConfigError>,
}

/// The gate of an architecture.
#[derive(Debug)]
pub(crate) struct GateDefaults {
    pub(crate) scoring: Scoring,
    pub(crate) method: &'static str,
    /// Values of `topk_method` that the architecture knows.
    pub(crate) methods: &'static [&'static str],
    pub(crate) normalise: bool,
}

/// The gate of DeepSeek-V3 and its descendants.
pub(crate) const V3_GATE: GateDefaults =
    GateDefaults { scoring: Scoring::Sigmoid, method: "noaux_tc", methods: &["noaux_tc"], normalise: true };

static REGISTRY: [&Architecture; 4] =
    [&deepseek_v32::ARCHITECTURE, &glm_moe_dsa::ARCHITECTURE, &deepseek_v3::ARCHITECTURE, &deepseek_v2::ARCHITECTURE];

/// Names of all architectures.
pub fn supported() -> Vec<&'static str> {
    REGISTRY.iter().map(|a| a.name).collect()
}

/// The architecture that a configuration names.
pub(crate) fn find(raw: &Raw) -> Result<&'static Architecture, ConfigError> {
    let class = raw.architectures.as_ref().and_then(|a| a.first());
    let known = match (&raw.model_type, class) {
        (Some(name), _) => REGISTRY.iter().find(|a| a.name == name),
        (None, Some(class)) => REGISTRY.iter().find(|a| a.class == class),
        (None, None) => None,
    };
    known.copied().ok_or_else(|| ConfigError::UnknownArchitecture {
        found: raw.model_type.as_ref().or(class).cloned().unwrap_or_else(|| "(no model_type)".to_owned()),
        supported: supported().join(", "),
    })
}

/// Every layer reads every row.
pub(crate) fn dense(_: &Raw, layers: usize) -> Result<Vec<LayerChoice>, ConfigError> {
    Ok(vec![LayerChoice::All; layers])
}
