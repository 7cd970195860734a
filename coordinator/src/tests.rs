//! The coordinator over loopback, with the clients that workers and routers use.

mod fixture;

use std::time::Duration;

use hadal_proto::cluster as w;
use hadal_proto::cluster::coordinator_command::Command;
use hadal_proto::cluster::refusal::Kind;

use crate::{Config, StartError};
use fixture::{Fixture, Worker, block, ledger, place, register, soon};

#[tokio::test]
async fn a_worker_registers_and_is_asked_for_its_cache() {
    let fixture = Fixture::start(Config::default()).await;
    let mut worker = Worker::attach(&fixture, register("d", "decode")).await;
    let Command::Registered(registered) = worker.command().await else { panic!("not registered") };
    assert_eq!((registered.heartbeat_ms, registered.lost_after_ms), (250, 3000));
    assert!(matches!(worker.command().await, Command::SnapshotWanted(_)));
}

#[tokio::test]
async fn watchers_see_the_fleet_at_once_and_every_change() {
    let fixture = Fixture::start(Config::default()).await;
    let mut watch = fixture.watch().await;
    assert_eq!(watch.next().await.workers, []);
    let worker = Worker::attach(&fixture, register("d", "decode")).await;
    let view = watch.until(|view| view.workers.len() == 1).await;
    let seen = &view.workers[0];
    assert_eq!((seen.id.as_str(), seen.role.as_str(), seen.architecture.as_str()), ("d", "decode", "arch"));
    assert_eq!(seen.files.len(), 1);
    worker.heartbeat(1, ledger(100, 7, 3), &["r"], true).await;
    let view = watch.until(|view| view.workers[0].draining).await;
    assert_eq!(view.workers[0].ledger, Some(ledger(100, 7, 3)));
    assert_eq!(view.workers[0].requests, 1);
    // Its end is its loss.
    drop(worker);
    watch.until(|view| view.workers.is_empty()).await;
}

#[tokio::test]
async fn a_silent_worker_is_told_and_taken_out() {
    let (heartbeat, lost_after) = (Duration::from_millis(10), Duration::from_millis(100));
    let fixture = Fixture::start(Config { heartbeat, lost_after, ..Config::default() }).await;
    let mut worker = Worker::attach(&fixture, register("d", "decode")).await;
    assert!(worker.refusal().await.contains("no heartbeat"));
    worker.end().await;
    fixture.watch().await.until(|view| view.workers.is_empty()).await;
}

#[tokio::test]
async fn a_worker_returns_with_a_new_incarnation() {
    let fixture = Fixture::start(Config::default()).await;
    let mut old = Worker::attach(&fixture, register("d", "decode")).await;
    let mut watch = fixture.watch().await;
    watch.until(|view| view.workers.len() == 1).await;
    let new = w::Register { incarnation: 2, ..register("d", "decode") };
    let mut new = Worker::attach(&fixture, new).await;
    assert!(matches!(new.command().await, Command::Registered(_)));
    assert!(old.refusal().await.contains("registered again"));
    old.end().await;
    watch.until(|view| view.workers.len() == 1 && view.workers[0].incarnation == 2).await;
}

#[tokio::test]
async fn a_gap_asks_for_a_snapshot_and_the_snapshot_is_used() {
    let fixture = Fixture::start(Config::default()).await;
    let mut worker = Worker::ready(&fixture, register("m", "mixed")).await;
    worker.stored(3, 0).await;
    assert!(matches!(worker.command().await, Command::SnapshotWanted(_)));
    worker.snapshot(3, 2).await;
    // The same stream carries this, so the placement comes after it.
    worker.heartbeat(1, ledger(100, 50, 0), &[], false).await;
    let told = |view: &w::FleetView| view.workers.iter().any(|w| w.ledger == Some(ledger(100, 50, 0)));
    fixture.watch().await.until(told).await;
    let placement = fixture.placed(w::PlaceRequest { chains: vec![block_chain(3)], ..place("r", 200) }).await;
    assert_eq!(placement.decode_cached_tokens, 128);
}

