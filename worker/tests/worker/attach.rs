//! The worker and its coordinator.

use hadal_proto::cluster as w;
use hadal_types::Role;
use hadal_worker::{Config, Engine, SimConfig};
use w::coordinator_command::Command;
use w::worker_report::Report;

use crate::setup::{Fake, LONG, Router, config, prompt, sim, until, worker};

fn is_heartbeat(report: &Report) -> bool {
    matches!(report, Report::Heartbeat(_))
}

#[tokio::test]
async fn a_worker_registers_and_beats_and_tells_of_its_cache() {
    let fake = Fake::default();
    let (coordinator, _stop) = fake.serve("127.0.0.1:0");
    let engine = sim();
    let config = Config { coordinator: coordinator.to_string(), ..config(Role::Mixed, "m") };
    let worker = worker(config, &engine).await;
    until("it is registered", || worker.registered()).await;
    let router = Router::new(&worker, &engine);
    router.ask(router.request("r", &prompt(1, 130), 70)).await;
    let stored = |r: &Report| matches!(r, Report::CacheEvents(e) if e.events.iter().any(|e| e.stored));
    until("blocks are announced", || fake.count("m", stored) > 0).await;
    until("it beats", || fake.count("m", is_heartbeat) > 2).await;

    let first = fake.reports.lock().unwrap()[0].1.clone();
    let Report::Register(register) = first else { panic!("Register comes first, not {first:?}") };
    assert_eq!(register.incarnation, worker.incarnation.0);
    assert_eq!(register.grpc_address, worker.grpc_address.to_string());
    assert_eq!(register.ledger.unwrap().parts.len(), 2);
    let samples = |r: &Report| matches!(r, Report::Heartbeat(h) if !h.steps.is_empty());
    assert!(fake.count("m", samples) > 0, "steps are reported");

    let before = fake.count("m", |r| matches!(r, Report::CacheSnapshot(_)));
    fake.command(Command::SnapshotWanted(w::SnapshotWanted {})).await;
    until("the snapshot comes", || fake.count("m", |r| matches!(r, Report::CacheSnapshot(_))) > before).await;
    let reports = fake.reports.lock().unwrap();
    let last = reports.iter().rev().find_map(|(_, r)| match r {
        Report::CacheSnapshot(snapshot) => Some(snapshot.clone()),
        _ => None,
    });
    // 199 rows are computed: the last token needs none.
    assert_eq!(last.unwrap().blocks.len(), 3);
}

#[tokio::test]
async fn a_long_step_does_not_silence_heartbeats() {
    let fake = Fake::default();
    let (coordinator, _stop) = fake.serve("127.0.0.1:0");
    let slow = SimConfig { step: std::time::Duration::from_millis(600), ..SimConfig::instant() };
    let engine = Engine::sim(slow, None, "sim");
    let config = Config { coordinator: coordinator.to_string(), ..config(Role::Mixed, "m") };
    let worker = worker(config, &engine).await;
    until("it is registered", || worker.registered()).await;
    let router = Router::new(&worker, &engine);
    let asked = router.request("r", &prompt(1, 10), 1);
    let ask = router.ask(asked);
    tokio::pin!(ask);
    tokio::select! {
        answer = &mut ask => panic!("too early: {answer:?}"),
        () = until("the step is under way", || worker.request_ids() == ["r"]) => {}
    }
    let before = fake.count("m", is_heartbeat);
    ask.await;
    assert!(fake.count("m", is_heartbeat) > before + 2);
}

#[tokio::test]
async fn a_worker_waits_for_a_coordinator_that_is_not_there_and_for_one_that_comes_back() {
    let place = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = place.local_addr().unwrap().to_string();
    drop(place);
    let engine = sim();
    let worker = worker(Config { coordinator: address.clone(), ..config(Role::Mixed, "m") }, &engine).await;
    let router = Router::new(&worker, &engine);
    assert_eq!(router.ask(router.request("r", &prompt(1, 70), 5)).await.tokens.len(), 5);
    assert!(!worker.registered());

    let fake = Fake::default();
    let (_, stop) = fake.serve(&address);
    let blocks = |r: &Report| matches!(r, Report::CacheSnapshot(s) if s.blocks.len() == 1);
    until("it registers and tells what was cached meanwhile", || fake.count("m", blocks) == 1).await;
    drop(stop);
    until("it notices the loss", || !worker.registered()).await;
    let (_, _stop) = fake.serve(&address);
    until("it registers again", || worker.registered()).await;
    assert_eq!(fake.count("m", |r| matches!(r, Report::Register(_))), 2);
    until("it tells again", || fake.count("m", blocks) == 2).await;
}

