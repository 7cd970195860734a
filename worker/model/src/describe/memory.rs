//! The memory plan: what each member of an EP group holds for so many requests of so long a context.

use hadal_types::{Geometry, KvEncoding, Part};
use serde::Serialize;

use super::DescribeError;
use crate::config::Config;
use crate::weights::spec::{Group, Totals};
use crate::workspace::Workspace;

/// What to plan for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanOptions {
    /// Tokens of each request; none for the model's context.
    pub context_tokens: Option<u64>,
    /// Requests of a member at a time.
    pub batch: u64,
    /// Members of the EP group.
    pub ep: u64,
    /// Encoding of the cache.
    pub kv: KvEncoding,
    /// Rows of a step.
    pub step_rows: usize,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self { context_tokens: None, batch: 1, ep: 1, kv: KvEncoding::Fp8, step_rows: 512 }
    }
}

/// Bytes of one member, which holds its share of the experts and everything else whole. Weights count as published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// Tokens of each request.
    pub context_tokens: u64,
    /// Requests at a time.
    pub batch: u64,
    /// Members.
    pub ep: u64,
    /// Routed experts of a layer that a member holds.
    pub experts_per_member: u64,
    /// Its share of the routed experts.
    pub expert_bytes: u64,
    /// All other weights.
    pub other_weight_bytes: u64,
    /// The draft layers, which only speculation needs.
    pub draft_bytes: u64,
    /// Index pages.
    pub index_bytes: u64,
    /// Latent pages.
    pub latent_bytes: u64,
    /// Workspace of a step.
    pub workspace_bytes: u64,
    /// All but the draft layers.
    pub total_bytes: u64,
}

pub(super) fn plan(
    config: &Config,
    totals: &Totals,
    geometry: &Geometry,
    options: &PlanOptions,
) -> Result<MemoryPlan, DescribeError> {
    let context_tokens = options.context_tokens.unwrap_or(u64::from(config.context_tokens));
    let experts = config.moe.map_or(0, |m| m.experts as u64);
    refuse(config, context_tokens, experts, options)?;
    let routed = totals.sum(|group, draft| !draft && group == Group::Routed).bytes;
    let other_weight_bytes = totals.sum(|group, draft| !draft && group != Group::Routed).bytes;
    let experts_per_member = experts.div_ceil(options.ep);
    // The member with the most experts counts. Every expert has the same size.
    let expert_bytes = routed.checked_div(experts).unwrap_or(0) * experts_per_member;
    let pages = options.batch * hadal_types::blocks_for(context_tokens);
    let index_bytes = pages * geometry.page_bytes(Part::Index);
    let latent_bytes = pages * geometry.page_bytes(Part::Latent);
    let workspace_bytes = Workspace::bytes_for(config, options.step_rows);
    Ok(MemoryPlan {
        context_tokens,
        batch: options.batch,
        ep: options.ep,
        experts_per_member,
        expert_bytes,
        other_weight_bytes,
        draft_bytes: totals.sum(|_, draft| draft).bytes,
        index_bytes,
        latent_bytes,
        workspace_bytes,
        total_bytes: expert_bytes + other_weight_bytes + index_bytes + latent_bytes + workspace_bytes,
    })
}

fn refuse(config: &Config, context: u64, experts: u64, options: &PlanOptions) -> Result<(), DescribeError> {
    const BATCH_MAX: u64 = 1 << 20;
    let wrong = if context == 0 || context > u64::from(config.context_tokens) {
        format!("a context of {context} tokens; this model takes 1 to {}", config.context_tokens)
    } else if options.batch == 0 || options.batch > BATCH_MAX {
        format!("a batch of {} requests; give 1 to {BATCH_MAX}", options.batch)
    } else if options.ep == 0 || options.ep > experts.max(1) {
        format!(
            "{} members of an EP group; this model's {experts} routed experts allow 1 to {}",
            options.ep,
            experts.max(1)
        )
    } else if options.step_rows == 0 || options.step_rows > 1 << 16 {
        format!("steps of {} rows; give 1 to 65536", options.step_rows)
    } else {
        return Ok(());
    };
    Err(DescribeError::Plan(wrong))
}
