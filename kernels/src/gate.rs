//! The MoE gate: which experts a token goes to, and with what weights. All in f32, after DeepSeek's `noaux_tc` and
//! `group_limited_greedy` and V2's plain softmax choice.

use crate::error::NotFinite;
use crate::math::{exp, sigmoid};
use crate::topk::{position, rank, score};

/// How logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateScore {
    /// 1 / (1 + e^-x), V3.
    Sigmoid,
    /// Softmax over all experts, V2.
    Softmax,
}

/// How a group of experts is ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupScore {
    /// By the sum of its two best (biased) scores, V3.
    BestTwo,
    /// By its best score, V2.
    Best,
}

/// A gate.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// Experts to choose from.
    pub experts: usize,
    /// Experts to choose.
    pub k: usize,
    /// Groups; 1 for no grouping.
    pub groups: usize,
    /// Groups that stay.
    pub groups_kept: usize,
    /// Logits to scores.
    pub score: GateScore,
    /// Rank of a group.
    pub group_score: GroupScore,
    /// Whether weights are divided by their sum + 1e-20.
    pub normalise: bool,
    /// Factor of the weights.
    pub scaling: f32,
}

/// Experts of each row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes {
    /// Experts of a row.
    pub k: usize,
    /// [rows, k], ascending in each row.
    pub ids: Vec<u32>,
    /// [rows, k], as multiplied onto the experts' outputs.
    pub weights: Vec<f32>,
    /// [rows]: the gap between the last chosen and the first not chosen, in standard deviations of the scores ranked,
    /// of groups or experts, whichever is narrower; infinite where nothing was left out.
    pub margins: Vec<f32>,
}

/// Chooses experts for every row of `logits` [rows, experts]. `bias` [experts] is added for ranking only; empty for
/// none. Ties go to the lower id. `routes` is replaced.
///
/// # Errors
/// A logit is NaN; the first such row is named. All others are complete, and such a row goes to the first experts with
/// weights that are NaN, so that the fault reaches the logits of its own request and of no other.
pub fn moe_gate(gate: &Gate, logits: &[f32], bias: &[f32], routes: &mut Routes) -> Result<(), NotFinite> {
    routes.k = gate.k;
    routes.ids.clear();
    routes.weights.clear();
    routes.margins.clear();
    let mut scores = vec![0.0; gate.experts];
    let mut ranked = Vec::with_capacity(gate.experts);
    let mut result = Ok(());
    for (row, logits) in logits.chunks_exact(gate.experts.max(1)).enumerate() {
        fill_scores(gate.score, logits, &mut scores);
        if scores.iter().any(|s| s.is_nan()) {
            result = result.and(Err(NotFinite { what: "gate logits", row }));
            routes.ids.extend(0..gate.k as u32);
            routes.weights.extend(std::iter::repeat_n(f32::NAN, gate.k));
            routes.margins.push(f32::NAN);
            continue;
        }
        let biased = |e: usize| scores[e] + bias.get(e).copied().unwrap_or(0.0);
        let kept = keep_groups(gate, biased);
        ranked.clear();
        let size = gate.experts / gate.groups.max(1);
        ranked.extend((0..gate.experts).filter(|e| kept.has(e / size)).map(|e| rank(biased(e), e as u32)));
        let margin = take_best(&mut ranked, gate.k);
        let first = routes.ids.len();
        routes.ids.extend(ranked.iter().map(|&r| position(r)));
        routes.ids[first..].sort_unstable();
        push_weights(gate, &scores, first, routes);
        routes.margins.push(if kept.margin < margin { kept.margin } else { margin });
    }
    result
}

fn fill_scores(kind: GateScore, logits: &[f32], scores: &mut [f32]) {
    match kind {
        GateScore::Sigmoid => scores.iter_mut().zip(logits).for_each(|(s, &x)| *s = sigmoid(x)),
        GateScore::Softmax => {
            let max = logits.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
            scores.iter_mut().zip(logits).for_each(|(s, &x)| *s = exp(x - max));
            let sum = scores.iter().fold(0.0, |a, &s| a + s);
            scores.iter_mut().for_each(|s| *s /= sum);
        }
    }
}

/// The groups that stay.
struct Kept {
    groups: Vec<bool>,
    margin: f32,
}

impl Kept {
    /// Experts beyond the last whole group belong to none and are never chosen.
    fn has(&self, group: usize) -> bool {
        self.groups.get(group).copied().unwrap_or(false)
    }
}

fn keep_groups(gate: &Gate, biased: impl Fn(usize) -> f32) -> Kept {
    if gate.groups <= 1 {
        return Kept { groups: vec![true], margin: f32::INFINITY };
    }
    let size = gate.experts / gate.groups;
    let best_of = |group: usize| {
        let mut best = [f32::NEG_INFINITY; 2];
        for e in group * size..(group + 1) * size {
            let s = biased(e);
            if s > best[0] {
                best = [s, best[0]];
            } else if s > best[1] {
                best[1] = s;
            }
        }
        match gate.group_score {
            GroupScore::Best => best[0],
            // A group of one expert counts that one.
            GroupScore::BestTwo if size == 1 => best[0],
            GroupScore::BestTwo => best[0] + best[1],
        }
    };
    let mut ranked: Vec<u64> = (0..gate.groups).map(|g| rank(best_of(g), g as u32)).collect();
    let margin = take_best(&mut ranked, gate.groups_kept);
    let mut groups = vec![false; gate.groups];
    ranked.iter().for_each(|&r| groups[position(r) as usize] = true);
    Kept { groups, margin }
}

/// Keeps the best `k`, best first; gives the margin to the next in standard deviations of all.
fn take_best(ranked: &mut Vec<u64>, k: usize) -> f32 {
    ranked.sort_unstable_by(|a, b| b.cmp(a));
    let margin = match (k.checked_sub(1).and_then(|last| ranked.get(last)), ranked.get(k)) {
        (Some(&last), Some(&next)) => {
            let n = ranked.len() as f32;
            let mean = ranked.iter().map(|&r| score(r)).sum::<f32>() / n;
            let variance = ranked.iter().map(|&r| (score(r) - mean) * (score(r) - mean)).sum::<f32>() / n;
            (score(last) - score(next)) / variance.sqrt().max(1e-12)
        }
        _ => f32::INFINITY,
    };
    ranked.truncate(k);
    margin
}

fn push_weights(gate: &Gate, scores: &[f32], first: usize, routes: &mut Routes) {
    let ids = &routes.ids[first..];
    let sum = if gate.normalise { ids.iter().fold(0.0, |a, &e| a + scores[e as usize]) + 1e-20 } else { 1.0 };
    routes.weights.extend(ids.iter().map(|&e| scores[e as usize] / sum * gate.scaling));
}

#[cfg(test)]
mod tests;
