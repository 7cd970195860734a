//! The sampler: greedy, restricted sets, penalties, keys, and its distribution.

use super::*;
use crate::testing::Random;

const NONE: History<'_> = History { prompt: &[], output: &[], then: None };

fn logits(seed: u64, n: usize) -> Vec<f32> {
    Random::new(seed).numbers(n).iter().map(|v| v * 4.0).collect()
}

fn draw_at(logits: &[f32], params: &SamplingParams, history: History<'_>, index: u32) -> u32 {
    sample(logits, params, history, index, &mut SampleScratch::default()).unwrap().token
}

fn tokens(logits: &[f32], params: &SamplingParams, draws: u32) -> Vec<u32> {
    let mut scratch = SampleScratch::default();
    (0..draws).map(|i| sample(logits, params, NONE, i, &mut scratch).unwrap().token).collect()
}

fn greedy() -> SamplingParams {
    SamplingParams { temperature: 0.0, ..SamplingParams::default() }
}

fn order(logits: &[f32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| logits[b as usize].partial_cmp(&logits[a as usize]).unwrap());
    order
}

#[test]
fn greedy_takes_the_largest_and_the_lowest_id_of_equals() {
    assert_eq!(draw_at(&[0.0, 3.0, 1.0, 3.0], &greedy(), NONE, 0), 1);
    assert_eq!(draw_at(&[-0.0, 0.0], &greedy(), NONE, 0), 0);
    let tiny = SamplingParams { temperature: 1e-45, ..SamplingParams::default() };
    assert_eq!(draw_at(&[0.0, 3.0, 1.0, 3.0], &tiny, NONE, 0), 1);
}

#[test]
fn a_draw_depends_on_its_key_alone() {
    let logits = logits(1, 1000);
    let params = SamplingParams { seed: 42, ..SamplingParams::default() };
    let all = tokens(&logits, &params, 200);
    // Backwards, with other draws between: nothing is carried over.
    for i in (0..200).rev() {
        assert_eq!(draw_at(&logits, &params, NONE, i), all[i as usize]);
    }
    assert_ne!(all, tokens(&logits, &SamplingParams { seed: 43, ..params.clone() }, 200));
    assert_ne!(all, tokens(&logits, &SamplingParams { choice: 1, ..params }, 200));
}

