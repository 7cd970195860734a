//! Where requests go.

use super::*;
use crate::Outcome;

const TWO_AND_TWO: &[(&str, Role)] =
    &[("p0", Role::Prefill), ("p1", Role::Prefill), ("d0", Role::Decode), ("d1", Role::Decode)];

#[test]
fn a_long_prompt_gets_a_decode_and_a_prefill_worker() {
    let mut rig = Rig::of(TWO_AND_TWO);
    let placement = rig.placed(request("r", 1000));
    let (decode, prefill) = names(&placement);
    assert!(decode.starts_with('d'));
    assert!(prefill.unwrap().starts_with('p'));
    assert_eq!(placement.decode.address, format!("{decode}:1"));
    assert_eq!(placement.lease, Config::default().lease);
}

#[test]
fn a_short_prompt_is_computed_where_it_decodes() {
    let mut rig = Rig::of(TWO_AND_TWO);
    assert_eq!(names(&rig.placed(request("r", 64))).1, None);
    assert!(names(&rig.placed(request("r", 65))).1.is_some());
}

#[test]
fn a_prompt_whose_rest_is_short_is_computed_where_it_decodes() {
    let mut rig = Rig::of(TWO_AND_TWO);
    rig.stored(ConnectionId(3), 1, &chain(1, 15));
    let placement = rig.placed(request("r", 1000));
    assert_eq!(names(&placement), ("d0", None));
    assert_eq!(placement.decode.cached_tokens, 960);
}

#[test]
fn of_a_prompt_that_is_cached_whole_the_last_token_is_missing() {
    let mut rig = Rig::of(&[("m", Role::Mixed)]);
    rig.stored(ConnectionId(1), 1, &chain(1, 2));
    assert_eq!(rig.placed(request("r", 128)).decode.cached_tokens, 127);
}

#[test]
fn without_prefill_workers_the_decode_worker_does_it_and_a_mixed_one_always() {
    let mut rig = Rig::of(&[("d", Role::Decode)]);
    assert_eq!(names(&rig.placed(request("r", 1000))), ("d", None));
    let mut rig = Rig::of(&[("p", Role::Prefill), ("m", Role::Mixed)]);
    assert_eq!(names(&rig.placed(request("r", 1000))), ("m", None));
}

#[test]
fn a_mixed_worker_helps_a_decode_worker() {
    let mut rig = Rig::with_policy(Config::default(), "round-robin");
    for (id, role) in [("d", Role::Decode), ("m", Role::Mixed)] {
        rig.join(info(id, role));
    }
    assert_eq!(names(&rig.placed(request("r", 1000))), ("d", Some("m")));
}

#[test]
fn prefill_stays_in_the_owners_class() {
    let mut rig = Rig::of(&[("d", Role::Decode)]);
    rig.join(WorkerInfo { class: class(2), ..info("p", Role::Prefill) });
    assert_eq!(names(&rig.placed(request("r", 1000))), ("d", None));
}

#[test]
fn the_prompt_goes_to_the_prefill_worker_that_has_its_beginning() {
    for holder in [ConnectionId(1), ConnectionId(2)] {
        let mut rig = Rig::of(TWO_AND_TWO);
        rig.stored(holder, 1, &chain(1, 8));
        let prefill = rig.placed(request("r", 1000)).prefill.unwrap();
        assert_eq!((prefill.connection, prefill.cached_tokens), (holder, 512));
        assert_eq!(rig.core.counters().placements(Outcome::Reused), 1);
        assert_eq!((rig.core.counters().blocks_hit, rig.core.counters().blocks_missed), (8, 7));
    }
    let mut rig = Rig::of(TWO_AND_TWO);
    rig.placed(request("r", 1000));
    assert_eq!(rig.core.counters().placements(Outcome::Cold), 1);
}

