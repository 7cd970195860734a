//! What one worker does, behaviour by behaviour.

use std::time::Duration;

use hadal_types::{Attention, Part, SamplingParams};

use super::engine::{Fault, about};
use super::rig::{Rig, reference};
use crate::test_util::{config, generate, geometry, tokens};
use crate::{Command, Config, ConfigError, Event, FailureKind, FinishReason, Generate, RequestKey};

fn limited(id: &str, tokens: Vec<u32>, deadline: Duration) -> Generate {
    Generate { deadline: Some(deadline), ..generate(id, tokens, 8) }
}

fn forced(id: &str, forced: Vec<u32>) -> Generate {
    let plain = generate(id, tokens(1, 10), 8);
    Generate { sampling: SamplingParams { forced, ..plain.sampling }, ..plain }
}

#[test]
fn a_request_is_prefilled_in_chunks_and_decoded_to_its_length() {
    let mut rig = Rig::new(config(16));
    let (key, out) = rig.generate(generate("a", tokens(1, 300), 5));
    assert_eq!(out, [Command::Started { request: key, cached_tokens: 0, remote: false }]);
    assert_eq!(rig.run(), 2 + 4, "256 tokens, 44 tokens and the first sample, four decodes");
    assert_eq!(rig.finished(key), Some(FinishReason::Length));
    rig.assert_idle();
}

#[test]
fn it_works_without_an_index_part_and_with_owners_of_several_stores() {
    let mut rig = Rig::new(Config { geometry: geometry(3, false), pages: [0, 8], ..config(8) });
    let (key, _) = rig.generate(generate("a", tokens(1, 100), 40));
    rig.run();
    assert_eq!(rig.finished(key), Some(FinishReason::Length));
    assert_eq!(rig.ledger().parts.len(), 1);
    rig.assert_idle();
}

#[test]
fn a_stop_token_ends_the_output_once_min_tokens_are_there() {
    let mut rig = Rig::new(config(16));
    let plain = generate("a", tokens(1, 10), 30);
    let output = reference(rig.core.config(), &plain);
    let stop = output[4];
    let first = output.iter().position(|&t| t == stop).unwrap();
    let sampling = |min_tokens| SamplingParams { stop_token_ids: vec![stop], min_tokens, ..plain.sampling.clone() };
    let (early, _) = rig.generate(Generate { sampling: sampling(0), ..plain.clone() });
    rig.run();
    assert_eq!(rig.finished(early), Some(FinishReason::Stop { token: stop }));
    assert_eq!(rig.watched[&early].output, output[..=first]);
    let (late, _) = rig.generate(Generate { sampling: sampling(30), ..plain.clone() });
    rig.run();
    assert_eq!(rig.finished(late), Some(FinishReason::Length));
}

#[test]
fn a_prefix_is_reused_but_the_last_token_is_always_computed() {
    let mut rig = Rig::new(config(16));
    rig.generate(generate("a", tokens(1, 128), 1));
    rig.run();
    let (same, _) = rig.generate(generate("b", tokens(1, 128), 1));
    assert_eq!(rig.watched[&same].started, Some((64, false)));
    let (longer, _) = rig.generate(generate("c", [tokens(1, 128), vec![5]].concat(), 1));
    assert_eq!(rig.watched[&longer].started, Some((128, false)));
    let salted = Generate { salt: b"other".to_vec(), ..generate("d", tokens(1, 129), 1) };
    let (salted, _) = rig.generate(salted);
    assert_eq!(rig.watched[&salted].started, Some((0, false)), "another tenant's blocks are not seen");
    rig.run();
    rig.assert_idle();
}

#[test]
fn dense_requests_share_blocks_among_themselves_alone_and_the_plan_tells_them() {
    let mut rig = Rig::new(config(16));
    let dense = |id| Generate { attention: Attention::Dense, ..generate(id, tokens(1, 129), 1) };
    rig.generate(generate("a", tokens(1, 129), 1));
    rig.run();
    let (first, _) = rig.generate(dense("b"));
    assert_eq!(rig.watched[&first].started, Some((0, false)));
    rig.generate(generate("c", tokens(1, 129), 1));
    rig.begin_step();
    let planned: Vec<_> = rig.plan.slices().iter().map(|s| (s.request == first, s.attention)).collect();
    assert_eq!(planned, [(false, Attention::Sparse), (true, Attention::Dense)]);
    rig.end_step(Fault::None, &mut |_, _| ());
    let (again, _) = rig.generate(dense("d"));
    assert_eq!(rig.watched[&again].started, Some((128, false)));
    rig.run();
    rig.assert_idle();
}

