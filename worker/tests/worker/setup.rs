//! A fleet in one process: a coordinator that notes what it is told, workers, and a router's calls to them.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hadal_proto::cluster as w;
use hadal_proto::cluster::coordinator_server::{Coordinator, CoordinatorServer};
use hadal_proto::cluster::worker_client::WorkerClient;
use hadal_shell::tls::Tls;
use hadal_shell::{Shell, grpc};
use hadal_types::{Part, Role, SamplingParams};
use hadal_worker::{Config, Engine, Handle, SimConfig, start};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use w::coordinator_command::Command;
use w::generate_event::Event;
use w::worker_report::Report;

/// Longer than anything here takes; a test that waits so long has failed.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Waits until something holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    let wait = async {
        while !holds() {
            ticks.tick().await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// What the coordinator was told, by worker id.
pub(crate) type Reports = Arc<Mutex<Vec<(String, Report)>>>;

type CommandSender = mpsc::Sender<Result<w::CoordinatorCommand, Status>>;

/// A coordinator that registers everybody and places nothing.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub(crate) reports: Reports,
    /// Sent to every worker that connects, after its registration.
    pub(crate) commands: Arc<Mutex<Vec<CommandSender>>>,
    pub(crate) refuses: bool,
    /// What it says of who leads; none for a release that knows no standbys.
    pub(crate) position: Option<tokio::sync::watch::Receiver<w::LeaderView>>,
    /// Its term; 0 stands for 1.
    pub(crate) term: u64,
}

