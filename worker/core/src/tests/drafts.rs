//! Drafts: two tokens a step where they are right, and never at the cost of anybody.

use std::time::Duration;

use hadal_types::{Part, SamplingParams};
use proptest::prelude::*;

use super::engine::Fault;
use super::pair::Pair;
use super::rig::{Rig, reference};
use crate::test_util::{config, drafting, generate, tokens};
use crate::{Config, Event, FailureKind, FinishReason, Follow, Generate, RequestKey, Sampled, SliceResult, Tokens};

/// A worker whose drafts are right so often.
fn rig(config: Config, right: u64) -> Rig {
    let mut rig = Rig::new(config);
    rig.engine.right = right;
    rig
}

/// Tries and hits so far.
fn drafts(rig: &Rig) -> (u64, u64) {
    let stats = rig.core.stats();
    (stats.drafts_proposed, stats.drafts_accepted)
}

/// Start, rows and whether there is a draft, of each slice.
fn slices(rig: &Rig) -> Vec<(u32, usize, bool)> {
    rig.plan.slices().iter().map(|s| (s.start, rig.plan.tokens(s).len(), s.draft)).collect()
}

#[test]
fn right_drafts_give_two_tokens_a_step_and_wrong_ones_one() {
    for (right, steps, expected) in [(100, 1 + 4, (4, 4)), (0, 1 + 8, (7, 0))] {
        let mut rig = rig(drafting(16), right);
        let (key, _) = rig.generate(generate("a", tokens(1, 60), 9));
        assert_eq!(rig.run(), steps, "the prompt with its token, then the others");
        assert_eq!(rig.finished(key), Some(FinishReason::Length));
        assert_eq!(drafts(&rig), expected);
        rig.assert_idle();
    }
}

#[test]
fn a_worker_without_a_draft_layer_tries_nothing() {
    let mut rig = rig(config(16), 100);
    rig.generate(generate("a", tokens(1, 60), 17));
    assert_eq!((rig.run(), drafts(&rig), rig.core.drafting()), (17, (0, 0), false));
}

#[test]
fn what_was_sampled_after_the_end_is_dropped() {
    let plain = generate("a", tokens(1, 10), 30);
    let output = reference(&config(16), &plain);
    for end in [4, 5] {
        let mut rig = rig(drafting(16), 100);
        let stop = output[end];
        let first = output.iter().position(|&t| t == stop).unwrap();
        let sampling = SamplingParams { stop_token_ids: vec![stop], ..plain.sampling.clone() };
        let (key, _) = rig.generate(Generate { sampling, ..plain.clone() });
        rig.run();
        assert_eq!(rig.finished(key), Some(FinishReason::Stop { token: stop }));
        assert_eq!(rig.watched[&key].output, output[..=first]);
        rig.assert_idle();
    }
}

#[test]
fn where_one_token_may_come_nothing_is_tried_or_written_ahead() {
    let mut rig = rig(drafting(16), 100);
    rig.generate(generate("a", tokens(1, 60), 4));
    let mut seen = Vec::new();
    while rig.begin_step().is_empty() && rig.stepping {
        seen.push(rig.plan.slices().iter().map(|s| (s.draft, s.follow)).next().unwrap());
        rig.end_step(Fault::None, &mut |_, _| ());
    }
    assert_eq!(seen, [(false, Follow::Draft), (true, Follow::Draft), (false, Follow::Nothing)]);
}

#[test]
fn a_request_that_is_measured_row_by_row_has_no_drafts_but_its_rows() {
    let mut rig = rig(drafting(16), 100);
    let plain = generate("a", tokens(1, 60), 10);
    let sampling = SamplingParams { logprobs: Some(0), choice_overlap: true, ..plain.sampling.clone() };
    rig.generate(Generate { sampling, ..plain });
    rig.begin_step();
    assert_eq!(rig.plan.slices()[0].follow, Follow::Row);
    rig.end_step(Fault::None, &mut |_, _| ());
    assert_eq!((rig.run(), drafts(&rig)), (9, (0, 0)));
}