fn block_chain(blocks: u8) -> w::BlockChain {
    let hashes = (0..blocks).flat_map(block).collect();
    w::BlockChain { numerics_class: vec![2; 16], hashes }
}

#[tokio::test]
async fn a_request_is_placed_on_both_workers_with_a_lease() {
    let fixture = Fixture::start(Config::default()).await;
    let _decode = Worker::ready(&fixture, register("d", "decode")).await;
    let _prefill = Worker::ready(&fixture, register("p", "prefill")).await;
    let placement = fixture.placed(place("r", 1000)).await;
    let reference = |id: &str| Some(w::WorkerRef { id: id.into(), incarnation: 1, grpc_address: format!("{id}:1") });
    assert_eq!((placement.decode, placement.prefill), (reference("d"), reference("p")));
    assert_eq!((placement.lease_id.len(), placement.lease_ms), (16, 30_000));
}

#[tokio::test]
async fn a_request_waits_until_its_worker_arrives() {
    let fixture = Fixture::start(Config::default()).await;
    let waiting = fixture.spawn_place(place("r", 10));
    let mut watch = fixture.watch().await;
    watch.until(|view| view.queued == 1).await;
    let _worker = Worker::ready(&fixture, register("m", "mixed")).await;
    let answer = soon(waiting).await.unwrap();
    assert!(matches!(answer, Ok(w::place_response::Answer::Placement(_))), "{answer:?}");
    watch.until(|view| view.queued == 0).await;
}

#[tokio::test]
async fn a_router_that_gives_up_leaves_the_queue() {
    let fixture = Fixture::start(Config::default()).await;
    let waiting = fixture.spawn_place(place("r", 10));
    let mut watch = fixture.watch().await;
    watch.until(|view| view.queued == 1).await;
    waiting.abort();
    watch.until(|view| view.queued == 0).await;
    fixture.end().await;
    assert!(fixture.metrics().contains("hadal_coordinator_placements_total{outcome=\"cancelled\"} 1"));
}

#[tokio::test]
async fn another_protocol_version_is_refused_with_both_versions() {
    let fixture = Fixture::start(Config::default()).await;
    for version in [0, 99] {
        let worker = w::Register { protocol_version: version, ..register("d", "decode") };
        let mut worker = Worker::attach(&fixture, worker).await;
        let reason = worker.refusal().await;
        assert!(reason.contains(&format!("speaks version {version}")), "{reason}");
        assert!(reason.contains(&format!("speaks {}", hadal_proto::PROTOCOL_VERSION)), "{reason}");
        worker.end().await;
    }
}

#[tokio::test]
async fn what_a_worker_says_of_itself_must_make_sense() {
    let fixture = Fixture::start(Config::default()).await;
    let _first = Worker::ready(&fixture, register("first", "decode")).await;
    let base = || register("d", "decode");
    let wrong = [
        (w::Register { role: "boss".into(), ..base() }, "prefill, decode and mixed"),
        (w::Register { fingerprint: vec![1], ..base() }, "16 bytes expected"),
        (w::Register { geometry: None, ..base() }, "geometry"),
        (w::Register { ledger: Some(ledger(10, 9, 2)), ..base() }, "9 free and 2 cached pages of 10"),
        (w::Register { fingerprint: vec![9; 16], ..base() }, "another name"),
    ];
    for (register, problem) in wrong {
        let mut worker = Worker::attach(&fixture, register).await;
        let reason = worker.refusal().await;
        assert!(reason.contains(problem), "{problem}: {reason}");
        worker.end().await;
    }
}

