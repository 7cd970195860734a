//! What follows attention: a dense MLP, or experts. Shared experts first, then the routed ones by ascending id.

use hadal_kernels::{Gate, GateScore, GroupScore, linear, moe_experts, moe_gate};

use super::{Layer, exact};
use crate::config::{Moe, Scoring};
use crate::probe::{Probe, Route, Stage};
use crate::weights::Mlp;
use crate::workspace::Workspace;

/// Reads `normed` and leaves the block's answer in `answer`.
pub(super) fn run(layer: &Layer<'_>, weights: &Mlp, ws: &mut Workspace, probe: &mut dyn Probe) {
    let (ctx, n) = (&layer.model.ctx, layer.batch.rows * layer.model.config.hidden);
    match (weights, &layer.model.config.moe) {
        (Mlp::Moe { gate, bias, shared, experts }, Some(moe)) => {
            let rows = layer.batch.rows;
            linear(exact(layer.model), gate, &ws.normed[..n], &mut ws.gate_logits[..rows * moe.experts]);
            route(layer, moe, bias.as_deref().unwrap_or_default(), ws);
            if probe.details() {
                show(layer, ws, probe);
            }
            probe.computed(Stage::Gate);
            let (x, answer) = (&ws.normed[..n], &mut ws.answer[..n]);
            match shared {
                Some(shared) => shared.expert().forward(ctx, x, answer),
                None => answer.fill(0.0),
            }
            probe.computed(Stage::Shared);
            // The gate gives ids below the number of experts.
            moe_experts(ctx, x, &ws.routes, &|id| experts[id as usize].expert(), answer);
            probe.computed(Stage::Experts);
        }
        (Mlp::Dense(mlp), _) => {
            mlp.expert().forward(ctx, &ws.normed[..n], &mut ws.answer[..n]);
            probe.computed(Stage::Shared);
        }
        (Mlp::Moe { .. }, None) => ws.answer[..n].fill(0.0),
    }
}

/// Chooses experts for every row. Rows of a slice from the first whose logits are not numbers on are marked and go on
/// as zeros.
fn route(layer: &Layer<'_>, moe: &Moe, bias: &[f32], ws: &mut Workspace) {
    let gate = gate(moe);
    let (rows, width) = (layer.batch.rows, layer.model.config.hidden);
    for _ in 0..=layer.batch.slices.len() {
        let logits = &ws.gate_logits[..rows * moe.experts];
        let Err(failure) = moe_gate(&gate, logits, bias, &mut ws.routes) else { return };
        let rows = failure.row..layer.batch.slice_of(failure.row).1.end;
        layer.batch.mark(failure, &mut ws.failures);
        ws.gate_logits[rows.start * moe.experts..rows.end * moe.experts].fill(0.0);
        ws.normed[rows.start * width..rows.end * width].fill(0.0);
        ws.x[rows.start * width..rows.end * width].fill(0.0);
    }
}

fn gate(moe: &Moe) -> Gate {
    Gate {
        experts: moe.experts,
        k: moe.experts_per_token,
        groups: moe.groups,
        groups_kept: moe.groups_kept,
        score: match moe.scoring {
            Scoring::Sigmoid => GateScore::Sigmoid,
            Scoring::Softmax => GateScore::Softmax,
        },
        group_score: if moe.bias { GroupScore::BestTwo } else { GroupScore::Best },
        normalise: moe.normalise,
        scaling: moe.scale,
    }
}

fn show(layer: &Layer<'_>, ws: &Workspace, probe: &mut dyn Probe) {
    let r = &ws.routes;
    let rows = r.ids.chunks_exact(r.k).zip(r.weights.chunks_exact(r.k)).zip(&r.margins);
    for (row, ((experts, weights), &margin)) in rows.enumerate() {
        probe.routed(layer.id(), row, Route { experts, weights, margin });
    }
}
