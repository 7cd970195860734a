//! Workers that come and go, and their caches.

use super::*;

fn reason(commands: &[Command]) -> &str {
    let found = commands.iter().find_map(|command| match command {
        Command::RefuseWorker { reason, .. } | Command::Disconnect { reason, .. } => Some(reason.as_str()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("nobody was refused: {commands:?}"))
}

fn change(incarnation: u64, sequence: u64, hash: ChainHash, change: CacheChange) -> CacheEvent {
    let (incarnation, parts, tier) = (Incarnation(incarnation), geometry().parts(), Tier::Device);
    CacheEvent { incarnation, sequence, hash, change, parts, tier }
}

#[test]
fn a_worker_is_accepted_and_asked_for_its_cache() {
    let mut rig = Rig::new(Config::default());
    let (connection, commands) = rig.register(info("d", Role::Decode));
    let expected = [
        Command::Accept { connection },
        Command::SnapshotWanted { connection },
        Command::FleetChanged { membership: true },
    ];
    assert_eq!(commands, expected);
}

#[test]
fn a_silent_worker_is_taken_out_and_one_that_speaks_is_not() {
    let mut rig = Rig::of(&[("silent", Role::Decode)]);
    let speaks = rig.join(info("speaks", Role::Decode));
    rig.after(Duration::from_millis(2900));
    rig.beat(speaks, ledger(100, 100, 0), &[]);
    let commands = rig.after(Duration::from_millis(200));
    assert!(reason(&commands).contains("no heartbeat"));
    assert!(matches!(&commands[0], Command::Disconnect { again: true, .. }), "it may return at once: {commands:?}");
    let left: Vec<_> = rig.core.workers().map(|w| w.info.id.0.clone()).collect();
    assert_eq!(left, ["speaks"]);
    assert_eq!(rig.core.counters().lost(Loss::Silent), 1);
}

#[test]
fn a_pause_of_the_coordinator_itself_is_not_the_workers_silence() {
    let mut rig = Rig::of(&[("d", Role::Decode)]);
    rig.after(Duration::from_secs(1));
    rig.now += Duration::from_secs(60);
    assert_eq!(rig.on(Event::Tick), []);
    let commands = rig.after(Duration::from_secs(3));
    assert!(reason(&commands).contains("no heartbeat"));
}

#[test]
fn a_worker_that_returns_replaces_its_former_self() {
    let mut rig = Rig::new(Config::default());
    let old = rig.join(info("d", Role::Decode));
    rig.stored(old, 1, &chain(1, 2));
    let (new, commands) = rig.register(WorkerInfo { incarnation: Incarnation(2), ..info("d", Role::Decode) });
    assert!(
        matches!(&commands[0], Command::Disconnect { connection, again: false, .. } if *connection == old),
        "{commands:?}"
    );
    assert!(reason(&commands).contains("registered again"));
    assert_eq!(rig.core.blocks(), 0, "what the old life held is forgotten");
    assert!(rig.on(Event::WorkerLost { connection: old }).is_empty(), "the end of the old connection means nothing");
    assert_eq!(rig.core.workers().next().unwrap().connection, new);
    rig.beat(old, ledger(100, 0, 0), &[]);
    assert_eq!(rig.core.counters().discarded(Discarded::UnknownWorker), 2);
    assert_eq!(rig.core.workers().next().unwrap().ledger, &ledger(100, 100, 0));
}

#[test]
fn another_model_under_the_same_name_is_refused_and_both_are_named() {
    let mut rig = Rig::of(&[("first", Role::Decode)]);
    let other = WorkerInfo { fingerprint: Fingerprint([2; 16]), ..info("second", Role::Decode) };
    let (_, commands) = rig.register(other.clone());
    for text in ["01".repeat(16), "02".repeat(16), "first".into(), "second".into(), "another name".into()] {
        assert!(reason(&commands).contains(&text), "{text}: {commands:?}");
    }
    // Once nobody serves the first one any more, the name is free.
    rig.on(Event::WorkerLost { connection: ConnectionId(1) });
    rig.join(other);
}

#[test]
fn a_worker_may_change_its_model_when_it_returns() {
    let mut rig = Rig::of(&[("d", Role::Decode)]);
    rig.join(WorkerInfo { fingerprint: Fingerprint([2; 16]), ..info("d", Role::Decode) });
}

#[test]
fn one_class_with_two_layouts_is_refused() {
    let mut rig = Rig::of(&[("a", Role::Decode)]);
    let geometry = Geometry { layout: "other".into(), ..geometry() };
    let (_, commands) = rig.register(WorkerInfo { geometry, ..info("b", Role::Decode) });
    assert!(reason(&commands).contains("\"other\" and \"l\""), "{commands:?}");
}

#[test]
fn what_cannot_be_true_is_refused() {
    let none = Ledger { parts: Vec::new(), ..Ledger::default() };
    let infos = [
        (WorkerInfo { ledger: none, ..info("d", Role::Decode) }, "parts []"),
        (WorkerInfo { ledger: ledger(10, 9, 2), ..info("d", Role::Decode) }, "9 free and 2 cached pages of 10"),
        (WorkerInfo { ledger: ledger(u64::MAX, 0, 0), ..info("d", Role::Decode) }, "cannot be true"),
        (WorkerInfo { context_tokens: 0, ..info("d", Role::Decode) }, "context is 0"),
        (WorkerInfo { address: String::new(), ..info("d", Role::Decode) }, "address"),
        (info("", Role::Decode), "id"),
    ];
    for (info, problem) in infos {
        let (_, commands) = Rig::new(Config::default()).register(info);
        assert!(reason(&commands).contains(problem), "{problem}: {commands:?}");
    }
}

#[test]
fn an_impossible_heartbeat_ends_the_worker() {
    let mut rig = Rig::of(&[("d", Role::Decode)]);
    let commands = rig.beat(ConnectionId(1), ledger(10, 9, 2), &[]);
    assert!(reason(&commands).contains("heartbeat was refused"));
    assert_eq!(rig.core.workers().count(), 0);
}

#[test]
fn a_worker_that_says_it_has_more_blocks_than_pages_is_taken_out() {
    let full = || Rig::of(&[("d", Role::Decode)]);
    let mut rig = full();
    assert!(rig.stored(ConnectionId(1), 1, &chain(1, 100)).is_empty(), "as many as it has pages");
    rig.stored(ConnectionId(1), 101, &chain(1, 100));
    assert_eq!(rig.core.blocks(), 100, "the same blocks again are no more");
    let commands = rig.stored(ConnectionId(1), 201, &chain(2, 1));
    assert!(reason(&commands).contains("101 blocks of part index in tier Device, where 100 fit"), "{commands:?}");
    assert!(matches!(&commands[0], Command::Disconnect { again: false, .. }), "{commands:?}");
    assert_eq!((rig.core.workers().count(), rig.core.blocks()), (0, 0));

    let mut rig = full();
    let commands = rig.snapshot(ConnectionId(1), 5, &chain(1, 101), (true, false));
    assert!(reason(&commands).contains("101 blocks"), "a snapshot may not lie either: {commands:?}");
}

#[test]
fn a_tier_of_which_the_ledger_says_nothing_has_a_bound_of_its_own() {
    let mut rig = Rig::new(Config { tier_blocks_max: 2, ..Config::default() });
    let connection = rig.join(info("d", Role::Decode));
    let blocks = chain(1, 3);
    let event = |n: usize| CacheEvent { tier: Tier::Disk, ..change(1, n as u64 + 1, blocks[n], CacheChange::Stored) };
    assert!(rig.on(Event::CacheEvents { connection, events: vec![event(0), event(1)] }).is_empty());
    let commands = rig.on(Event::CacheEvents { connection, events: vec![event(2)] });
    assert!(reason(&commands).contains("3 blocks of part index in tier Disk, where 2 fit"), "{commands:?}");
}

#[test]
fn a_worker_that_came_back_empty_is_not_found_for_what_it_had() {
    let mut rig = Rig::of(&[("d", Role::Decode)]);
    rig.stored(ConnectionId(1), 1, &chain(1, 4));
    // The same process, wiped: its numbers begin anew, and it says so with an empty snapshot when it is asked.
    let (connection, commands) = rig.register(info("d", Role::Decode));
    assert!(commands.contains(&Command::SnapshotWanted { connection }));
    assert_eq!(rig.core.blocks(), 0, "not even before the snapshot");
    rig.snapshot(connection, 0, &[], (true, true));
    rig.stored(connection, 1, &chain(1, 1));
    assert_eq!(rig.core.holders(chain(1, 4)[3]).count(), 0);
    assert_eq!(rig.placed(request("r", 64 * 4)).decode.cached_tokens, 64);
}

#[test]
fn drops_of_blocks_that_nobody_knows_change_nothing() {
    let mut rig = Rig::of(&[("d", Role::Decode)]);
    let connection = ConnectionId(1);
    rig.stored(connection, 1, &chain(1, 2));
    let events =
        vec![change(1, 3, chain(2, 1)[0], CacheChange::Dropped), change(1, 4, chain(1, 2)[1], CacheChange::Dropped)];
    assert!(rig.on(Event::CacheEvents { connection, events }).is_empty());
    assert_eq!((rig.core.blocks(), rig.core.counters().gaps), (1, 0));
}

#[test]
fn more_workers_than_configured_are_refused() {
    let mut rig = Rig::new(Config { workers_max: 1, ..Config::default() });
    rig.join(info("a", Role::Decode));
    let (_, commands) = rig.register(info("b", Role::Decode));
    assert!(reason(&commands).contains("--workers-max"));
    rig.join(info("a", Role::Decode));
}

#[test]
fn a_heartbeat_counts_its_requests_and_one_out_of_order_is_ignored() {
    let mut rig = Rig::of(&[("d", Role::Decode)]);
    rig.beats = 10;
    rig.beat(ConnectionId(1), ledger(100, 50, 0), &["r", "s", "r"]);
    assert_eq!(rig.core.workers().next().unwrap().requests, 2);
    rig.beats = 5;
    rig.beat(ConnectionId(1), ledger(100, 100, 0), &[]);
    assert_eq!(rig.core.workers().next().unwrap().ledger, &ledger(100, 50, 0));
    assert_eq!(rig.core.counters().discarded(Discarded::Repeated), 1);
}

#[test]
fn a_worker_that_leaves_gets_nothing_new_and_counts_as_left() {
    let mut rig = Rig::of(&[("d", Role::Decode)]);
    let commands = rig.on(Event::Leaving { connection: ConnectionId(1) });
    assert_eq!(commands, [Command::FleetChanged { membership: true }]);
    rig.beat(ConnectionId(1), ledger(100, 100, 0), &[]);
    assert_eq!(rig.place(request("r", 10)), None);
    rig.on(Event::WorkerLost { connection: ConnectionId(1) });
    assert_eq!(rig.core.counters().lost(Loss::Left), 1);
}

#[test]
fn a_gap_makes_the_holder_forgotten_until_its_snapshot_has_come() {
    let mut rig = Rig::of(&[("d", Role::Decode)]);
    let connection = ConnectionId(1);
    let blocks = chain(1, 4);
    rig.stored(connection, 1, &blocks[..2]);
    assert_eq!(rig.core.blocks(), 2);
    let commands = rig.stored(connection, 4, &blocks[3..]);
    assert!(commands.contains(&Command::SnapshotWanted { connection }));
    assert_eq!((rig.core.blocks(), rig.core.counters().gaps), (0, 1));
    assert!(rig.stored(connection, 5, &blocks[..1]).is_empty(), "it is asked once");
    rig.snapshot(connection, 5, &blocks, (true, true));
    assert_eq!(rig.core.blocks(), 4);
    rig.stored(connection, 6, &chain(2, 1));
    assert_eq!(rig.core.blocks(), 5);
}

#[test]
fn events_between_the_pieces_of_a_snapshot_are_taken_in_after_it() {
    let mut rig = Rig::new(Config::default());
    let (connection, _) = rig.register(info("d", Role::Decode));
    let blocks = chain(1, 3);
    rig.snapshot(connection, 7, &blocks[..1], (true, false));
    let events = vec![change(1, 8, blocks[2], CacheChange::Dropped)];
    rig.on(Event::CacheEvents { connection, events });
    rig.snapshot(connection, 7, &blocks[1..], (false, true));
    let held: Vec<usize> = blocks.iter().map(|block| rig.core.holders(*block).count()).collect();
    assert_eq!(held, [1, 1, 0]);
}

#[test]
fn a_snapshot_of_two_states_is_asked_for_again() {
    let mut rig = Rig::new(Config::default());
    let (connection, _) = rig.register(info("d", Role::Decode));
    rig.snapshot(connection, 7, &chain(1, 1), (true, false));
    let commands = rig.snapshot(connection, 8, &chain(1, 2), (false, true));
    assert_eq!(commands, [Command::SnapshotWanted { connection }]);
    assert_eq!(rig.core.blocks(), 0);
}

#[test]
fn an_overdue_snapshot_is_asked_for_again() {
    let mut rig = Rig::new(Config { lost_after: Duration::MAX, ..Config::default() });
    let (connection, _) = rig.register(info("d", Role::Decode));
    assert!(rig.after(Duration::from_secs(9)).is_empty());
    assert_eq!(rig.after(Duration::from_secs(1)), [Command::SnapshotWanted { connection }]);
}

#[test]
fn too_many_events_during_a_snapshot_start_it_over() {
    let mut rig = Rig::new(Config { snapshot_events_max: 2, ..Config::default() });
    let (connection, _) = rig.register(info("d", Role::Decode));
    rig.snapshot(connection, 0, &[], (true, false));
    assert_eq!(rig.stored(connection, 1, &chain(1, 3)), [Command::SnapshotWanted { connection }]);
}

#[test]
fn events_of_an_old_life_or_seen_before_change_nothing() {
    let mut rig = Rig::of(&[("d", Role::Decode)]);
    let connection = ConnectionId(1);
    rig.stored(connection, 1, &chain(1, 1));
    rig.stored(connection, 1, &chain(2, 1));
    let events = vec![change(9, 2, chain(3, 1)[0], CacheChange::Stored)];
    rig.on(Event::CacheEvents { connection, events });
    assert_eq!(rig.core.blocks(), 1);
    assert_eq!(rig.core.counters().discarded(Discarded::Repeated), 1);
    assert_eq!(rig.core.counters().discarded(Discarded::OldIncarnation), 1);
}
