//! Time of a placement: a whole `Place` in the core (queue, directory, candidates, policy, claims), in CPU time.

use std::time::Duration;

use anyhow::{Context, Result};
use hadal_coordinator_core::{
    Answer, Command, Config, ConnectionId, Core, Event, PlaceId, PlaceRequest, SnapshotBlock, SnapshotChunk,
    WorkerInfo, policy,
};
use hadal_types::{
    ChainHash, Encoding, Field, Fingerprint, Geometry, Incarnation, Keep, LayerId, Ledger, NumericsClass, Part,
    PartLedger, PartSet, Placement as Rows, Priority, RequestId, Role, Store, Tier, WorkerId,
};
use rustix::time::{ClockId, clock_gettime};

use crate::stream::{Random, chain_hash};

const WORKERS: u64 = 1000;
const SESSIONS: u64 = 6;
const SHARED: u64 = 234;
const PROMPT: u64 = 2048;
const PLACEMENTS: u64 = 20_000;
const CLASS: NumericsClass = NumericsClass([1; 16]);

fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn info(worker: u64, role: Role) -> WorkerInfo {
    let store = |part| Store {
        owner: LayerId(0),
        part,
        stride: 1,
        record: vec![Field { name: "row".into(), encoding: Encoding::F32, count: 1 }],
        placement: Rows::PerRow,
        keep: Keep::All,
    };
    let part =
        |part| PartLedger { part, page_bytes: 256, pages_total: 40_000, pages_free: 20_000, pages_cached: 20_000 };
    WorkerInfo {
        id: WorkerId(format!("worker-{worker}")),
        incarnation: Incarnation(1),
        role,
        model: "m".into(),
        fingerprint: Fingerprint([1; 16]),
        class: CLASS,
        geometry: Geometry {
            layout: "l".into(),
            stores: Part::ALL.into_iter().map(store).collect(),
            layers: Vec::new(),
        },
        address: format!("worker-{worker}:1"),
        context_tokens: 1 << 20,
        ledger: Ledger { parts: Part::ALL.into_iter().map(part).collect(), ..Ledger::default() },
    }
}

fn chain(session: u64) -> impl Iterator<Item = ChainHash> {
    (0..PROMPT).map(move |n| chain_hash(Random(if n < SHARED { n } else { (session + 1) << 32 | n }).next()))
}

/// How many blocks of a session its worker holds.
fn depth(session: u64, spread: bool) -> u64 {
    if spread { 1 + Random(session).below(PROMPT) } else { PROMPT - Random(session).below(200) }
}

/// A fleet where every worker holds the shared beginning and some sessions or, `spread`, each a part of another length of
/// a few sessions.
fn fleet(spread: bool) -> Result<Core> {
    let policy = policy::by_name(policy::names()[0], &policy::Settings::default())?;
    let mut core = Core::new(Config::default(), policy);
    for worker in 0..WORKERS {
        let role = if worker % 2 == 0 { Role::Prefill } else { Role::Decode };
        let connection = ConnectionId(worker);
        core.on(Duration::ZERO, Event::Registered { connection, worker: Box::new(info(worker, role)) });
        let mut hashes: Vec<ChainHash> = chain(0).take(SHARED as usize).collect();
        for n in 0..if spread { 10 } else { SESSIONS } {
            let (session, seed) =
                if spread { (n, worker << 8 | n) } else { (worker * SESSIONS + n, worker * SESSIONS + n) };
            hashes.extend(chain(session).take(depth(seed, spread) as usize).skip(SHARED as usize));
        }
        let parts: PartSet = Part::ALL.into_iter().collect();
        let blocks = hashes.into_iter().map(|hash| SnapshotBlock { hash, parts, tier: Tier::Device }).collect();
        let chunk = SnapshotChunk { incarnation: Incarnation(1), sequence: 0, blocks, first: true, last: true };
        core.on(Duration::ZERO, Event::CacheSnapshot { connection, chunk });
    }
    Ok(core)
}

pub fn run(spread: bool) -> Result<()> {
    let mut core = fleet(spread)?;
    let mut random = Random(3);
    let mut times = Vec::new();
    let mut hits = 0;
    for n in 0..PLACEMENTS {
        let session = random.below(if spread { 10 } else { WORKERS * SESSIONS });
        let request = PlaceRequest {
            request: RequestId::new(format!("r{n}"))?,
            model: "m".into(),
            chains: vec![(CLASS, chain(session).collect())],
            prompt_tokens: PROMPT as u32 * 64,
            max_tokens: 256,
            priority: Priority(0),
            tenant: String::new(),
            deadline: None,
            exclude: Vec::new(),
            class: None,
            session: String::new(),
            attempt: 0,
        };
        let (place, request) = (PlaceId(n), Box::new(request));
        let start = cpu_ns();
        let commands = core.on(Duration::from_micros(n), Event::Place { place, request });
        times.push(cpu_ns() - start);
        let answer = commands
            .iter()
            .find_map(|c| if let Command::Answer { answer: Answer::Placed(p), .. } = c { Some(p) } else { None });
        hits += u64::from(answer.context("every request is placed")?.decode.cached_tokens) / 64;
        core.on(Duration::from_micros(n), Event::PlaceCancelled { place });
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100] as f64 / 1e3;
    println!(
        "placing: {WORKERS} workers, {} pairs, {PROMPT} blocks, {}: p50 {:.1} us, p90 {:.1} us, p99 {:.1} us; {} blocks found on average",
        core.blocks(),
        if spread { "every worker holds another length of it" } else { "all hold its beginning, one the most of it" },
        at(50),
        at(90),
        at(99),
        hits / PLACEMENTS
    );
    Ok(())
}
