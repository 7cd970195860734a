//! DeepSeek-V2 and V2-Lite: dense MLA, in Lite without a query latent; softmax gate that does not normalise, greedy or
//! limited to the groups with the best experts.

use super::{Architecture, GateDefaults, dense};
use crate::config::Scoring;

pub(super) static ARCHITECTURE: Architecture = Architecture {
    name: "deepseek_v2",
    class: "DeepseekV2ForCausalLM",
    gate: GateDefaults {
        scoring: Scoring::Softmax,
        method: "greedy",
        methods: &["greedy", "group_limited_greedy"],
        normalise: false,
    },
    choices: dense,
};
