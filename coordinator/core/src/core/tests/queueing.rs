//! Requests that wait, and those that are refused.

use super::*;

/// One mixed worker without a free page.
fn busy(config: Config) -> Rig {
    let mut rig = Rig::new(config);
    rig.join(info("m", Role::Mixed));
    rig.beat(ConnectionId(1), ledger(100, 0, 0), &["x"]);
    rig
}

fn answered(commands: &[Command]) -> Vec<u64> {
    let place = |command: &Command| match command {
        Command::Answer { place, .. } => Some(place.0),
        _ => None,
    };
    commands.iter().filter_map(place).collect()
}

fn refusal_of(place: PlaceId, commands: &[Command]) -> Refusal {
    match answer(place, commands) {
        Some(Answer::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn other_model() -> WorkerInfo {
    WorkerInfo { model: "other".into(), ..info("o", Role::Mixed) }
}

#[test]
fn what_no_worker_could_ever_hold_is_refused_with_the_numbers() {
    let mut rig = Rig::of(&[("m", Role::Mixed)]);
    let refusal = rig.refused(request("r", 100 * 64));
    assert_eq!(refusal.kind, RefusalKind::TooLong);
    for number in ["6400 tokens", "64 more", "are 6464", "holds 6400"] {
        assert!(refusal.message.contains(number), "{}", refusal.message);
    }
    rig.placed(request("r", 99 * 64));
    let mut rig = Rig::new(Config::default());
    rig.join(WorkerInfo { context_tokens: 100, ..info("m", Role::Mixed) });
    assert_eq!(rig.refused(request("r", 37)).kind, RefusalKind::TooLong);
    rig.placed(request("r", 36));
}

#[test]
fn what_is_too_long_is_refused_also_behind_a_long_queue() {
    let mut rig = busy(Config::default());
    for n in 0..100 {
        assert_eq!(rig.place(request(&format!("r{n}"), 10)), None);
    }
    assert_eq!(rig.refused(request("long", 100 * 64)).kind, RefusalKind::TooLong);
    let commands = rig.beat(ConnectionId(1), ledger(100, 100, 0), &["x"]);
    assert_eq!(answered(&commands).len(), 50, "each needs two of the 100 pages");
}

#[test]
fn an_unknown_model_is_refused_and_the_served_ones_are_listed() {
    let mut rig = Rig::of(&[("m", Role::Mixed)]);
    let refusal = rig.refused(PlaceRequest { model: "gpt".into(), ..request("r", 10) });
    assert_eq!(refusal.kind, RefusalKind::UnknownModel);
    assert_eq!(refusal.message, "model \"gpt\" is not served; served are m");
}

#[test]
fn what_contradicts_itself_is_refused() {
    let mut rig = Rig::of(&[("m", Role::Mixed)]);
    assert_eq!(rig.refused(request("r", 0)).kind, RefusalKind::Invalid);
    let chains = vec![(class(1), chain(1, 2))];
    assert_eq!(rig.refused(PlaceRequest { chains, ..request("r", 127) }).kind, RefusalKind::Invalid);
    let deadline = Some(Duration::ZERO);
    assert_eq!(rig.refused(PlaceRequest { deadline, ..request("r", 10) }).kind, RefusalKind::Deadline);
}

#[test]
fn a_request_waits_for_its_first_worker() {
    let mut rig = Rig::new(Config::default());
    let (place, commands) = rig.ask(request("r", 10));
    assert_eq!(answer(place, &commands), None);
    rig.register(info("p", Role::Prefill));
    let (_, commands) = rig.register(info("d", Role::Decode));
    assert_eq!(decode_of(answer(place, &commands)).as_deref(), Some("d"));
}

#[test]
fn without_a_worker_it_is_refused_in_the_end() {
    let mut rig = Rig::new(Config::default());
    let (place, _) = rig.ask(request("r", 10));
    assert_eq!(rig.after(Duration::from_secs(29)), []);
    let refusal = refusal_of(place, &rig.after(Duration::from_secs(1)));
    assert_eq!(refusal.kind, RefusalKind::NoWorker);
    assert!(refusal.message.contains("hadal worker --role decode"), "{}", refusal.message);
    assert!(refusal.retry_after.is_some());
}

#[test]
fn the_wait_for_a_worker_begins_when_the_last_one_went() {
    let mut rig = busy(Config { lost_after: Duration::MAX, ..Config::default() });
    let (place, _) = rig.ask(request("r", 10));
    rig.after(Duration::from_secs(60));
    rig.on(Event::WorkerLost { connection: ConnectionId(1) });
    assert_eq!(rig.after(Duration::from_secs(29)), []);
    assert_eq!(refusal_of(place, &rig.after(Duration::from_secs(2))).kind, RefusalKind::NoWorker);
}

#[test]
fn a_model_that_lost_its_workers_is_known_for_a_while() {
    let mut rig = Rig::new(Config { lost_after: Duration::MAX, ..Config::default() });
    rig.join(info("m", Role::Mixed));
    rig.join(other_model());
    rig.on(Event::WorkerLost { connection: ConnectionId(1) });
    assert_eq!(rig.place(request("r", 10)), None);
    rig.after(Duration::from_secs(31));
    assert_eq!(rig.refused(request("r", 10)).kind, RefusalKind::UnknownModel);
}

#[test]
fn waiting_requests_go_by_priority_then_deadline_then_arrival() {
    let mut rig = busy(Config::default());
    let at = |seconds| Some(Duration::from_secs(seconds));
    let requests = [
        request("1", 10),
        PlaceRequest { deadline: at(900), ..request("2", 10) },
        PlaceRequest { deadline: at(800), ..request("3", 10) },
        PlaceRequest { priority: Priority(1), ..request("4", 10) },
    ];
    for request in requests {
        assert_eq!(rig.place(request), None);
    }
    let commands = rig.beat(ConnectionId(1), ledger(100, 100, 0), &[]);
    assert_eq!(answered(&commands), [4, 3, 2, 1]);
}

#[test]
fn a_long_request_is_not_starved_by_short_ones() {
    let mut rig = busy(Config::default());
    let (long, _) = rig.ask(request("long", 50 * 64));
    let (short, _) = rig.ask(request("s", 10));
    let commands = rig.beat(ConnectionId(1), ledger(100, 10, 0), &["x"]);
    assert_eq!(answered(&commands), [0; 0]);
    let commands = rig.beat(ConnectionId(1), ledger(100, 60, 0), &["x"]);
    assert_eq!(answered(&commands), [long.0, short.0]);
}

#[test]
fn a_request_keeps_others_only_from_workers_that_it_could_use() {
    let mut rig = busy(Config::default());
    rig.join(info("other", Role::Mixed));
    let exclude = vec![WorkerId("other".into())];
    assert_eq!(rig.place(PlaceRequest { exclude, ..request("r", 10) }), None);
    assert_eq!(names(&rig.placed(request("s", 10))).0, "other");
}

#[test]
fn a_full_queue_refuses_newcomers_and_says_when_to_try_again() {
    let mut rig = busy(Config { queue_max: 2, ..Config::default() });
    rig.ask(request("1", 10));
    rig.ask(request("2", 10));
    let refusal = rig.refused(request("3", 10));
    assert_eq!(refusal.kind, RefusalKind::Overloaded);
    assert!(refusal.retry_after.is_some());
    assert_eq!(rig.core.queued(), 2);
    // What can be placed at once needs no room in the queue.
    rig.join(other_model());
    rig.placed(PlaceRequest { model: "other".into(), ..request("4", 10) });
}

#[test]
fn a_deadline_ends_the_wait() {
    let mut rig = busy(Config { lost_after: Duration::MAX, ..Config::default() });
    let (place, _) = rig.ask(PlaceRequest { deadline: Some(Duration::from_secs(5)), ..request("r", 10) });
    let commands = rig.after(Duration::from_secs(5));
    assert_eq!(refusal_of(place, &commands).kind, RefusalKind::Deadline);
    assert_eq!(rig.core.queued(), 0);
}

#[test]
fn a_cancelled_request_is_never_answered() {
    let mut rig = busy(Config::default());
    let (place, _) = rig.ask(request("r", 10));
    rig.on(Event::PlaceCancelled { place });
    let commands = rig.beat(ConnectionId(1), ledger(100, 100, 0), &[]);
    assert_eq!(answered(&commands), [0; 0]);
    assert_eq!(rig.core.counters().cancelled, 1);
}

#[test]
fn whoever_waited_behind_a_cancelled_request_is_tried_at_once() {
    let mut rig = busy(Config::default());
    let (long, _) = rig.ask(request("long", 50 * 64));
    let (short, _) = rig.ask(request("s", 10));
    rig.beat(ConnectionId(1), ledger(100, 10, 0), &["x"]);
    assert_eq!(answered(&rig.on(Event::PlaceCancelled { place: long })), [short.0]);
}

#[test]
fn what_waits_is_refused_once_the_only_worker_that_could_hold_it_is_gone() {
    let mut rig = busy(Config::default());
    rig.join(WorkerInfo { ledger: ledger(10, 10, 0), ..info("small", Role::Mixed) });
    let (place, _) = rig.ask(request("r", 50 * 64));
    let commands = rig.on(Event::WorkerLost { connection: ConnectionId(1) });
    assert_eq!(refusal_of(place, &commands).kind, RefusalKind::TooLong);
}

#[test]
fn a_drain_refuses_what_waits_and_what_comes() {
    let mut rig = busy(Config::default());
    let (place, _) = rig.ask(request("r", 10));
    let refusal = refusal_of(place, &rig.on(Event::Drain));
    assert_eq!(refusal.kind, RefusalKind::Overloaded);
    assert!(refusal.retry_after.is_some());
    assert_eq!(rig.refused(request("s", 10)).kind, RefusalKind::Overloaded);
}

#[test]
fn continuations_go_before_new_requests() {
    let mut rig = busy(Config::default());
    rig.ask(request("new", 10));
    let (continued, _) = rig.ask(PlaceRequest { class: Some(class(1)), ..request("old", 10) });
    let commands = rig.beat(ConnectionId(1), ledger(100, 2, 0), &["x"]);
    assert_eq!(answered(&commands), [continued.0]);
}

#[test]
fn a_new_leader_does_not_refuse_for_want_of_workers_that_may_come_back() {
    let rebuild = Duration::from_secs(3);
    let mut rig = Rig::new(Config { rebuild, lost_after: 10 * rebuild, ..Config::default() });
    rig.join(other_model());
    let (unknown, commands) = rig.ask(request("a", 100));
    assert_eq!(answered(&commands), [0; 0]);
    // Workers come back one by one: the small one first.
    rig.join(WorkerInfo { ledger: ledger(2, 2, 0), ..info("small", Role::Mixed) });
    let (large, _) = rig.ask(request("b", 50 * 64));
    let (too_large, _) = rig.ask(request("c", 500 * 64));
    let commands = rig.register(info("m", Role::Mixed)).1;
    assert!(decode_of(answer(large, &commands)).is_some_and(|worker| worker == "m"), "{commands:?}");
    assert!(rig.after(Duration::from_secs(2)).iter().all(|c| !matches!(c, Command::Answer { .. })));
    let (gone, _) = rig.ask(PlaceRequest { model: "gone".into(), ..request("d", 10) });
    let commands = rig.after(Duration::from_secs(2));
    assert_eq!(refusal_of(too_large, &commands).kind, RefusalKind::TooLong);
    assert_eq!(refusal_of(gone, &commands).kind, RefusalKind::UnknownModel);
    assert_eq!(answer(unknown, &commands), None, "its worker came, and it was placed");
}
