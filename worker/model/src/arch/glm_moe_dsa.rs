//! GLM-5: DSA in which some layers ("shared") take the choice of the last one that chose ("full") and keep no index
//! rows. The list is given, or follows from a period: the first layers are full, then every `index_topk_freq`-th.

use super::{Architecture, V3_GATE};
use crate::config::{ConfigError, LayerChoice, Raw, check};

pub(super) static ARCHITECTURE: Architecture =
    Architecture { name: "glm_moe_dsa", class: "GlmMoeDsaForCausalLM", gate: V3_GATE, choices };

fn choices(raw: &Raw, layers: usize) -> Result<Vec<LayerChoice>, ConfigError> {
    let full = match &raw.indexer_types {
        Some(types) => listed(types, layers)?,
        None => periodic(raw, layers)?,
    };
    check(
        "indexer_types",
        "shared in the first layer",
        full.first() == Some(&true),
        "full there, as it has no earlier choice",
    )?;
    let mut last = 0;
    let choice = |(layer, full): (usize, bool)| {
        if full {
            last = layer;
            LayerChoice::Own
        } else {
            LayerChoice::Reuse(last)
        }
    };
    Ok(full.into_iter().enumerate().map(choice).collect())
}

fn listed(types: &[String], layers: usize) -> Result<Vec<bool>, ConfigError> {
    let expected = || format!("{layers} of \"full\" and \"shared\"");
    check("indexer_types", format!("a list of {}", types.len()), types.len() == layers, expected())?;
    types
        .iter()
        .map(|kind| {
            check("indexer_types", kind, kind == "full" || kind == "shared", expected()).map(|()| kind == "full")
        })
        .collect()
}

fn periodic(raw: &Raw, layers: usize) -> Result<Vec<bool>, ConfigError> {
    let period = raw.index_topk_freq.unwrap_or(1);
    check("index_topk_freq", period, period > 0, "at least 1")?;
    let first = raw.index_skip_topk_offset.unwrap_or(1).max(1);
    Ok((0..layers).map(|layer| layer < first || (layer - first + 1).is_multiple_of(period)).collect())
}