#[tokio::test]
async fn a_malformed_report_ends_its_worker_alone() {
    let fixture = Fixture::start(Config::default()).await;
    let mut bad = Worker::ready(&fixture, register("bad", "mixed")).await;
    let _good = Worker::ready(&fixture, register("good", "mixed")).await;
    bad.heartbeat(1, ledger(10, 9, 2), &[], false).await;
    assert!(bad.refusal().await.contains("9 free and 2 cached pages of 10"));
    bad.end().await;
    fixture.watch().await.until(|view| view.workers.len() == 1).await;
    assert_eq!(fixture.placed(place("r", 10)).await.decode.unwrap().id, "good");
}

#[tokio::test]
async fn a_stream_must_begin_with_a_registration() {
    let fixture = Fixture::start(Config::default()).await;
    let mut worker = Worker::open(&fixture, w::worker_report::Report::Leave(w::Leave {})).await;
    assert!(worker.refusal().await.contains("first report"));
}

#[tokio::test]
async fn refusals_say_what_is_wrong() {
    let fixture = Fixture::start(Config::default()).await;
    let _worker = Worker::ready(&fixture, register("m", "mixed")).await;
    let cases = [
        (w::PlaceRequest { model: "gpt".into(), ..place("r", 10) }, Kind::UnknownModel, "served are model"),
        (place("r", 10_000), Kind::TooLong, "10000 tokens"),
        (place("", 10), Kind::Invalid, "request_id"),
        (w::PlaceRequest { context: None, ..place("r", 10) }, Kind::Invalid, "context"),
        (w::PlaceRequest { numerics_class: vec![1], ..place("r", 10) }, Kind::Invalid, "16 bytes"),
    ];
    for (request, kind, problem) in cases {
        let refusal = fixture.refused(request).await;
        assert_eq!(refusal.kind(), kind, "{refusal:?}");
        assert!(refusal.message.contains(problem), "{problem}: {refusal:?}");
    }
}

#[tokio::test]
async fn a_drain_leaves_what_waits_to_the_next_coordinator_and_lets_everybody_go() {
    let fixture = Fixture::start(Config::default()).await;
    let mut worker = Worker::ready(&fixture, register("p", "prefill")).await;
    let waiting = fixture.spawn_place(place("r", 10));
    let mut watch = fixture.watch().await;
    watch.until(|view| view.queued == 1).await;
    fixture.handle.drain();
    assert_eq!(soon(waiting).await.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
    worker.end().await;
    watch.end().await;
    fixture.end().await;
}

#[tokio::test]
async fn a_worker_that_does_not_read_ends_with_the_coordinator() {
    let fixture = Fixture::start(Config::default()).await;
    let _worker = Worker::attach(&fixture, register("d", "decode")).await;
    fixture.watch().await.until(|view| view.workers.len() == 1).await;
    fixture.end().await;
}

#[tokio::test]
async fn what_happens_is_counted() {
    let fixture = Fixture::start(Config::default()).await;
    let _worker = Worker::ready(&fixture, register("m", "mixed")).await;
    fixture.placed(place("r", 10)).await;
    fixture.refused(place("r", 10_000)).await;
    fixture.end().await;
    let metrics = fixture.metrics();
    for line in [
        "hadal_coordinator_placements_total{outcome=\"placed\"} 1",
        "hadal_coordinator_placements_total{outcome=\"too_long\"} 1",
        "hadal_coordinator_affinity_total{outcome=\"cold\"} 1",
        "hadal_coordinator_snapshots_total 1",
        "hadal_coordinator_placement_seconds_count 2",
        "hadal_coordinator_queue_seconds_count 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_port_in_use_and_a_wrong_setting_are_refused() {
    let fixture = Fixture::start(Config::default()).await;
    let config = Config { grpc: fixture.handle.grpc_address.to_string(), ..Config::default() };
    let error = crate::start(config, hadal_shell::Shell::local()).await.err().unwrap();
    assert!(error.to_string().contains("port is in use"), "{error}");
    let config = Config { policy: "best".into(), ..Config::default() };
    let error = crate::start(config, hadal_shell::Shell::local()).await.err().unwrap();
    assert!(matches!(error, StartError::Config(_)), "{error}");
}
