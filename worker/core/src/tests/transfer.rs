//! Prefill on another worker, behaviour by behaviour. Worker 0 owns, worker 1 prefills.

use std::time::Duration;

use hadal_types::{Attention, LeaseId, RequestId, StoreId};

use super::engine::Fault;
use super::pair::{Packet, Pair};
use super::rig::Rig;
use crate::test_util::{config, drafting, generate, geometry, tokens};
use crate::{Command, Config, Event, FailureKind, FinishReason, Generate, Prefill, Unexpected};

fn pair() -> Pair {
    Pair::new([config(16), config(16)])
}

fn remote(id: &str, tokens: Vec<u32>) -> Generate {
    Generate { prefill: true, ..generate(id, tokens, 10) }
}

fn job(lease: u128, tokens: Vec<u32>, blocks_held: u32) -> Prefill {
    Prefill {
        id: RequestId::new("job").unwrap(),
        lease: LeaseId(lease),
        tokens,
        blocks_held,
        salt: Vec::new(),
        attention: Attention::Sparse,
        deadline: None,
        lease_until: Duration::from_secs(100),
    }
}

/// The blocks in the order in which they were handed out.
fn sent(out: &[Command]) -> Vec<(u32, u32, u32)> {
    let block = |c: &Command| match c {
        Command::SendBlock { store, block, rows, .. } => Some((store.0, *block, *rows)),
        _ => None,
    };
    out.iter().filter_map(block).collect()
}

#[test]
fn a_prompt_prefilled_elsewhere_decodes_to_the_same_tokens() {
    let mut p = pair();
    let key = p.generate(0, remote("a", tokens(1, 200)));
    p.settle();
    assert_eq!(p.workers[0].finished(key), Some(FinishReason::Length));
    assert_eq!(p.workers[0].watched[&key].started, Some((0, true)));
    assert_eq!(p.workers[0].core.stats().legs_failed, 0);
    p.workers.iter().for_each(Rig::assert_idle);
}

#[test]
fn a_prompt_of_whole_blocks_and_a_model_without_index_work_too() {
    let model = |pages| Config { geometry: geometry(3, false), pages: [0, pages], ..config(pages) };
    let mut p = Pair::new([model(8), model(8)]);
    let whole = p.generate(0, remote("a", tokens(1, 129)));
    p.settle();
    let aligned = p.generate(0, remote("b", tokens(2, 128)));
    p.settle();
    for key in [whole, aligned] {
        assert_eq!(p.workers[0].finished(key), Some(FinishReason::Length));
    }
    p.workers.iter().for_each(Rig::assert_idle);
}

#[test]
fn blocks_that_the_owner_has_are_not_sent_and_the_larger_hit_is_told() {
    let mut p = pair();
    p.generate(0, generate("warm-owner", tokens(1, 70), 1));
    p.generate(1, generate("warm-peer", tokens(1, 140), 1));
    p.settle();
    let key = p.generate(0, remote("a", tokens(1, 300)));
    let Some((_, Packet::Start(start))) = p.network.front() else { panic!("a prefill starts") };
    assert_eq!((start.blocks_held, start.tokens.len()), (1, 299));
    p.settle();
    assert_eq!(p.workers[0].watched[&key].started, Some((128, true)));
    assert_eq!(p.workers[0].finished(key), Some(FinishReason::Length));
}

#[test]
fn a_short_rest_is_computed_by_the_owner() {
    let mut p = pair();
    let short = p.generate(0, remote("a", tokens(1, 32)));
    assert_eq!(p.workers[0].watched[&short].started, Some((0, false)));
    p.settle();
    p.generate(0, generate("b", tokens(2, 129), 1));
    p.settle();
    let rest = p.generate(0, remote("c", tokens(2, 150)));
    assert_eq!(p.workers[0].watched[&rest].started, Some((128, false)));
    p.settle();
    assert!(p.links.is_empty());
}