#[test]
fn the_overlap_of_choices_is_asked_for_where_a_row_is_sampled() {
    let mut rig = Rig::new(config(16));
    let plain = generate("a", tokens(1, 300), 3);
    let sampling = SamplingParams { logprobs: Some(0), choice_overlap: true, ..plain.sampling.clone() };
    rig.generate(Generate { sampling, ..plain });
    rig.generate(generate("b", tokens(2, 10), 3));
    let mut asked = Vec::new();
    while rig.begin_step().is_empty() && rig.stepping {
        asked.push(rig.plan.slices().iter().map(|s| s.choice_overlap).collect::<Vec<_>>());
        rig.end_step(Fault::None, &mut |_, _| ());
    }
    // A chunk that is not sampled, the end of the prompt beside the other's decode, then decodes of one or both.
    assert_eq!(asked[0], [false]);
    assert!(asked[1..].iter().all(|step| step.contains(&true)), "{asked:?}");
    assert!(asked[1..].iter().all(|step| step.iter().filter(|a| **a).count() == 1), "{asked:?}");
}

#[test]
fn decoded_blocks_are_cached_too() {
    let mut rig = Rig::new(config(16));
    let first = generate("a", tokens(1, 60), 70);
    let output = reference(rig.core.config(), &first);
    rig.generate(first);
    rig.run();
    let (next, _) = rig.generate(generate("b", [tokens(1, 60), output, vec![1]].concat(), 1));
    assert_eq!(rig.watched[&next].started, Some((128, false)));
}

#[test]
fn a_continuation_goes_on_counting_and_gives_the_same_tokens() {
    let mut rig = Rig::new(config(16));
    let whole = generate("a", tokens(3, 90), 20);
    let output = reference(rig.core.config(), &whole);
    let tokens = [&whole.tokens[..], &output[..7]].concat();
    let (key, _) = rig.generate(Generate { tokens, ..whole });
    rig.run();
    assert_eq!(rig.watched[&key].output, output);
    assert_eq!(rig.finished(key), Some(FinishReason::Length));
}

#[test]
fn decodes_go_on_while_a_long_prompt_is_computed_in_bounded_chunks() {
    let mut rig = Rig::new(Config { chunk_tokens_max: 64, ..config(32) });
    let (decode, _) = rig.generate(generate("a", tokens(1, 10), 50));
    rig.step();
    rig.generate(generate("b", tokens(2, 640), 1));
    for steps in 1..=10 {
        rig.step();
        assert_eq!(rig.watched[&decode].output.len(), 1 + steps);
        assert_eq!((rig.plan.load().decode_tokens, rig.plan.load().prefill_tokens), (1, 64));
    }
    rig.run();
    rig.assert_idle();
}

#[test]
fn several_prompts_share_a_step() {
    let mut rig = Rig::new(config(16));
    for id in ["a", "b", "c"] {
        rig.generate(generate(id, tokens(u32::from(id.as_bytes()[0]), 50), 1));
    }
    assert_eq!(rig.run(), 1);
    rig.assert_idle();
}

#[test]
fn what_memory_cannot_hold_now_is_busy_and_what_it_never_can_is_invalid() {
    let mut rig = Rig::new(config(4));
    rig.generate(generate("a", tokens(1, 130), 8));
    let (busy, _) = rig.generate(generate("b", tokens(2, 64), 8));
    assert_eq!(rig.failure(busy), Some(FailureKind::Busy), "one block is free, and it would need one to grow");
    let (fits, _) = rig.generate(generate("c", tokens(2, 50), 8));
    assert_eq!(rig.failure(fits), None);
    let (huge, _) = rig.generate(generate("d", tokens(3, 200), 57));
    assert_eq!(rig.failure(huge), Some(FailureKind::Invalid));
    rig.run();
    rig.assert_idle();
}

#[test]
fn bad_requests_are_refused_with_the_reason() {
    let mut rig = Rig::new(Config { context_tokens: 100, requests_max: 2, ..config(16) });
    rig.generate(generate("same", tokens(1, 10), 8));
    let good = generate("x", tokens(1, 10), 8);
    let cases = [
        (generate("same", tokens(1, 10), 8), FailureKind::Busy, "same is in use"),
        (generate("x", Vec::new(), 8), FailureKind::Invalid, "at least 1"),
        (Generate { prompt_tokens: 11, ..good.clone() }, FailureKind::Invalid, "11 of 10"),
        (generate("x", tokens(1, 10), 91), FailureKind::Invalid, "101 tokens"),
        (generate("x", vec![1, 1000], 8), FailureKind::Invalid, "token 1 is 1000"),
        (Generate { prompt_tokens: 2, ..good.clone() }, FailureKind::Invalid, "8 of max_tokens 8"),
        (generate("x", tokens(1, 10), 0), FailureKind::Invalid, "max_tokens"),
        (limited("x", tokens(1, 10), Duration::ZERO), FailureKind::Deadline, "over"),
        (forced("x", vec![1, 1000]), FailureKind::Invalid, "forced token 1000"),
        (forced("x", vec![1; 9]), FailureKind::Invalid, "9 forced tokens"),
    ];
    for (request, kind, message) in cases {
        let mut out = Vec::new();
        let key = RequestKey(1000 + rig.watched.len() as u64);
        let mut alone = crate::Core::new(rig.core.config().clone()).unwrap();
        alone.on(rig.now, Event::Generate(RequestKey(1), generate("same", tokens(1, 10), 8)), &mut Vec::new());
        alone.on(rig.now, Event::Generate(key, request), &mut out);
        let [Command::Failed { failure, .. }] = &out[..] else { panic!("{message}: {out:?}") };
        assert_eq!(failure.kind, kind);
        assert!(failure.to_string().contains(message), "{failure}");
    }
    rig.generate(good);
    let (more, _) = rig.generate(generate("y", tokens(1, 10), 8));
    assert_eq!(rig.failure(more), Some(FailureKind::Busy));
}