#[test]
fn forced_tokens_are_tried_and_always_right() {
    let mut rig = rig(drafting(16), 0);
    let plain = generate("a", tokens(1, 60), 41);
    let sampling = SamplingParams { forced: tokens(9, 41), ..plain.sampling.clone() };
    let (key, _) = rig.generate(Generate { sampling, ..plain });
    assert_eq!(rig.run(), 1 + 20);
    assert_eq!(rig.watched[&key].output, tokens(9, 41));
    assert_eq!(drafts(&rig), (20, 20));
}

#[test]
fn what_follows_cached_rows_or_a_chunk_begins_a_token_early() {
    let mut rig = rig(drafting(16), 100);
    rig.generate(generate("a", tokens(1, 300), 4));
    let mut starts = Vec::new();
    for _ in 0..3 {
        rig.begin_step();
        starts.extend(slices(&rig));
        rig.end_step(Fault::None, &mut |_, _| ());
    }
    assert_eq!(starts, [(0, 256, false), (255, 45, false), (300, 2, true)]);
    rig.run();
    rig.generate(generate("b", tokens(1, 300), 4));
    rig.begin_step();
    assert_eq!(slices(&rig), [(255, 45, false)]);
    rig.end_step(Fault::None, &mut |_, _| ());
    rig.run();
    // One token is left, and its row takes two.
    rig.generate(generate("c", tokens(1, 257), 4));
    rig.begin_step();
    assert_eq!(slices(&rig), [(255, 2, false)]);
}

#[test]
fn rows_that_arrived_go_on_with_draft_rows() {
    let mut pair = Pair::new([drafting(16), drafting(16)]);
    for (i, length) in [200, 129, 193, 66].into_iter().enumerate() {
        let request = Generate { prefill: true, ..generate(&format!("r{i}"), tokens(i as u32, length), 70) };
        let key = pair.generate(0, request);
        pair.settle();
        assert_eq!(pair.workers[0].finished(key), Some(FinishReason::Length));
    }
    assert!(drafts(&pair.workers[0]).1 > 0);
    pair.workers.iter().for_each(Rig::assert_idle);
}

#[test]
fn drafts_make_room_for_decodes_and_prompts() {
    let limits = Config { requests_max: 4, step_tokens_max: 7, chunk_tokens_max: 2, ..drafting(16) };
    let mut rig = rig(limits, 100);
    for i in 0..3 {
        rig.generate(generate(&format!("r{i}"), tokens(i, 3), 40));
    }
    (0..4).for_each(|_| _ = rig.step());
    rig.begin_step();
    assert_eq!(rig.plan.load().draft_tokens, 3, "{:?}", slices(&rig));
    rig.end_step(Fault::None, &mut |_, _| ());
    rig.generate(generate("prompt", tokens(9, 100), 1));
    rig.begin_step();
    let load = rig.plan.load();
    assert_eq!((load.decode_tokens, load.draft_tokens, load.prefill_tokens), (3, 2, 2));
    rig.end_step(Fault::None, &mut |_, _| ());
    rig.run();
    rig.assert_idle();
}

#[test]
fn no_request_loses_its_pages_to_a_draft() {
    // Two blocks each, and a request ends its second: a draft would need a third.
    let mut rig = rig(drafting(4), 100);
    let (old, _) = rig.generate(generate("old", tokens(1, 120), 8));
    let (young, _) = rig.generate(generate("young", tokens(2, 100), 20));
    rig.run();
    assert_eq!((rig.finished(old), rig.finished(young)), (Some(FinishReason::Length), Some(FinishReason::Length)));
    assert_eq!(rig.core.stats().preemptions, 0);
    // Here the last page of the pool would be the draft's.
    let mut short = self::rig(drafting(3), 100);
    short.generate(generate("old", tokens(1, 61), 60));
    short.generate(generate("young", tokens(2, 61), 3));
    short.step();
    for _ in 0..2 {
        short.begin_step();
        let free = short.ledger().parts.iter().map(|p| p.pages_available()).min();
        assert_eq!(short.core.stats().preemptions, 0, "{free:?} {:?}", slices(&short));
        short.end_step(Fault::None, &mut |_, _| ());
    }
    short.run();
    short.assert_idle();
}

