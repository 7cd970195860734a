//! A coordinator on loopback, and what talks to it.

use std::time::Duration;

use hadal_proto::cluster as w;
use hadal_proto::cluster::coordinator_client::CoordinatorClient;
use hadal_proto::cluster::coordinator_command::Command;
use hadal_proto::cluster::place_response::Answer;
use hadal_proto::cluster::worker_report::Report;
use hadal_shell::Shell;
use hadal_shell::metrics::Metrics;
use hadal_types::{Encoding, Field, Geometry, Keep, LayerId, Part, Placement, Store};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::{Config, Handle, start};

/// Every wait of a test ends: what takes so long will never come.
pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it came in time")
}

pub(super) struct Fixture {
    pub(super) handle: Handle,
    metrics: Metrics,
    channel: Channel,
}

impl Fixture {
    pub(super) async fn start(config: Config) -> Self {
        let shell = Shell::local();
        let metrics = shell.metrics.clone();
        let handle = start(Config { grpc: "127.0.0.1:0".into(), ..config }, shell).await.unwrap();
        let channel = hadal_shell::grpc::channel(&handle.grpc_address.to_string(), None).unwrap();
        Self { handle, metrics, channel }
    }

    fn client(&self) -> CoordinatorClient<Channel> {
        CoordinatorClient::new(self.channel.clone())
    }

    pub(super) async fn watch(&self) -> Watch {
        Watch(soon(self.client().watch(w::WatchRequest {})).await.unwrap().into_inner())
    }

    /// Asks for a place, as a task of its own.
    pub(super) fn spawn_place(&self, request: w::PlaceRequest) -> JoinHandle<Result<Answer, tonic::Status>> {
        let mut client = self.client();
        tokio::spawn(async move { Ok(client.place(request).await?.into_inner().answer.unwrap()) })
    }

    pub(super) async fn placed(&self, request: w::PlaceRequest) -> w::Placement {
        match soon(self.spawn_place(request)).await.unwrap().unwrap() {
            Answer::Placement(placement) => placement,
            Answer::Refusal(refusal) => panic!("refused: {refusal:?}"),
        }
    }

    pub(super) async fn refused(&self, request: w::PlaceRequest) -> w::Refusal {
        match soon(self.spawn_place(request)).await.unwrap().unwrap() {
            Answer::Refusal(refusal) => refusal,
            Answer::Placement(placement) => panic!("placed: {placement:?}"),
        }
    }

    /// Drains, and shows that everything ends.
    pub(super) async fn end(&self) {
        self.handle.join(Duration::from_secs(20)).await.unwrap();
    }

    pub(super) fn metrics(&self) -> String {
        hadal_shell::metrics::render([&self.metrics])
    }
}

pub(super) struct Watch(Streaming<w::FleetView>);

impl Watch {
    pub(super) async fn next(&mut self) -> w::FleetView {
        soon(self.0.message()).await.unwrap().expect("a view")
    }

    pub(super) async fn until(&mut self, wanted: impl Fn(&w::FleetView) -> bool) -> w::FleetView {
        loop {
            let view = self.next().await;
            if wanted(&view) {
                return view;
            }
        }
    }

    pub(super) async fn end(&mut self) {
        while let Ok(Some(_)) = soon(self.0.message()).await {}
    }
}

pub(super) struct Worker {
    reports: mpsc::Sender<w::WorkerReport>,
    commands: Streaming<w::CoordinatorCommand>,
}

impl Worker {
    pub(super) async fn open(fixture: &Fixture, first: Report) -> Self {
        let (reports, stream) = mpsc::channel(16);
        reports.send(w::WorkerReport { report: Some(first) }).await.unwrap();
        let commands = soon(fixture.client().attach(ReceiverStream::new(stream))).await.unwrap().into_inner();
        Self { reports, commands }
    }

    pub(super) async fn attach(fixture: &Fixture, register: w::Register) -> Self {
        Self::open(fixture, Report::Register(register)).await
    }