#[test]
fn a_cancelled_request_keeps_the_pages_of_a_step_under_way_until_it_is_over() {
    let mut rig = Rig::new(config(8));
    let (key, _) = rig.generate(generate("a", tokens(1, 100), 8));
    rig.begin_step();
    assert_eq!(rig.on(Event::Cancel(key)), []);
    assert!(rig.ledger().parts.iter().all(|p| p.pages_free == 6));
    rig.end_step(Fault::None, &mut |_, _| ());
    assert_eq!(rig.failure(key), Some(FailureKind::Cancelled));
    assert_eq!(rig.watched[&key].output, []);
    rig.assert_idle();
}

#[test]
fn a_cancelled_request_outside_a_step_ends_at_once() {
    let mut rig = Rig::new(config(8));
    let (key, _) = rig.generate(generate("a", tokens(1, 100), 8));
    let out = rig.on(Event::Cancel(key));
    assert!(matches!(&out[..], [Command::Failed { failure, .. }] if failure.kind == FailureKind::Cancelled));
    assert_eq!(rig.on(Event::Cancel(key)), [], "once");
    rig.assert_idle();
}

#[test]
fn a_deadline_ends_a_request_whether_it_is_ticked_or_planned() {
    let mut rig = Rig::new(config(8));
    let at = rig.now + Duration::from_secs(1);
    let (ticked, _) = rig.generate(limited("a", tokens(1, 100), at));
    assert_eq!(rig.core.next_deadline(), Some(at));
    rig.on(Event::Tick);
    assert_eq!(rig.failure(ticked), None);
    rig.now = at;
    rig.on(Event::Tick);
    assert_eq!(rig.failure(ticked), Some(FailureKind::Deadline));
    let (planned, _) = rig.generate(limited("a", tokens(1, 100), at + Duration::from_secs(1)));
    rig.now += Duration::from_secs(2);
    assert!(!rig.step());
    assert_eq!(rig.failure(planned), Some(FailureKind::Deadline));
    rig.assert_idle();
}

#[test]
fn the_youngest_is_preempted_and_recomputed_with_the_same_tokens() {
    let mut rig = Rig::new(config(4));
    let (old, _) = rig.generate(generate("old", tokens(1, 60), 120));
    let (young, _) = rig.generate(generate("young", tokens(2, 60), 120));
    let (late, _) = loop {
        rig.step();
        if rig.core.stats().preemptions > 0 {
            break rig.generate(generate("late", tokens(3, 10), 8));
        }
    };
    assert!(rig.core.requests[&young].is_waiting());
    let tokens_young = rig.core.requests[&young].tokens.len() as u64;
    assert_eq!(rig.core.prefill_tokens_queued(), tokens_young, "all of it is to be computed again");
    assert_eq!(rig.failure(late), Some(FailureKind::Busy), "nothing new while one waits for memory");
    rig.run();
    assert_eq!(rig.finished(old), Some(FinishReason::Length));
    assert_eq!(rig.finished(young), Some(FinishReason::Length));
    rig.assert_idle();
}

#[test]
fn not_a_number_ends_that_request_alone_and_caches_nothing_of_it() {
    let mut rig = Rig::new(config(8));
    let (bad, _) = rig.generate(generate("a", tokens(1, 64), 8));
    let (good, _) = rig.generate(generate("b", tokens(2, 64), 8));
    rig.begin_step();
    rig.end_step(Fault::NotFinite, &mut |_, _| ());
    assert_eq!(rig.failure(bad), Some(FailureKind::Numerics));
    assert_eq!(rig.core.snapshot().blocks.len(), 1);
    rig.run();
    assert_eq!(rig.finished(good), Some(FinishReason::Length));
    rig.assert_idle();
}

