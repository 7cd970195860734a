//! DeepSeek-V3 and R1: dense MLA, sigmoid gate with groups.

use super::{Architecture, V3_GATE, dense};

pub(super) static ARCHITECTURE: Architecture =
    Architecture { name: "deepseek_v3", class: "DeepseekV3ForCausalLM", gate: V3_GATE, choices: dense };