#[test]
fn layers_leave_in_order_with_the_index_first_and_the_partial_block_last() {
    let mut rig = Rig::new(config(16));
    let (key, out) = rig.prefill(job(1, tokens(1, 130), 0));
    assert_eq!(out, [Command::PrefillAccepted { request: key, cached_tokens: 0 }]);
    rig.on(Event::SendCredit { request: key, bytes: u64::MAX });
    rig.begin_step();
    let out = rig.end_step(Fault::None, &mut |_, _| ());
    let blocks = |store| [(store, 0, 64), (store, 1, 64), (store, 2, 2)];
    assert_eq!(sent(&out), [blocks(1), blocks(0), blocks(3), blocks(2)].concat());
    assert!(out.contains(&Command::SendEnd { request: key, blocks: 3 }));
    let out = rig.on(Event::SendAcknowledged { request: key });
    assert_eq!(out, [Command::PrefillFinished { request: key, computed_tokens: 130, microseconds: 0 }]);
    rig.assert_idle();
}

#[test]
fn an_engine_that_reports_no_layers_sends_the_same() {
    let run = |layers_reported| {
        let mut rig = Rig::new(Config { step_tokens_max: 64, ..config(16) });
        rig.layers_reported = layers_reported;
        let (key, _) = rig.prefill(job(1, tokens(1, 130), 1));
        rig.on(Event::SendCredit { request: key, bytes: u64::MAX });
        let mut all = Vec::new();
        for _ in 0..3 {
            rig.begin_step();
            all.extend(sent(&rig.end_step(Fault::None, &mut |_, _| ())));
        }
        all
    };
    assert_eq!(run(true), run(false));
    assert_eq!(run(true).len(), 2 * 4);
}

#[test]
fn cached_blocks_leave_first_and_a_full_hit_computes_nothing() {
    let mut rig = Rig::new(config(16));
    rig.generate(generate("a", tokens(1, 130), 1));
    rig.run();
    let (key, out) = rig.prefill(job(1, tokens(1, 128), 1));
    assert_eq!(out, [Command::PrefillAccepted { request: key, cached_tokens: 128 }]);
    let out = rig.on(Event::SendCredit { request: key, bytes: u64::MAX });
    assert_eq!(sent(&out), [(1, 1, 64), (0, 1, 64), (3, 1, 64), (2, 1, 64)]);
    assert!(matches!(out.last(), Some(Command::SendEnd { blocks: 2, .. })));
    assert!(!rig.step());
}

#[test]
fn no_more_is_handed_out_than_credit_allows() {
    let mut rig = Rig::new(config(16));
    let (key, _) = rig.prefill(job(1, tokens(1, 128), 0));
    rig.on(Event::SendCredit { request: key, bytes: 256 + 100 });
    rig.begin_step();
    let out = rig.end_step(Fault::None, &mut |_, _| ());
    assert_eq!(sent(&out), [(1, 0, 64)], "an index page has 256 bytes");
    let out = rig.on(Event::SendCredit { request: key, bytes: 156 });
    assert_eq!(sent(&out), [(1, 1, 64)]);
    let out = rig.on(Event::SendCredit { request: key, bytes: 511 });
    assert_eq!(sent(&out), [], "a latent page has 512 bytes");
}

#[test]
fn a_broken_connection_is_tried_once_more_from_the_blocks_that_are_missing() {
    let mut p = pair();
    p.window = 4 * 256 + 2 * 512;
    let key = p.generate(0, remote("a", tokens(1, 250)));
    while p.workers[0].core.requests[&key].computed == 0 {
        p.begin_step(1);
        p.end_step(1, Fault::None);
        assert!(p.deliver());
    }
    let held = p.workers[0].core.requests[&key].computed / 64;
    p.break_link(0);
    while !matches!(p.network.front(), Some((_, Packet::Start(_)))) {
        assert!(p.deliver());
    }
    let Some((_, Packet::Start(start))) = p.network.front() else { panic!("it starts again") };
    assert_eq!(start.blocks_held as usize, held);
    p.settle();
    assert_eq!(p.workers[0].finished(key), Some(FinishReason::Length));
    assert_eq!((p.links.len(), p.workers[0].core.stats().legs_failed), (2, 1));
    p.workers.iter().for_each(Rig::assert_idle);
}

