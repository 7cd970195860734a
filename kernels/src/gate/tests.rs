//! Routing against a plain reference: groups, ties, softmax and sigmoid.

use super::*;
use crate::testing::Random;

const V3: Gate = Gate {
    experts: 16,
    k: 4,
    groups: 4,
    groups_kept: 2,
    score: GateScore::Sigmoid,
    group_score: GroupScore::BestTwo,
    normalise: true,
    scaling: 2.5,
};
const V2: Gate = Gate {
    experts: 12,
    k: 3,
    groups: 1,
    groups_kept: 1,
    score: GateScore::Softmax,
    group_score: GroupScore::Best,
    normalise: false,
    scaling: 1.0,
};

/// After `Model.moe` of the oracle, by stable sorts in f64.
fn reference(gate: &Gate, logits: &[f32], bias: &[f32]) -> (Vec<u32>, Vec<f64>) {
    let x: Vec<f64> = logits.iter().map(|&v| f64::from(v)).collect();
    let total: f64 = x.iter().map(|v| v.exp()).sum();
    let scores: Vec<f64> = match gate.score {
        GateScore::Sigmoid => x.iter().map(|v| 1.0 / (1.0 + (-v).exp())).collect(),
        GateScore::Softmax => x.iter().map(|v| v.exp() / total).collect(),
    };
    let mut ranked: Vec<f64> =
        scores.iter().enumerate().map(|(e, s)| s + f64::from(bias.get(e).copied().unwrap_or(0.0))).collect();
    let descending = |v: &[f64]| {
        let mut order: Vec<usize> = (0..v.len()).collect();
        order.sort_by(|&a, &b| v[b].partial_cmp(&v[a]).unwrap());
        order
    };
    if gate.groups > 1 {
        let size = gate.experts / gate.groups;
        let best: Vec<f64> = ranked
            .chunks(size)
            .map(|g| {
                let order = descending(g);
                let count = if gate.group_score == GroupScore::BestTwo { 2 } else { 1 };
                order.iter().take(count).map(|&i| g[i]).sum()
            })
            .collect();
        for &dropped in &descending(&best)[gate.groups_kept..] {
            ranked[dropped * size..(dropped + 1) * size].fill(f64::NEG_INFINITY);
        }
    }
    let mut ids: Vec<u32> = descending(&ranked)[..gate.k].iter().map(|&i| i as u32).collect();
    ids.sort_unstable();
    let sum: f64 = if gate.normalise { ids.iter().map(|&e| scores[e as usize]).sum() } else { 1.0 };
    let weights = ids.iter().map(|&e| scores[e as usize] / sum * f64::from(gate.scaling)).collect();
    (ids, weights)
}

#[test]
fn experts_and_weights_are_those_of_the_reference() {
    let grouped = Gate { groups: 3, groups_kept: 1, ..V2 };
    for (gate, biased) in [(V3, true), (V3, false), (V2, false), (grouped, false)] {
        let mut random = Random::new(1);
        let bias = if biased { random.numbers(gate.experts) } else { Vec::new() };
        let logits: Vec<f32> = random.numbers(200 * gate.experts).iter().map(|v| v * 4.0).collect();
        let mut routes = Routes::default();
        moe_gate(&gate, &logits, &bias, &mut routes).unwrap();
        for (row, logits) in logits.chunks(gate.experts).enumerate() {
            let (ids, weights) = reference(&gate, logits, &bias);
            let range = row * gate.k..(row + 1) * gate.k;
            if routes.margins[row] > 1e-5 {
                assert_eq!(routes.ids[range.clone()], ids);
                crate::testing::assert_close(&routes.weights[range], &weights, 1e-6);
            }
        }
    }
}

#[test]
fn ties_go_to_the_lower_group_and_expert() {
    let mut routes = Routes::default();
    moe_gate(&V3, &[0.5; 16], &[], &mut routes).unwrap();
    assert_eq!(routes.ids, [0, 1, 2, 3]);
    assert_eq!(routes.margins, [0.0]);
    assert!(routes.weights.iter().all(|&w| (w - 2.5 / 4.0).abs() < 1e-6));
}

#[test]
fn a_dropped_group_is_never_chosen_even_where_all_others_are_negative() {
    let gate = Gate { k: 8, ..V3 };
    // Biases push every kept expert below zero; a dropped group at 0 would win.
    let mut bias = [-5.0; 16];
    bias[8..].fill(-9.0);
    let mut routes = Routes::default();
    moe_gate(&gate, &[0.0; 16], &bias, &mut routes).unwrap();
    assert_eq!(routes.ids, [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn the_bias_ranks_but_does_not_weigh() {
    let gate = Gate { k: 1, groups: 1, normalise: false, scaling: 1.0, ..V3 };
    let mut bias = [0.0; 16];
    bias[11] = 3.0;
    let mut routes = Routes::default();
    moe_gate(&gate, &[0.0; 16], &bias, &mut routes).unwrap();
    assert_eq!((routes.ids.as_slice(), routes.weights.as_slice()), (&[11][..], &[0.5][..]));
}

#[test]
fn nothing_left_out_has_an_infinite_margin() {
    let gate = Gate { k: 16, groups: 1, ..V3 };
    let mut routes = Routes::default();
    moe_gate(&gate, &[0.0; 16], &[], &mut routes).unwrap();
    assert_eq!(routes.margins, [f32::INFINITY]);
    assert_eq!(routes.ids, (0..16).collect::<Vec<u32>>());
}

#[test]
fn a_nan_logit_is_an_error_of_its_own_row_only() {
    let mut logits = Random::new(2).numbers(3 * 16);
    let mut clean = Routes::default();
    moe_gate(&V3, &logits, &[], &mut clean).unwrap();
    logits[20] = f32::NAN;
    let mut routes = Routes::default();
    assert_eq!(moe_gate(&V3, &logits, &[], &mut routes).unwrap_err().row, 1);
    assert_eq!((&routes.ids[..4], &routes.ids[8..]), (&clean.ids[..4], &clean.ids[8..]));
    assert!(routes.weights[4..8].iter().all(|w| w.is_nan()));
}