type Commands<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Coordinator for Fake {
    type AttachStream = Commands<w::CoordinatorCommand>;
    type WatchStream = Commands<w::FleetView>;
    type LeaderStream = Commands<w::LeaderView>;

    async fn leader(&self, _: Request<w::LeaderRequest>) -> Result<Response<Self::LeaderStream>, Status> {
        let receiver = self.position.clone().ok_or_else(|| Status::unimplemented("a release without standbys"))?;
        let views = tokio_stream::wrappers::WatchStream::new(receiver);
        Ok(Response::new(Box::pin(views.map(Ok))))
    }

    async fn drain_worker(
        &self,
        _: Request<w::DrainWorkerRequest>,
    ) -> Result<Response<w::DrainWorkerResponse>, Status> {
        Err(Status::unimplemented("tests command themselves"))
    }

    async fn attach(
        &self,
        request: Request<Streaming<w::WorkerReport>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut incoming = request.into_inner();
        let (commands, outgoing) = mpsc::channel(16);
        let this = self.clone();
        tokio::spawn(async move {
            let mut id = String::new();
            while let Ok(Some(w::WorkerReport { report: Some(report) })) = incoming.message().await {
                if let Report::Register(register) = &report {
                    id = register.worker_id.clone();
                    let _ = commands.send(Ok(this.answer())).await;
                    // What is cached there is not known here yet.
                    let wanted = Command::SnapshotWanted(w::SnapshotWanted {});
                    let _ = commands.send(Ok(w::CoordinatorCommand { command: Some(wanted) })).await;
                    this.commands.lock().unwrap().push(commands.clone());
                }
                this.reports.lock().unwrap().push((id.clone(), report));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn place(&self, _: Request<w::PlaceRequest>) -> Result<Response<w::PlaceResponse>, Status> {
        Err(Status::unimplemented("tests place themselves"))
    }

    async fn watch(&self, _: Request<w::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("tests place themselves"))
    }
}

/// A running coordinator.
pub(crate) struct Crash(Option<Runtime>);

impl Drop for Crash {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Fake {
    fn answer(&self) -> w::CoordinatorCommand {
        let command = if self.refuses {
            Command::Refused(w::Refused { reason: "two workers of that name".into(), again: false })
        } else {
            Command::Registered(w::Registered { term: self.term.max(1), heartbeat_ms: 20, lost_after_ms: 1000 })
        };
        w::CoordinatorCommand { command: Some(command) }
    }

    /// Serves at `address` until what is returned is dropped, which cuts every connection, as a crash does.
    pub(crate) fn serve(&self, address: &str) -> (SocketAddr, Crash) {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Routes::new(CoordinatorServer::new(self.clone()));
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            grpc::serve(listener, None, routes, CancellationToken::new()).await
        });
        (address, Crash(Some(runtime)))
    }

    pub(crate) fn count(&self, id: &str, of: impl Fn(&Report) -> bool) -> usize {
        self.reports.lock().unwrap().iter().filter(|(worker, report)| worker == id && of(report)).count()
    }

    /// Sends a command to every connection.
    pub(crate) async fn command(&self, command: Command) {
        let senders = self.commands.lock().unwrap().clone();
        for sender in senders {
            let _ = sender.send(Ok(w::CoordinatorCommand { command: Some(command.clone()) })).await;
        }
    }
}

/// A simulated engine whose steps take no time.
pub(crate) fn sim() -> Engine {
    Engine::sim(SimConfig::instant(), None, "sim")
}

/// A worker of a role, with memory for 64 blocks.
pub(crate) fn config(role: Role, id: &str) -> Config {
    Config {
        role,
        id: Some(id.to_owned()),
        coordinator: "127.0.0.1:1".into(),
        kv_tokens: Some(64 * 64),
        step_tokens: 96,
        chunk_tokens: 80,
        requests_max: 32,
        ..Config::default()
    }
}

pub(crate) async fn worker(config: Config, engine: &Engine) -> Handle {
    start(config, engine.clone(), Shell::local()).await.unwrap()
}

pub(crate) fn reference(worker: &Handle) -> w::WorkerRef {
    w::WorkerRef {
        id: worker.id.0.clone(),
        incarnation: worker.incarnation.0,
        grpc_address: worker.grpc_address.to_string(),
    }
}

/// Whether every page is free or cached, and no request is left.
pub(crate) fn is_idle(worker: &Handle) -> bool {
    let ledger = worker.ledger();
    let free = Part::ALL.iter().filter_map(|p| ledger.part(*p)).all(|p| p.pages_available() == p.pages_total);
    free && worker.request_ids().is_empty()
}

/// A router's connection to a decode worker.
pub(crate) struct Router {
    pub(crate) client: WorkerClient<Channel>,
    engine: Engine,
}

/// What came back.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) tokens: Vec<u32>,
    pub(crate) logprobs: Vec<w::TokenLogprobs>,
    pub(crate) started: Option<w::Started>,
    pub(crate) finished: Option<i32>,
    pub(crate) error: Option<w::Error>,
}

impl Router {
    pub(crate) fn new(worker: &Handle, engine: &Engine) -> Self {
        Self::over(worker, engine, None)
    }

    pub(crate) fn over(worker: &Handle, engine: &Engine, tls: Option<&Tls>) -> Self {
        let channel = grpc::channel(&worker.grpc_address.to_string(), tls).unwrap();
        Self { client: WorkerClient::new(channel), engine: engine.clone() }
    }

    pub(crate) fn request(&self, id: &str, prompt: &[u32], max_tokens: u32) -> w::GenerateRequest {
        let info = self.engine.info();
        let sampling =
            SamplingParams { temperature: 1.0, seed: 11, max_tokens, logprobs: Some(2), ..Default::default() };
        w::GenerateRequest {
            context: Some(w::RequestContext { request_id: id.into(), ..Default::default() }),
            fingerprint: info.fingerprint.0.to_vec(),
            numerics_class: info.class.0.to_vec(),
            tokens: prompt.to_vec(),
            prompt_tokens: prompt.len() as u32,
            sampling: Some((&sampling).into()),
            prefill: None,
            lease_id: Vec::new(),
            lease_ms: 0,
            incarnation: 0,
        }
    }

    pub(crate) async fn open(&self, request: w::GenerateRequest) -> Streaming<w::GenerateEvent> {
        self.client.clone().generate(request).await.unwrap().into_inner()
    }

    /// Reads an answer to its end and checks that every token came once, in order.
    pub(crate) async fn ask(&self, request: w::GenerateRequest) -> Answer {
        let mut index = request.tokens.len() as u32 - request.prompt_tokens;
        let mut stream = self.open(request).await;
        let mut answer = Answer::default();
        while let Some(event) = tokio::time::timeout(LONG, stream.next()).await.expect("an answer in time") {
            match event.unwrap().event.unwrap() {
                Event::Started(started) => answer.started = Some(started),
                Event::Delta(delta) => {
                    assert!(answer.started.is_some(), "Started comes first");
                    assert_eq!(delta.first_token, index, "tokens come in order");
                    index += delta.tokens.len() as u32;
                    answer.tokens.extend(delta.tokens);
                    answer.logprobs.extend(delta.logprobs);
                }
                Event::Finished(finished) => answer.finished = Some(finished.reason),
                Event::Error(error) => answer.error = Some(error),
                Event::Moved(_) => panic!("nothing moves here"),
            }
        }
        answer
    }
}

/// A prompt that no other number shares a block with.
pub(crate) fn prompt(number: u32, tokens: u32) -> Vec<u32> {
    (0..tokens).map(|i| (i * 7 + number * 1009) % 100_000).collect()
}