#[tokio::test]
async fn a_refused_worker_serves_on_and_says_so() {
    let fake = Fake { refuses: true, ..Fake::default() };
    let (coordinator, _stop) = fake.serve("127.0.0.1:0");
    let engine = sim();
    let config = Config { coordinator: coordinator.to_string(), ..config(Role::Mixed, "m") };
    let worker = worker(config, &engine).await;
    until("it asked", || fake.count("m", |r| matches!(r, Report::Register(_))) == 1).await;
    let router = Router::new(&worker, &engine);
    assert_eq!(router.ask(router.request("r", &prompt(1, 70), 5)).await.tokens.len(), 5);
    assert!(!worker.registered());
}

#[tokio::test]
async fn a_drained_worker_leaves() {
    let fake = Fake::default();
    let (coordinator, _stop) = fake.serve("127.0.0.1:0");
    let engine = sim();
    let config = Config { coordinator: coordinator.to_string(), ..config(Role::Mixed, "m") };
    let worker = worker(config, &engine).await;
    until("it is registered", || worker.registered()).await;
    fake.command(Command::Drain(w::Drain { term: 1 })).await;
    until("it says so", || fake.count("m", |r| matches!(r, Report::Leave(_))) == 1).await;
    worker.join(LONG).await.unwrap();
}

#[tokio::test]
async fn a_worker_follows_the_leader_and_obeys_no_deposed_one() {
    let leads = |term| w::LeaderView { leads: true, term, address: String::new() };
    let follows = |term| w::LeaderView { leads: false, term, address: String::new() };
    let (_later_says, later) = tokio::sync::watch::channel(leads(9));
    let (earlier_says, earlier) = tokio::sync::watch::channel(follows(0));
    let later = Fake { position: Some(later), term: 9, ..Fake::default() };
    let earlier = Fake { position: Some(earlier), term: 5, ..Fake::default() };
    let (later_address, stop_later) = later.serve("127.0.0.1:0");
    let (earlier_address, _stop) = earlier.serve("127.0.0.1:0");
    let engine = sim();
    // The first of the list does not lead.
    let coordinator = format!("{earlier_address},{later_address}");
    let worker = worker(Config { coordinator, ..config(Role::Mixed, "m") }, &engine).await;
    until("it is with the leader", || later.count("m", is_heartbeat) > 0).await;

    // The leader dies, and the one before, which was deposed, says that it leads.
    drop(stop_later);
    earlier_says.send_replace(leads(5));
    until("it is with the one that is left", || earlier.count("m", is_heartbeat) > 0).await;
    earlier.command(Command::Drain(w::Drain { term: 5 })).await;
    let told = |report: &Report| *report == Report::CommandRefused(w::CommandRefused { term: 5, term_highest: 9 });
    until("it refuses", || earlier.count("m", told) == 1).await;
    assert_eq!(earlier.count("m", |r| matches!(r, Report::Leave(_))), 0);
    earlier.command(Command::Drain(w::Drain { term: 10 })).await;
    until("it obeys", || earlier.count("m", |r| matches!(r, Report::Leave(_))) == 1).await;
    worker.join(LONG).await.unwrap();
}

#[tokio::test]
async fn small_files_are_read_by_name_and_nothing_else_is() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/deepseek_v32");
    let files = hadal_model::Files::open(folder.as_ref()).unwrap();
    let engine = Engine::sim(SimConfig::instant(), Some(&files), "tiny");
    let worker = worker(config(Role::Mixed, "m"), &engine).await;
    let router = Router::new(&worker, &engine);
    let read = |name: &str, fingerprint: &[u8]| {
        let request = w::ReadFileRequest { fingerprint: fingerprint.to_vec(), name: name.into() };
        let mut client = router.client.clone();
        async move {
            let mut stream = client.read_file(request).await?.into_inner();
            let mut bytes = Vec::new();
            while let Some(chunk) = stream.message().await? {
                bytes.extend_from_slice(&chunk.data);
            }
            Ok::<_, tonic::Status>(bytes)
        }
    };
    let fingerprint = files.fingerprint().0;
    let config_file = std::fs::read(format!("{folder}/config.json")).unwrap();
    assert_eq!(read("config.json", &fingerprint).await.unwrap(), config_file);
    for name in ["model.safetensors", "../deepseek_v32/config.json", "/etc/passwd", ""] {
        assert_eq!(read(name, &fingerprint).await.unwrap_err().code(), tonic::Code::NotFound, "{name}");
    }
    assert_eq!(read("config.json", &[0; 16]).await.unwrap_err().code(), tonic::Code::FailedPrecondition);
}