#[test]
fn equal_prefixes_meet_and_different_ones_spread() {
    let workers = ["a", "b", "c", "d"].map(|id| (id, Role::Mixed));
    let mut chosen = std::collections::BTreeSet::new();
    for family in 0..20 {
        let place = |id: &str| {
            let chains = vec![(class(1), chain(family, 2))];
            Rig::of(&workers).placed(PlaceRequest { chains, ..request(id, 128) }).decode.worker
        };
        assert_eq!(place("one"), place("two"));
        chosen.insert(place("one"));
    }
    assert_eq!(chosen.len(), 4);
}

#[test]
fn requests_of_a_session_meet_although_they_have_no_block() {
    let workers = ["a", "b", "c", "d"].map(|id| (id, Role::Mixed));
    let place =
        |id: &str| Rig::of(&workers).placed(PlaceRequest { session: "s".into(), ..request(id, 10) }).decode.worker;
    let first = place("r0");
    assert!((1..10).all(|n| place(&format!("r{n}")) == first));
}

#[test]
fn load_spreads_requests_although_the_prefix_is_elsewhere() {
    let mut rig = Rig::of(&[("a", Role::Mixed), ("b", Role::Mixed)]);
    rig.stored(ConnectionId(1), 1, &chain(1, 8));
    let chosen: Vec<String> = (0..4).map(|_| rig.placed(request("r", 512)).decode.worker.0).collect();
    assert_eq!(chosen[..2], ["a", "a"]);
    assert!(chosen[2..].contains(&"b".to_owned()), "{chosen:?}");
    assert!(rig.core.counters().placements(Outcome::Spread) > 0);
}

#[test]
fn a_draining_worker_gets_nothing() {
    let mut rig = Rig::of(&[("a", Role::Mixed), ("b", Role::Mixed)]);
    rig.on(Event::Leaving { connection: ConnectionId(1) });
    for n in 0..4 {
        assert_eq!(names(&rig.placed(request(&format!("r{n}"), 10))).0, "b");
    }
}

#[test]
fn a_placement_counts_until_a_heartbeat_names_it() {
    let mut rig = Rig::of(&[("m", Role::Mixed)]);
    let connection = ConnectionId(1);
    // 60 blocks of prompt and one of growth, twice, are more than 100.
    rig.placed(request("first", 60 * 64));
    let (second, commands) = rig.ask(request("second", 60 * 64));
    assert_eq!(answer(second, &commands), None);
    // A heartbeat from before the worker knew of it does not free what it will take.
    let commands = rig.beat(connection, ledger(100, 100, 0), &[]);
    assert_eq!(answer(second, &commands), None);
    let commands = rig.beat(connection, ledger(100, 39, 0), &["first"]);
    assert_eq!(answer(second, &commands), None);
    let commands = rig.beat(connection, ledger(100, 39, 61), &[]);
    assert_eq!(decode_of(answer(second, &commands)).as_deref(), Some("m"));
}

#[test]
fn a_placement_that_is_never_used_is_free_when_its_lease_ends() {
    let mut rig = Rig::new(Config { lost_after: Duration::MAX, ..Config::default() });
    rig.join(info("m", Role::Mixed));
    rig.placed(request("first", 60 * 64));
    let (second, _) = rig.ask(request("second", 60 * 64));
    let commands = rig.after(Config::default().lease);
    assert_eq!(decode_of(answer(second, &commands)).as_deref(), Some("m"));
    assert_eq!(rig.core.counters().leases_expired, 1);
}

#[test]
fn an_answer_that_nobody_took_frees_its_place() {
    let mut rig = Rig::of(&[("m", Role::Mixed)]);
    let (first, _) = rig.ask(request("first", 60 * 64));
    let (second, _) = rig.ask(request("second", 60 * 64));
    let commands = rig.on(Event::PlaceCancelled { place: first });
    assert_eq!(decode_of(answer(second, &commands)).as_deref(), Some("m"));
}

