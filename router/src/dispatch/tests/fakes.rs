//! A coordinator and workers on loopback that do what a test says.
//!
//! Workers' tokens are a function of choice and index alone, as real ones' are within a class, so that a continuation
//! can be told from a repetition.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::Stream;
use hadal_proto::cluster as w;
use hadal_proto::cluster::coordinator_server::{Coordinator, CoordinatorServer};
use hadal_proto::cluster::worker_server::{Worker, WorkerServer};
use hadal_router_core::ModelText;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Files of a real small model.
pub(super) fn files() -> BTreeMap<String, Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/deepseek_v32");
    let read = |name: &str| Some((name.to_owned(), std::fs::read(format!("{folder}/{name}")).ok()?));
    ModelText::FILES.into_iter().filter_map(read).collect()
}

/// Token `index` of choice `choice`: a word's piece, never a special token.
pub(super) fn token(choice: u32, index: u32) -> u32 {
    100 + (index * 7 + choice * 13) % 90
}

/// What a worker does with one Generate.
#[derive(Clone, Debug)]
pub(super) enum Play {
    /// Answers to the end.
    Answer,
    /// Answers so many tokens, then the connection breaks.
    Die(u32),
    /// Answers so many tokens, then the stream just ends.
    Stop(u32),
    /// Sends the last token again before it goes on, and dies after so many in all.
    Repeat(u32),
    /// Refuses.
    Refuse(w::error::Kind, bool),
    /// Accepts and says nothing more.
    Hang,
}

#[derive(Clone)]
pub(super) struct FakeWorker(Arc<WorkerState>);

struct WorkerState {
    id: String,
    class: u8,
    address: String,
    files: BTreeMap<String, Vec<u8>>,
    plays: Mutex<VecDeque<Play>>,
    requests: Mutex<Vec<w::GenerateRequest>>,
    sent: AtomicU32,
    /// A Generate was dropped by its caller.
    dropped: Notify,
    /// A send waits for its reader.
    blocked: Notify,
}

impl FakeWorker {
    /// A worker that plays these, one after another, and answers from then on.
    pub(super) async fn start(id: &str, plays: &[Play]) -> Self {
        Self::of_class(id, 1, plays).await
    }