#[test]
fn a_preempted_request_begins_again_without_what_it_had_ahead() {
    let mut rig = rig(drafting(4), 70);
    let (old, _) = rig.generate(generate("old", tokens(1, 60), 120));
    let (young, _) = rig.generate(generate("young", tokens(2, 60), 120));
    rig.run();
    assert!(rig.core.stats().preemptions > 0 && drafts(&rig).1 > 0);
    for key in [old, young] {
        assert_eq!(rig.finished(key), Some(FinishReason::Length));
    }
    rig.assert_idle();
}

#[test]
fn an_engine_that_takes_a_wrong_draft_is_found_out() {
    let mut rig = rig(drafting(16), 0);
    let (key, _) = rig.generate(generate("a", tokens(1, 60), 17));
    rig.step();
    rig.begin_step();
    assert!(rig.plan.slices()[0].draft);
    let Some(&tried) = rig.plan.tokens(&rig.plan.slices()[0]).last() else { panic!("a draft") };
    let sampled = |token| Sampled { token, logprobs: None };
    let tokens = Tokens { first: sampled(tried ^ 1), second: Some(sampled(5)), draft: None };
    let mut out = Vec::new();
    rig.core.step_done(rig.now, &[SliceResult::Tokens(tokens)], &mut out);
    assert!(out.iter().any(|c| matches!(c, crate::Command::Failed { request, failure }
        if *request == key && failure.kind == FailureKind::Internal)));
}

#[test]
fn a_cancelled_request_gives_back_the_pages_of_its_draft() {
    let mut rig = rig(drafting(8), 100);
    let (key, _) = rig.generate(generate("a", tokens(1, 63), 60));
    rig.step();
    rig.begin_step();
    rig.on(Event::Cancel(key));
    rig.end_step(Fault::None, &mut |_, _| ());
    assert_eq!(rig.failure(key), Some(FailureKind::Cancelled));
    rig.assert_idle();
}

#[test]
fn the_largest_step_counts_drafts() {
    let limits = Config { requests_max: 4, ..drafting(16) };
    assert_eq!(limits.decode_step_max(10).draft_tokens, 4);
    assert_eq!(Config { requests_max: 4, ..config(16) }.decode_step_max(10).draft_tokens, 0);
}

/// What a worker's steps cost and how good its drafts are.
#[derive(Clone, Copy, Debug)]
struct World {
    step_us: u64,
    row_us: u64,
    right: u64,
}

/// Runs decodes of this many requests for so many steps. Gives tokens a second.
fn pace(rig: &mut Rig, world: World, requests: usize, steps: usize) -> f64 {
    rig.engine.right = world.right;
    let began = rig.now;
    let counted = |rig: &Rig| rig.watched.values().map(|w| w.output.len()).sum::<usize>();
    let before = counted(rig);
    for _ in 0..steps {
        while rig.core.requests.len() < requests {
            let id = format!("r{}", rig.watched.len());
            rig.generate(generate(&id, tokens(rig.watched.len() as u32, 3), 60));
            rig.step();
        }
        rig.begin_step();
        rig.now += Duration::from_micros(world.step_us + world.row_us * u64::from(rig.plan.load().rows()));
        rig.end_step(Fault::None, &mut |_, _| ());
    }
    (counted(rig) - before) as f64 / (rig.now - began).as_secs_f64()
}

/// Tokens a second of a step with and without drafts, on paper.
fn paces(world: World, requests: f64) -> [f64; 2] {
    let step = |rows: f64| world.step_us as f64 + world.row_us as f64 * rows;
    let hits = world.right as f64 / 100.0;
    [requests * (1.0 + hits) / step(2.0 * requests), requests / step(requests)].map(|pace| pace * 1e6)
}