#[test]
fn after_two_failures_the_owner_computes_the_rest_itself() {
    let mut p = pair();
    let key = p.generate(0, remote("a", tokens(1, 250)));
    for _ in 0..2 {
        p.deliver();
        p.break_link(0);
        while p.links.values().len() < 2 && p.deliver() {}
    }
    p.settle();
    assert_eq!(p.workers[0].finished(key), Some(FinishReason::Length));
    let stats = p.workers[0].core.stats();
    assert_eq!((p.links.len(), stats.legs_failed, stats.local_fallbacks), (2, 2, 1));
    p.workers.iter().for_each(Rig::assert_idle);
}

#[test]
fn a_refusal_that_a_retry_cannot_help_goes_local_at_once() {
    let mut p = Pair::new([config(16), config(2)]);
    let key = p.generate(0, remote("a", tokens(1, 250)));
    p.on(1, Event::Drain);
    let out = p.workers[0].on(Event::PrefillFailed { request: key, leg: 1, retryable: false });
    assert!(out.contains(&Command::Started { request: key, cached_tokens: 0, remote: false }));
    p.workers[0].run();
    assert_eq!(p.workers[0].finished(key), Some(FinishReason::Length));
}

#[test]
fn a_lost_page_is_noticed_at_the_end_and_fetched_again() {
    let mut p = pair();
    let key = p.generate(0, remote("a", tokens(1, 250)));
    while !p.network.iter().any(|(_, packet)| matches!(packet, Packet::Page { .. })) {
        p.deliver();
        p.begin_step(1);
        p.end_step(1, Fault::None);
    }
    p.lose_page();
    p.settle();
    assert_eq!(p.workers[0].finished(key), Some(FinishReason::Length));
    assert_eq!(p.workers[0].core.stats().legs_failed, 1);
    p.workers.iter().for_each(Rig::assert_idle);
}

#[test]
fn cancelling_frees_the_pages_of_both_sides() {
    let mut p = pair();
    let key = p.generate(0, remote("a", tokens(1, 250)));
    p.deliver();
    p.begin_step(1);
    p.on(0, Event::Cancel(key));
    p.workers[0].assert_idle();
    while p.deliver() {}
    p.end_step(1, Fault::None);
    p.workers.iter().for_each(Rig::assert_idle);
}

#[test]
fn pages_of_a_leg_that_is_over_are_not_wanted() {
    let mut p = pair();
    let key = p.generate(0, remote("a", tokens(1, 250)));
    let core = |p: &Pair, leg, block, store| p.workers[0].core.incoming_page(key, leg, block, StoreId(store));
    assert_eq!(core(&p, 1, 3, 0).unwrap().rows, 249 - 192);
    assert_eq!(core(&p, 1, 4, 0), Err(Unexpected::NotWanted { block: 4, store: 0 }));
    assert_eq!(core(&p, 1, 0, 4), Err(Unexpected::NotWanted { block: 0, store: 4 }));
    assert_eq!(core(&p, 2, 0, 0), Err(Unexpected::Over));
    p.on(0, Event::PrefillFailed { request: key, leg: 1, retryable: true });
    assert_eq!(core(&p, 1, 0, 0), Err(Unexpected::Over));
    p.on(0, Event::BlockArrived { request: key, leg: 1, block: 0, store: StoreId(0) });
    assert!(core(&p, 2, 0, 0).is_ok(), "late news of the first leg does not count for the second");
}