#[test]
fn blocks_in_use_by_others_cost_nothing_again() {
    // The cache holds the first 60 blocks, and no block is idle: they are in use by a running request.
    let mut rig = Rig::of(&[("m", Role::Mixed)]);
    rig.stored(ConnectionId(1), 1, &chain(1, 60));
    rig.beat(ConnectionId(1), ledger(100, 39, 0), &["x"]);
    assert_eq!(rig.placed(request("r", 61 * 64)).decode.cached_tokens, 60 * 64);
    // Idle ones are part of what is available: 62 blocks do not fit 40 free and 21 idle ones.
    let mut rig = Rig::of(&[("m", Role::Mixed)]);
    rig.stored(ConnectionId(1), 1, &chain(1, 21));
    rig.beat(ConnectionId(1), ledger(100, 40, 21), &[]);
    assert_eq!(rig.place(request("r", 61 * 64)), None);
}

#[test]
fn excluded_workers_are_avoided() {
    let mut rig = Rig::of(&[("a", Role::Mixed), ("b", Role::Mixed)]);
    for _ in 0..4 {
        let exclude = vec![WorkerId("a".into())];
        assert_eq!(names(&rig.placed(PlaceRequest { exclude, ..request("r", 10) })).0, "b");
    }
}

#[test]
fn when_all_are_excluded_one_may_be_tried_again_after_news_from_it() {
    let mut rig = Rig::of(&[("a", Role::Mixed)]);
    let exclude = vec![WorkerId("a".into())];
    let (place, commands) = rig.ask(PlaceRequest { exclude, ..request("r", 10) });
    assert_eq!(answer(place, &commands), None);
    let commands = rig.beat(ConnectionId(1), ledger(100, 100, 0), &[]);
    assert_eq!(decode_of(answer(place, &commands)).as_deref(), Some("a"));
}

#[test]
fn a_worker_that_refused_a_request_keeps_nothing_free_for_it() {
    let mut rig = Rig::of(&[("a", Role::Mixed), ("b", Role::Mixed)]);
    let first = rig.placed(request("r", 60 * 64)).decode.worker;
    let exclude = vec![first.clone()];
    let again = PlaceRequest { exclude, attempt: 1, ..request("r", 60 * 64) };
    assert_ne!(rig.placed(again).decode.worker, first);
    assert_eq!(rig.placed(request("s", 60 * 64)).decode.worker, first);
}

#[test]
fn the_other_worker_of_a_failed_attempt_keeps_nothing_free_for_it_either() {
    let mut rig = Rig::of(&[("p", Role::Prefill), ("d", Role::Decode), ("e", Role::Decode)]);
    let first = rig.placed(request("r", 60 * 64)).decode.worker;
    let again = PlaceRequest { exclude: vec![first], attempt: 1, ..request("r", 60 * 64) };
    assert_eq!(names(&rig.placed(again)).1, Some("p"));
}

#[test]
fn an_excluded_prefill_worker_is_not_asked_again() {
    let mut rig = Rig::of(&[("p", Role::Prefill), ("d", Role::Decode)]);
    let exclude = vec![WorkerId("p".into())];
    assert_eq!(names(&rig.placed(PlaceRequest { exclude, ..request("r", 1000) })), ("d", None));
}

#[test]
fn a_continuation_stays_in_its_class() {
    let mut rig = Rig::of(&[("a", Role::Mixed)]);
    rig.join(WorkerInfo { class: class(2), ..info("b", Role::Mixed) });
    for n in 0..4 {
        let placement = rig.placed(PlaceRequest { class: Some(class(2)), ..request(&format!("r{n}"), 10) });
        assert_eq!(names(&placement).0, "b");
    }
}

#[test]
fn nothing_is_taken_of_one_worker_while_the_other_is_missing() {
    let mut rig = Rig::of(&[("p", Role::Prefill), ("d", Role::Decode)]);
    rig.beat(ConnectionId(1), ledger(100, 0, 0), &["x"]);
    let (place, commands) = rig.ask(request("r", 50 * 64));
    assert_eq!(answer(place, &commands), None);
    assert_eq!(rig.core.workers().map(|w| w.requests).sum::<u64>(), 1);
    let commands = rig.beat(ConnectionId(1), ledger(100, 100, 0), &[]);
    assert_eq!(decode_of(answer(place, &commands)).as_deref(), Some("d"));
}