fn world_of_two() -> Config {
    Config { step_tokens_max: 64, requests_max: 8, ..drafting(64) }
}

#[test]
fn drafts_that_never_hit_are_given_up_but_for_trials() {
    let mut rig = rig(world_of_two(), 0);
    let world = World { step_us: 100, row_us: 100, right: 0 };
    pace(&mut rig, world, 2, 200);
    let before = drafts(&rig).0;
    let tokens = pace(&mut rig, world, 2, 2000);
    assert!(!rig.core.drafting());
    assert!(drafts(&rig).0 - before < 2 * 2000 / 30, "{} of 4000", drafts(&rig).0 - before);
    assert!(tokens > 0.9 * paces(world, 2.0)[1], "{tokens} of {:?}", paces(world, 2.0));
}

#[test]
fn the_better_way_is_found_again_when_things_change() {
    let mut rig = rig(world_of_two(), 0);
    let good = World { step_us: 400, row_us: 20, right: 90 };
    let bad = World { step_us: 20, row_us: 200, right: 10 };
    for (world, drafting) in [(good, true), (bad, false), (good, true), (bad, false)] {
        pace(&mut rig, world, 4, 1500);
        let best = paces(world, 4.0).into_iter().fold(0.0, f64::max);
        let tokens = pace(&mut rig, world, 4, 1500);
        assert_eq!(rig.core.drafting(), drafting, "{world:?}");
        assert!(tokens > 0.85 * best, "{tokens} of {best}: {world:?}");
    }
}

#[test]
fn each_batch_size_has_its_own_way() {
    // Alone a row is nearly free; with eight, rows are what a step costs.
    let mut rig = rig(Config { requests_max: 16, ..world_of_two() }, 30);
    let small = World { step_us: 500, row_us: 30, right: 30 };
    let large = World { step_us: 0, row_us: 100, right: 30 };
    for _ in 0..3 {
        pace(&mut rig, small, 1, 100);
        pace(&mut rig, large, 8, 100);
    }
    assert!(!rig.core.drafting());
    while rig.core.requests.len() > 1 {
        let youngest: RequestKey = *rig.core.requests.keys().next_back().unwrap();
        rig.on(Event::Cancel(youngest));
    }
    pace(&mut rig, small, 1, 20);
    assert!(rig.core.drafting());
    assert!(rig.ledger().part(Part::Index).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_better_way_wins(step_us in 0..500u64, row_us in 1..200u64, right in 0..101u64, requests in 1..9usize) {
        let world = World { step_us, row_us, right };
        let mut rig = rig(Config { requests_max: 16, ..world_of_two() }, right);
        pace(&mut rig, world, requests, 300);
        let tokens = pace(&mut rig, world, requests, 1200);
        let [with, without] = paces(world, requests as f64);
        // Requests come and go, whose first and last steps have no drafts.
        prop_assert!(tokens > 0.8 * with.max(without), "{tokens} of {with} and {without}");
    }
}

#[test]
fn a_trial_that_measures_nothing_decides_nothing() {
    // Most are measured row by row and try no draft; those of the others are right and nearly free.
    let mut rig = rig(Config { requests_max: 16, ..drafting(600) }, 100);
    for i in 0..8 {
        let mut g = generate(&format!("r{i}"), tokens(i, 3), 1000);
        if i < 5 {
            g.sampling = SamplingParams { logprobs: Some(0), choice_overlap: true, ..g.sampling };
        }
        rig.generate(g);
    }
    let mut on = 0;
    for _ in 0..400 {
        rig.begin_step();
        on += usize::from(rig.core.drafting());
        rig.now += Duration::from_micros(500 + u64::from(rig.plan.load().rows()));
        rig.end_step(Fault::None, &mut |_, _| ());
    }
    assert!(on > 350, "{on} of 400 steps");
}