    /// A registered worker that has told that its cache is empty.
    pub(super) async fn ready(fixture: &Fixture, register: w::Register) -> Self {
        let mut worker = Self::attach(fixture, register).await;
        assert!(matches!(worker.command().await, Command::Registered(_)));
        assert!(matches!(worker.command().await, Command::SnapshotWanted(_)));
        worker.snapshot(0, 0).await;
        worker
    }

    pub(super) async fn command(&mut self) -> Command {
        soon(self.commands.message()).await.unwrap().expect("a command").command.unwrap()
    }

    /// The reason of the refusal that comes.
    pub(super) async fn refusal(&mut self) -> String {
        loop {
            if let Command::Refused(refused) = self.command().await {
                return refused.reason;
            }
        }
    }

    /// The stream ends.
    pub(super) async fn end(&mut self) {
        while let Ok(Some(_)) = soon(self.commands.message()).await {}
    }

    async fn report(&self, report: Report) {
        soon(self.reports.send(w::WorkerReport { report: Some(report) })).await.unwrap();
    }

    pub(super) async fn heartbeat(&self, sequence: u64, ledger: w::Ledger, requests: &[&str], draining: bool) {
        let request_ids = requests.iter().map(|r| (*r).to_owned()).collect();
        let (ledger, steps) = (Some(ledger), Vec::new());
        let heartbeat = w::Heartbeat { sequence, ledger, steps, request_ids, draining, prefill_tokens_queued: 0 };
        self.report(Report::Heartbeat(heartbeat)).await;
    }

    /// Tells that block `n` has been stored.
    pub(super) async fn stored(&self, sequence: u64, n: u8) {
        let event = w::CacheEvent { sequence, hash: block(n), stored: true, parts: 3, tier: 0 };
        self.report(Report::CacheEvents(w::CacheEvents { incarnation: 1, events: vec![event] })).await;
    }

    /// Tells that the first so many blocks are held.
    pub(super) async fn snapshot(&self, sequence: u64, blocks: u8) {
        let held = |n| w::cache_snapshot::Block { hash: block(n), parts: 3, tier: 0 };
        let blocks = (0..blocks).map(held).collect();
        let snapshot = w::CacheSnapshot { incarnation: 1, sequence, blocks, first: true, last: true };
        self.report(Report::CacheSnapshot(snapshot)).await;
    }
}

/// The hash of the block with that number.
pub(super) fn block(n: u8) -> Vec<u8> {
    vec![n + 1; 16]
}

pub(super) fn ledger(total: u64, free: u64, cached: u64) -> w::Ledger {
    let part =
        |part| w::PartLedger { part, page_bytes: 256, pages_total: total, pages_free: free, pages_cached: cached };
    w::Ledger { weights_bytes: 0, workspace_bytes: 0, parts: vec![part(0), part(1)] }
}

pub(super) fn register(id: &str, role: &str) -> w::Register {
    let store = |part| Store {
        owner: LayerId(0),
        part,
        stride: 1,
        record: vec![Field { name: "row".into(), encoding: Encoding::F32, count: 1 }],
        placement: Placement::PerRow,
        keep: Keep::All,
    };
    let stores = Part::ALL.into_iter().map(store).collect();
    let geometry = Geometry { layout: "l".into(), stores, layers: Vec::new() };
    w::Register {
        protocol_version: hadal_proto::PROTOCOL_VERSION,
        worker_id: id.into(),
        incarnation: 1,
        role: role.into(),
        model_name: "model".into(),
        architecture: "arch".into(),
        fingerprint: vec![1; 16],
        numerics_class: vec![2; 16],
        geometry: Some((&geometry).into()),
        grpc_address: format!("{id}:1"),
        transfer_address: String::new(),
        ledger: Some(ledger(100, 100, 0)),
        context_tokens: 8192,
        files: vec![w::ModelFile { name: "config.json".into(), blake3: vec![0; 32], bytes: 1 }],
    }
}

pub(super) fn place(id: &str, prompt_tokens: u32) -> w::PlaceRequest {
    w::PlaceRequest {
        context: Some(w::RequestContext { request_id: id.into(), ..w::RequestContext::default() }),
        model: "model".into(),
        prompt_tokens,
        max_tokens: 16,
        ..w::PlaceRequest::default()
    }
}