#[test]
fn a_failed_step_ends_its_requests_and_no_others() {
    let mut rig = Rig::new(config(8));
    let (a, _) = rig.generate(generate("a", tokens(1, 64), 8));
    rig.begin_step();
    let (b, _) = rig.generate(generate("b", tokens(2, 64), 8));
    let out = rig.end_step(Fault::Step, &mut |_, _| ());
    let [Command::Failed { failure, .. }] = &about(&out, a)[..] else { panic!("{out:?}") };
    assert!(failure.retryable && failure.worker_fault);
    rig.run();
    assert_eq!(rig.finished(b), Some(FinishReason::Length));
    rig.assert_idle();
}

#[test]
fn draining_refuses_what_is_new_and_finishes_what_runs() {
    let mut rig = Rig::new(config(8));
    let (running, _) = rig.generate(generate("a", tokens(1, 64), 8));
    assert_eq!(rig.on(Event::Drain), []);
    let (new, _) = rig.generate(generate("b", tokens(1, 64), 8));
    assert_eq!(rig.failure(new), Some(FailureKind::Draining));
    let mut drained = 0;
    while drained == 0 {
        rig.begin_step();
        let out = rig.end_step(Fault::None, &mut |_, _| ());
        drained = out.iter().filter(|c| **c == Command::Drained).count();
    }
    assert_eq!(rig.finished(running), Some(FinishReason::Length));
    assert_eq!(rig.on(Event::Tick), [], "told once");
}

#[test]
fn two_that_compute_the_same_prompt_end_up_with_one_copy() {
    let mut rig = Rig::new(config(8));
    rig.generate(generate("a", tokens(1, 100), 8));
    rig.generate(generate("b", tokens(1, 100), 8));
    rig.step();
    assert!(rig.ledger().parts.iter().all(|p| p.pages_free == 8 - 3));
    rig.run();
    rig.assert_idle();
}

#[test]
fn time_of_the_phases_is_told() {
    let mut rig = Rig::new(config(8));
    let (key, _) = rig.generate(generate("a", tokens(1, 10), 3));
    let mut finished = None;
    while finished.is_none() {
        rig.begin_step();
        rig.now += Duration::from_millis(10);
        let out = rig.end_step(Fault::None, &mut |_, _| ());
        finished = about(&out, key).into_iter().find_map(|c| match c {
            Command::Finished { prefill_us, decode_us, .. } => Some((prefill_us, decode_us)),
            _ => None,
        });
    }
    assert_eq!(finished, Some((10_000, 20_000)));
}

#[test]
fn sampling_sees_prompt_and_output_apart_and_the_plan_tells_its_size() {
    let mut rig = Rig::new(config(8));
    let whole = generate("a", tokens(1, 70), 9);
    let output = reference(rig.core.config(), &whole);
    let (key, _) = rig.generate(Generate { tokens: [&whole.tokens[..], &output[..2]].concat(), ..whole.clone() });
    rig.begin_step();
    let load = rig.plan.load();
    assert_eq!((load.prefill_tokens, load.decode_tokens, load.context_tokens), (72, 0, 72 * 73 / 2));
    let inputs = rig.core.sample_inputs(key).unwrap();
    assert_eq!((inputs.prompt, inputs.output), (&whole.tokens[..], &output[..2]));
    rig.end_step(Fault::None, &mut |_, _| ());
    rig.begin_step();
    let load = rig.plan.load();
    assert_eq!((load.prefill_tokens, load.decode_tokens, load.context_tokens), (0, 1, 73));
    assert!(rig.core.sample_inputs(RequestKey(99)).is_none());
}

#[test]
fn the_ledger_counts_bytes_by_part() {
    let rig = Rig::new(config(8));
    let ledger = rig.ledger();
    assert_eq!((ledger.weights_bytes, ledger.workspace_bytes), (1000, 100));
    assert_eq!(ledger.part(Part::Index).unwrap().page_bytes, 2 * 64 * 4);
    assert_eq!(ledger.part(Part::Latent).unwrap().page_bytes, 2 * 64 * 8);
    assert_eq!(ledger.tokens_max(), 8 * 64);
}

#[test]
fn a_configuration_that_contradicts_itself_is_refused() {
    let error = |config: Config| config.validate().unwrap_err();
    let step = Config { step_tokens_max: 16, ..config(8) };
    assert_eq!(error(step), ConfigError::StepTooSmall { step: 16, requests: 16 });
    assert_eq!(error(Config { pages: [0, 8], ..config(8) }), ConfigError::NoPages { part: "index" });
    assert_eq!(error(Config { vocab_tokens: 0, ..config(8) }), ConfigError::Zero { name: "vocab_tokens" });
    let mut windowed = config(8);
    windowed.geometry.stores[1].keep = hadal_types::Keep::Window(128);
    assert_eq!(error(windowed), ConfigError::NotAppend { store: 1 });
    let mut empty = config(8);
    empty.geometry.stores.clear();
    assert_eq!(error(empty), ConfigError::NoStore);
}