#[test]
fn tokens_come_as_often_as_they_are_probable() {
    let logits = [2.0f32, 1.0, 0.0, -1.0, 1.0, -2.0];
    for temperature in [0.5f32, 1.0, 2.0] {
        let params = SamplingParams { temperature, seed: 7, ..SamplingParams::default() };
        let draws = 20_000;
        let mut counts = [0.0f64; 6];
        tokens(&logits, &params, draws).iter().for_each(|&t| counts[t as usize] += 1.0);
        let weights: Vec<f64> = logits.iter().map(|&l| f64::from(l / temperature).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let chi2: f64 = counts
            .iter()
            .zip(&weights)
            .map(|(c, w)| {
                let expected = w / sum * f64::from(draws);
                (c - expected).powi(2) / expected
            })
            .sum();
        // Five degrees of freedom: 25 is exceeded once in 7,000 seeds, and this seed is fixed.
        assert!(chi2 < 25.0, "temperature {temperature}: {chi2}");
    }
}

#[test]
fn top_k_keeps_the_best_k() {
    let logits = logits(2, 500);
    let best = order(&logits);
    for k in [1, 2, 10, 499, 500, 10_000] {
        let params = SamplingParams { temperature: 2.0, top_k: k, seed: 3, ..SamplingParams::default() };
        let drawn = tokens(&logits, &params, 300);
        assert!(drawn.iter().all(|t| best[..500.min(k as usize)].contains(t)), "{k}");
        if k == 1 {
            assert!(drawn.iter().all(|&t| t == best[0]));
        }
    }
    // Equal logits: the lower ids are the better ones.
    let params = SamplingParams { top_k: 3, seed: 3, ..SamplingParams::default() };
    let drawn = tokens(&[1.0; 50], &params, 100);
    assert!(drawn.iter().all(|&t| t < 3) && (0..3).all(|t| drawn.contains(&t)));
}

#[test]
fn top_p_keeps_the_shortest_run_that_reaches_it() {
    // Probabilities 0.5, 0.25, 0.125, 0.125.
    let logits = [0.0, 1.0, 2.0, 0.0].map(|l: f32| l * std::f32::consts::LN_2);
    for (top_p, kept) in
        [(0.1, vec![2]), (0.49, vec![2]), (0.6, vec![2, 1]), (0.8, vec![2, 1, 0]), (1.0, vec![2, 1, 0, 3])]
    {
        let params = SamplingParams { top_p, seed: 5, ..SamplingParams::default() };
        let drawn = tokens(&logits, &params, 400);
        assert!(drawn.iter().all(|t| kept.contains(t)), "{top_p}");
        assert!(kept.iter().all(|t| drawn.contains(t)), "{top_p}");
    }
}

#[test]
fn top_p_counts_what_top_k_left() {
    let logits = [0.0, 1.0, 2.0, 0.0].map(|l: f32| l * std::f32::consts::LN_2);
    // Of the two that are left, the best has 2/3.
    let params = SamplingParams { top_k: 2, top_p: 0.66, seed: 5, ..SamplingParams::default() };
    assert!(tokens(&logits, &params, 200).iter().all(|&t| t == 2));
    let params = SamplingParams { top_p: 0.68, ..params };
    assert!(tokens(&logits, &params, 200).contains(&1));
}

#[test]
fn min_p_keeps_what_is_likely_enough_beside_the_best() {
    let logits: Vec<f32> = (0..100).map(|i| -(i as f32) * 0.1).collect();
    let params = SamplingParams { min_p: 0.5, seed: 6, ..SamplingParams::default() };
    // e^-0.6 is above a half, e^-0.7 below.
    let drawn = tokens(&logits, &params, 400);
    assert!(drawn.iter().all(|&t| t <= 6) && drawn.contains(&6));
}

#[test]
fn sorting_only_part_gives_the_draws_of_sorting_all() {
    let logits = logits(3, 3000);
    let best = order(&logits);
    let params = SamplingParams { temperature: 1.5, seed: 9, ..SamplingParams::default() };
    let weights: Vec<f64> = logits.iter().map(|&l| f64::from(exp(l / 1.5 - logits[best[0] as usize] / 1.5))).collect();
    let mass: f64 = weights.iter().sum();
    for (i, token) in tokens(&logits, &params, 500).into_iter().enumerate() {
        let target = uniform(9, 0, i as u32) * mass;
        let mut reached = 0.0;
        let want = best.iter().find(|&&t| {
            reached += weights[t as usize];
            reached > target
        });
        assert_eq!(Some(&token), want);
    }
}

#[test]
fn penalties_weigh_on_tokens_seen() {
    let history = History { prompt: &[0], output: &[1, 1, 2], then: None };
    let with = |p: SamplingParams, logits: &[f32]| draw_at(logits, &p, history, 3);
    // Repetition counts prompt and output, and pushes either sign down.
    assert_eq!(with(SamplingParams { repetition_penalty: 2.0, ..greedy() }, &[3.0, 3.0, 3.0, 2.0]), 3);
    assert_eq!(with(SamplingParams { repetition_penalty: 2.0, ..greedy() }, &[-1.0, -1.0, -1.0, -1.5]), 3);
    // Frequency counts occurrences in the output; the prompt's token is untouched.
    assert_eq!(with(SamplingParams { frequency_penalty: 1.0, ..greedy() }, &[0.0, 3.5, 3.0, 0.0]), 2);
    assert_eq!(with(SamplingParams { frequency_penalty: 1.0, ..greedy() }, &[1.9, 3.5, 2.8, 0.0]), 0);
    // Presence counts once.
    assert_eq!(with(SamplingParams { presence_penalty: 1.0, ..greedy() }, &[0.0, 3.5, 3.0, 0.0]), 1);
    // The token that is not part of the output yet counts like the others.
    let ahead = History { prompt: &[0], output: &[1], then: Some(1) };
    let params = SamplingParams { frequency_penalty: 1.0, ..greedy() };
    assert_eq!(draw_at(&[0.0, 3.5, 2.0, 0.0], &params, ahead, 2), 2);
    assert_eq!(draw_at(&[0.0, 3.5, 2.0, 0.0], &params, History { then: None, ..ahead }, 1), 1);
    // Ids that the vocabulary lacks are no reason to fail.
    let strange = History { prompt: &[99], output: &[77], then: None };
    let params = SamplingParams { repetition_penalty: 2.0, logit_bias: vec![(88, 5.0)], ..greedy() };
    assert_eq!(draw_at(&[1.0, 2.0], &params, strange, 0), 1);
}

#[test]
fn bias_moves_a_token_and_min_tokens_keeps_stop_tokens_out() {
    let params = SamplingParams { logit_bias: vec![(2, 10.0)], ..greedy() };
    assert_eq!(draw_at(&[5.0, 1.0, 0.0], &params, NONE, 0), 2);
    let params = SamplingParams { min_tokens: 3, stop_token_ids: vec![0, 9], ..greedy() };
    assert_eq!(draw_at(&[5.0, 1.0, 0.0], &params, NONE, 2), 1);
    assert_eq!(draw_at(&[5.0, 1.0, 0.0], &params, NONE, 3), 0);
}

#[test]
fn log_probabilities_are_those_of_the_model() {
    let logits = logits(4, 300);
    let best = order(&logits);
    let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
    let want = |t: u32| (f64::from(logits[t as usize]).exp() / sum).ln();
    // Temperature, bias and restrictions do not enter.
    let params = SamplingParams { temperature: 0.3, top_k: 2, logprobs: Some(5), ..SamplingParams::default() };
    let got = sample(&logits, &params, NONE, 0, &mut SampleScratch::default()).unwrap();
    assert!((f64::from(got.logprob) - want(got.token)).abs() < 1e-5);
    assert_eq!(got.top.iter().map(|t| t.0).collect::<Vec<_>>(), best[..5]);
    assert!(got.top.iter().all(|&(t, p)| (f64::from(p) - want(t)).abs() < 1e-5));
    let none = sample(&logits, &greedy(), NONE, 0, &mut SampleScratch::default()).unwrap();
    assert!(none.top.is_empty());
    let zero = SamplingParams { logprobs: Some(0), ..greedy() };
    let zero = sample(&logits, &zero, NONE, 0, &mut SampleScratch::default()).unwrap();
    assert!(zero.top.is_empty() && zero.logprob < 0.0);
}

#[test]
fn what_is_no_number_is_an_error() {
    let mut scratch = SampleScratch::default();
    for bad in [f32::NAN, f32::INFINITY] {
        assert!(sample(&[0.0, bad, 1.0], &greedy(), NONE, 0, &mut scratch).is_err());
        assert!(sample(&[0.0, bad, 1.0], &SamplingParams::default(), NONE, 0, &mut scratch).is_err());
    }
    let nothing = [f32::NEG_INFINITY; 3];
    assert!(sample(&nothing, &greedy(), NONE, 0, &mut scratch).is_err());
    assert!(sample(&nothing, &SamplingParams::default(), NONE, 0, &mut scratch).is_err());
    assert!(sample(&[], &greedy(), NONE, 0, &mut scratch).is_err());
}

#[test]
fn excluded_tokens_are_never_drawn() {
    let mut logits = vec![f32::NEG_INFINITY; 100];
    logits[40] = 1.0;
    logits[70] = 0.0;
    let drawn = tokens(&logits, &SamplingParams { temperature: 2.0, ..SamplingParams::default() }, 200);
    assert!(drawn.iter().all(|t| [40, 70].contains(t)) && drawn.contains(&70));
}

#[test]
fn forced_tokens_are_taken_in_their_places_and_reported_like_any_other() {
    let logits = [0.0, 1.0, 2.0, 3.0];
    let plain = SamplingParams { logprobs: Some(2), ..greedy() };
    let all = SamplingParams { forced: vec![0, 2], ..plain.clone() };
    let at =
        |params: &SamplingParams, index| sample(&logits, params, NONE, index, &mut SampleScratch::default()).unwrap();
    assert_eq!([0, 1, 2].map(|index| at(&all, index).token), [0, 2, 3]);
    let (free, forced) = (at(&plain, 0), at(&all, 0));
    assert_eq!(forced.top, free.top);
    assert_eq!(forced.logprob, free.logprob - 3.0);
    assert_eq!(at(&SamplingParams { forced: vec![3], ..plain.clone() }, 0), free);
}

#[test]
fn a_forced_token_needs_no_leave_of_the_other_parameters() {
    let logits = [3.0, 1.0];
    let params = SamplingParams {
        forced: vec![1],
        logit_bias: vec![(1, -100.0)],
        top_k: 1,
        min_tokens: 5,
        stop_token_ids: vec![1],
        ..SamplingParams::default()
    };
    assert_eq!(draw_at(&logits, &params, NONE, 0), 1);
    assert_eq!(draw_at(&logits, &params, NONE, 1), 0);
}

#[test]
fn a_forced_token_that_the_vocabulary_lacks_is_an_error() {
    let params = SamplingParams { forced: vec![2], logprobs: Some(0), ..greedy() };
    assert!(sample(&[0.0, 1.0], &params, NONE, 0, &mut SampleScratch::default()).is_err());
}