#[test]
fn nothing_of_a_prefill_that_is_not_finite_is_taken_over() {
    let mut p = Pair::new([drafting(16), drafting(16)]);
    let key = p.generate(0, remote("a", tokens(1, 250)));
    for _ in 0..2 {
        while !p.workers[1].stepping {
            p.deliver();
            p.begin_step(1);
        }
        // Credit comes first, so that all that may leave leaves before the result is known.
        while p.deliver() {}
        p.end_step(1, Fault::NotFinite);
        while p.workers[1].core.requests.is_empty() && p.deliver() {}
    }
    assert_eq!(p.workers[0].core.requests[&key].computed, 0);
    p.settle();
    assert_eq!(p.workers[0].finished(key), Some(FinishReason::Length));
    p.workers.iter().for_each(Rig::assert_idle);
}

#[test]
fn an_attempt_that_takes_too_long_is_given_up() {
    let mut p = pair();
    let key = p.generate(0, remote("a", tokens(1, 250)));
    assert_eq!(p.workers[0].core.next_deadline(), Some(p.workers[0].now + Duration::from_secs(10)));
    for _ in 0..2 {
        p.workers[0].now += Duration::from_secs(10);
        p.on(0, Event::Tick);
    }
    assert_eq!(p.workers[0].watched[&key].started, Some((0, false)));
    p.settle();
    assert_eq!(p.workers[0].finished(key), Some(FinishReason::Length));
    p.workers.iter().for_each(Rig::assert_idle);
}

#[test]
fn the_lease_of_a_prefill_ends_it_even_after_all_is_sent() {
    let mut rig = Rig::new(config(16));
    let (key, _) = rig.prefill(job(1, tokens(1, 100), 0));
    rig.on(Event::SendCredit { request: key, bytes: u64::MAX });
    rig.run();
    assert_eq!(rig.ledger().blocks_available(), 14, "pages stay until the end is acknowledged");
    rig.now = Duration::from_secs(100);
    rig.on(Event::Tick);
    assert_eq!(rig.failure(key), Some(FailureKind::Deadline));
    rig.assert_idle();
}

#[test]
fn bad_prefills_are_refused_with_the_reason() {
    let mut rig = Rig::new(config(16));
    rig.prefill(job(1, tokens(1, 100), 0));
    let cases = [
        (job(1, tokens(1, 100), 0), FailureKind::Invalid),
        (job(2, Vec::new(), 0), FailureKind::Invalid),
        (job(2, tokens(1, 100), 2), FailureKind::Invalid),
        (job(2, tokens(1, 16 * 64 + 1), 0), FailureKind::Invalid),
        (job(2, tokens(1, 15 * 64), 0), FailureKind::Busy),
        (Prefill { lease_until: Duration::ZERO, ..job(2, tokens(1, 10), 0) }, FailureKind::Deadline),
    ];
    for (prefill, kind) in cases {
        let (key, _) = rig.prefill(prefill);
        assert_eq!(rig.failure(key), Some(kind));
    }
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_ends_the_prefill() {
    let mut rig = Rig::new(config(16));
    let (key, _) = rig.prefill(job(1, tokens(1, 100), 0));
    rig.on(Event::SendAcknowledged { request: key });
    assert_eq!(rig.failure(key), Some(FailureKind::Prefill));
    rig.assert_idle();
}

#[test]
fn memory_is_taken_from_a_young_request_that_waits_for_rows() {
    let mut p = Pair::new([config(4), config(8)]);
    let old = p.generate(0, generate("old", tokens(1, 60), 120));
    p.begin_step(0);
    p.end_step(0, Fault::None);
    let young = p.generate(0, Generate { prefill: true, ..generate("young", tokens(2, 100), 4) });
    while p.workers[0].core.stats().preemptions == 0 {
        p.begin_step(0);
        p.end_step(0, Fault::None);
    }
    assert!(p.workers[0].core.requests[&young].is_waiting());
    assert!(p.network.iter().any(|(_, packet)| matches!(packet, Packet::Stop)));
    p.settle();
    for key in [old, young] {
        assert_eq!(p.workers[0].finished(key), Some(FinishReason::Length));
    }
    p.workers.iter().for_each(Rig::assert_idle);
}