    pub(super) async fn of_class(id: &str, class: u8, plays: &[Play]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let worker = Self(Arc::new(WorkerState {
            id: id.into(),
            class,
            address: listener.local_addr().unwrap().to_string(),
            files: files(),
            plays: Mutex::new(plays.iter().cloned().collect()),
            requests: Mutex::default(),
            sent: AtomicU32::new(0),
            dropped: Notify::new(),
            blocked: Notify::new(),
        }));
        let server = tonic::transport::Server::builder().add_service(WorkerServer::new(worker.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        worker
    }

    /// The requests that came.
    pub(super) fn requests(&self) -> Vec<w::GenerateRequest> {
        self.0.requests.lock().unwrap().clone()
    }

    /// Deltas handed to the connection.
    pub(super) fn sent(&self) -> u32 {
        self.0.sent.load(Ordering::SeqCst)
    }

    /// Resolves when the caller has dropped a Generate.
    pub(super) async fn dropped(&self) {
        self.0.dropped.notified().await;
    }

    /// Resolves when a delta has waited for its reader.
    pub(super) async fn blocked(&self) {
        self.0.blocked.notified().await;
    }

    pub(super) fn view(&self) -> w::FleetWorker {
        let file = |(name, bytes): (&String, &Vec<u8>)| w::ModelFile {
            name: name.clone(),
            blake3: blake3::hash(bytes).as_bytes().to_vec(),
            bytes: bytes.len() as u64,
        };
        let part = w::PartLedger { part: 1, page_bytes: 1, pages_total: 1 << 20, pages_free: 1 << 20, pages_cached: 0 };
        w::FleetWorker {
            id: self.0.id.clone(),
            incarnation: 5,
            role: "mixed".into(),
            model_name: "tiny".into(),
            architecture: "deepseek_v32".into(),
            fingerprint: vec![9; 16],
            numerics_class: vec![self.0.class; 16],
            grpc_address: self.0.address.clone(),
            context_tokens: 1 << 20,
            ledger: Some(w::Ledger { parts: vec![part], ..Default::default() }),
            files: self.0.files.iter().map(file).collect(),
            ..Default::default()
        }
    }

    async fn play(
        self,
        request: w::GenerateRequest,
        play: Play,
        events: mpsc::Sender<Result<w::GenerateEvent, Status>>,
    ) {
        use w::generate_event::Event;
        let send = async |event| events.send(Ok(w::GenerateEvent { event: Some(event) })).await.is_ok();
        if let Play::Refuse(kind, retryable) = play {
            let error = w::Error { kind: kind.into(), message: format!("{kind:?}"), retryable, worker_fault: true };
            send(Event::Error(error)).await;
            return;
        }
        send(Event::Started(w::Started { cached_tokens: 2, prefill_worker: String::new() })).await;
        let sampling = request.sampling.unwrap_or_default();
        let first = request.tokens.len() as u32 - request.prompt_tokens;
        let (from, to) = match play {
            Play::Die(tokens) | Play::Stop(tokens) => (first, first + tokens),
            Play::Repeat(tokens) => (first.saturating_sub(1), first + tokens),
            Play::Hang => (first, first),
            Play::Answer | Play::Refuse(..) => (first, sampling.max_tokens),
        };
        for index in from..to.min(sampling.max_tokens) {
            let delta = w::Delta { first_token: index, tokens: vec![token(sampling.choice, index)], logprobs: vec![] };
            let sending = send(Event::Delta(delta));
            tokio::pin!(sending);
            let sent = match tokio::time::timeout(Duration::from_millis(300), &mut sending).await {
                Ok(sent) => sent,
                Err(_) => {
                    self.0.blocked.notify_one();
                    sending.await
                }
            };
            if !sent {
                self.0.dropped.notify_one();
                return;
            }
            self.0.sent.fetch_add(1, Ordering::SeqCst);
        }
        match play {
            Play::Die(_) | Play::Repeat(_) => _ = events.send(Err(Status::unavailable("connection reset"))).await,
            Play::Hang => {
                events.closed().await;
                self.0.dropped.notify_one();
            }
            Play::Answer => {
                let reason = w::finished::Reason::Length.into();
                if !send(Event::Finished(w::Finished { reason, ..Default::default() })).await {
                    self.0.dropped.notify_one();
                }
            }
            Play::Stop(_) | Play::Refuse(..) => {}
        }
    }
}

#[tonic::async_trait]
impl Worker for FakeWorker {
    type GenerateStream = Events<w::GenerateEvent>;
    type PrefillStream = Events<w::PrefillEvent>;
    type ReadFileStream = Events<w::FileChunk>;

    async fn generate(&self, request: Request<w::GenerateRequest>) -> Result<Response<Self::GenerateStream>, Status> {
        let request = request.into_inner();
        self.0.requests.lock().unwrap().push(request.clone());
        let play = self.0.plays.lock().unwrap().pop_front().unwrap_or(Play::Answer);
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(self.clone().play(request, play, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn prefill(&self, _: Request<w::PrefillRequest>) -> Result<Response<Self::PrefillStream>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn read_file(&self, request: Request<w::ReadFileRequest>) -> Result<Response<Self::ReadFileStream>, Status> {
        let name = request.into_inner().name;
        let bytes = self.0.files.get(&name).ok_or_else(|| Status::not_found(name))?;
        let chunks: Vec<_> = bytes.chunks(10_000).map(|c| Ok(w::FileChunk { data: c.to_vec().into() })).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }
}

#[derive(Clone)]
pub(super) struct FakeCoordinator(Arc<CoordinatorState>);

struct CoordinatorState {
    workers: watch::Sender<Vec<FakeWorker>>,
    places: Mutex<Vec<w::PlaceRequest>>,
    refusal: Mutex<Option<w::Refusal>>,
}

impl FakeCoordinator {
    pub(super) async fn start(workers: &[FakeWorker]) -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (Self::serve(listener, workers), address)
    }

    pub(super) fn serve(listener: TcpListener, workers: &[FakeWorker]) -> Self {
        let (workers, _) = watch::channel(workers.to_vec());
        let coordinator =
            Self(Arc::new(CoordinatorState { workers, places: Mutex::default(), refusal: Mutex::default() }));
        let server = tonic::transport::Server::builder().add_service(CoordinatorServer::new(coordinator.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        coordinator
    }

    /// The calls of Place.
    pub(super) fn places(&self) -> Vec<w::PlaceRequest> {
        self.0.places.lock().unwrap().clone()
    }

    /// Every Place is refused from now on.
    pub(super) fn refuse(&self, refusal: w::Refusal) {
        *self.0.refusal.lock().unwrap() = Some(refusal);
    }

    pub(super) fn add(&self, worker: &FakeWorker) {
        self.0.workers.send_modify(|workers| workers.push(worker.clone()));
    }
}

#[tonic::async_trait]
impl Coordinator for FakeCoordinator {
    type AttachStream = Events<w::CoordinatorCommand>;
    type WatchStream = Events<w::FleetView>;
    type LeaderStream = Events<w::LeaderView>;

    async fn leader(&self, _: Request<w::LeaderRequest>) -> Result<Response<Self::LeaderStream>, Status> {
        Err(Status::unimplemented("a release without standbys"))
    }

    async fn drain_worker(
        &self,
        _: Request<w::DrainWorkerRequest>,
    ) -> Result<Response<w::DrainWorkerResponse>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn attach(&self, _: Request<Streaming<w::WorkerReport>>) -> Result<Response<Self::AttachStream>, Status> {
        Err(Status::unimplemented("not played"))
    }

    /// The first worker that is not excluded, or else the first.
    async fn place(&self, request: Request<w::PlaceRequest>) -> Result<Response<w::PlaceResponse>, Status> {
        use w::place_response::Answer;
        let request = request.into_inner();
        self.0.places.lock().unwrap().push(request.clone());
        if let Some(refusal) = self.0.refusal.lock().unwrap().clone() {
            return Ok(Response::new(w::PlaceResponse { answer: Some(Answer::Refusal(refusal)) }));
        }
        let workers = self.0.workers.borrow().clone();
        let class = |worker: &&FakeWorker| {
            request.numerics_class.is_empty() || worker.view().numerics_class == request.numerics_class
        };
        let able: Vec<&FakeWorker> = workers.iter().filter(class).collect();
        let chosen = able.iter().find(|worker| !request.exclude.contains(&worker.0.id)).or(able.first());
        let view = chosen.ok_or_else(|| Status::internal("no worker of that class"))?.view();
        let decode = w::WorkerRef { id: view.id, incarnation: view.incarnation, grpc_address: view.grpc_address };
        let placement = w::Placement { decode: Some(decode), lease_id: vec![3; 16], ..Default::default() };
        Ok(Response::new(w::PlaceResponse { answer: Some(Answer::Placement(placement)) }))
    }

    async fn watch(&self, _: Request<w::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let mut workers = self.0.workers.subscribe();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let view = workers.borrow_and_update().iter().map(FakeWorker::view).collect();
                let view = w::FleetView { term: 1, workers: view, queued: 0 };
                if sender.send(Ok(view)).await.is_err() || workers.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
