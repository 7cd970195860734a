//! DeepSeek-V3.2: MLA with an indexer in every layer (DeepSeek Sparse Attention), sigmoid gate with groups.

use super::{Architecture, V3_GATE};
use crate::config::LayerChoice;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "deepseek_v32",
    class: "DeepseekV32ForCausalLM",
    gate: V3_GATE,
    choices: |_, layers| Ok(vec![LayerChoice::Own; layers]),
};
