//! The task that owns the core, for one term of leadership. Everything that happens comes to it through one bounded mailbox, and it carries out what
//! the core commands.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hadal_coordinator_core::{Answer, Command, ConnectionId, Core, Event, PlaceId, PlaceRequest, WorkerInfo};
use hadal_proto::cluster as w;
use hadal_types::Term;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use crate::counts::Counts;
use crate::leadership::Fence;
use crate::wire;

/// How often the core is told that time has passed, and calls whose router is gone are looked for.
const TICK: Duration = Duration::from_millis(50);

/// Watchers are told of workers that come and go at most this often.
const VIEW_INTERVAL: Duration = Duration::from_millis(20);

/// Watchers are told of ledgers and the queue at most this often.
const LEDGER_INTERVAL: Duration = Duration::from_millis(250);

/// Commands that may wait for one worker.
const COMMANDS_MAX: usize = 16;

/// What the actor sends to a worker's connection.
pub(crate) type Commands = mpsc::Sender<Result<w::CoordinatorCommand, Status>>;

/// What a worker's connection reads.
pub(crate) type CommandStream = mpsc::Receiver<Result<w::CoordinatorCommand, Status>>;

enum Message {
    Attach { connection: ConnectionId, worker: Box<WorkerInfo>, attached: Attached },
    Event(Event),
    Place { request: Box<PlaceRequest>, answer: oneshot::Sender<Answer> },
    Drain { worker: String, answer: oneshot::Sender<Result<Term, DrainError>> },
}

/// Why a worker was not told to drain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DrainError {
    #[error("no worker {0:?} is registered")]
    Unknown(String),
    #[error("this coordinator cannot show that it still leads, since its store does not answer; ask again")]
    Unconfirmed,
    #[error("worker {0:?} does not read its commands; ask again")]
    Deaf(String),
}

/// A worker's connection.
struct Attached {
    register: Box<w::Register>,
    commands: Commands,
    /// Ends the reader of the connection when the actor is done with it.
    _reader: DropGuard,
}

/// The coordinator has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator is shutting down")]
pub(crate) struct Ended;

/// The way to the actor.
#[derive(Clone)]
pub(crate) struct Mailbox {
    messages: mpsc::Sender<Message>,
    view: watch::Receiver<Arc<w::FleetView>>,
    connections: Arc<AtomicU64>,
    start: Instant,
}

impl Mailbox {
    /// A new connection and what its worker will read.
    pub(crate) fn connection(&self) -> (ConnectionId, Commands, CommandStream) {
        let (commands, stream) = mpsc::channel(COMMANDS_MAX);
        (ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed)), commands, stream)
    }

    /// The instant on the core's clock.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Introduces a worker; the token is cancelled when its connection has been given up.
    pub(crate) async fn attach(
        &self,
        connection: ConnectionId,
        register: Box<w::Register>,
        worker: WorkerInfo,
        commands: Commands,
    ) -> Result<CancellationToken, Ended> {
        let given_up = CancellationToken::new();
        let attached = Attached { register, commands, _reader: given_up.clone().drop_guard() };
        self.send(Message::Attach { connection, worker: Box::new(worker), attached }).await?;
        Ok(given_up)
    }

    /// Tells of what happened; waits while the mailbox is full.
    pub(crate) async fn event(&self, event: Event) -> Result<(), Ended> {
        self.send(Message::Event(event)).await
    }

    /// Waits for a place. Dropping the future gives the request up.
    pub(crate) async fn place(&self, request: PlaceRequest) -> Result<Answer, Ended> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Place { request: Box::new(request), answer }).await?;
        answered.await.map_err(|_| Ended)
    }

    /// Has a worker told to drain.
    pub(crate) async fn drain(&self, worker: String) -> Result<Result<Term, DrainError>, Ended> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Drain { worker, answer }).await?;
        answered.await.map_err(|_| Ended)
    }

    /// The fleet, and what becomes of it.
    pub(crate) fn view(&self) -> watch::Receiver<Arc<w::FleetView>> {
        self.view.clone()
    }

    async fn send(&self, message: Message) -> Result<(), Ended> {
        self.messages.send(message).await.map_err(|_| Ended)
    }
}

/// A call of Place that waits.
struct Call {
    answer: oneshot::Sender<Answer>,
}

/// The task's state.
pub(crate) struct Actor {
    core: Core,
    term: Term,
    fence: Arc<Fence>,
    counts: Counts,
    heartbeat: Duration,
    lost_after: Duration,
    start: Instant,
    messages: mpsc::Receiver<Message>,
    connections: HashMap<ConnectionId, Attached>,
    calls: HashMap<PlaceId, Call>,
    places: u64,
    /// None once draining, which ends the watchers' streams.
    view: Option<watch::Sender<Arc<w::FleetView>>>,
    published: Option<Instant>,
    publish_at: Option<Instant>,
    drain: CancellationToken,
}

/// What an actor is made of.
pub(crate) struct Parts {
    pub(crate) core: Core,
    pub(crate) term: Term,
    pub(crate) fence: Arc<Fence>,
    pub(crate) counts: Counts,
    pub(crate) heartbeat: Duration,
    pub(crate) lost_after: Duration,
    pub(crate) mailbox: usize,
    pub(crate) drain: CancellationToken,
}

impl Actor {
    pub(crate) fn new(parts: Parts) -> (Self, Mailbox) {
        let (sender, messages) = mpsc::channel(parts.mailbox);
        let empty = w::FleetView { term: parts.term.0, ..w::FleetView::default() };
        let (view, watched) = watch::channel(Arc::new(empty));
        let start = Instant::now();
        let mailbox = Mailbox { messages: sender, view: watched, connections: Arc::default(), start };
        let actor = Self {
            core: parts.core,
            term: parts.term,
            fence: parts.fence,
            counts: parts.counts,
            heartbeat: parts.heartbeat,
            lost_after: parts.lost_after,
            start,
            messages,
            connections: HashMap::new(),
            calls: HashMap::new(),
            places: 0,
            view: Some(view),
            published: None,
            publish_at: None,
            drain: parts.drain,
        };
        (actor, mailbox)
    }

    /// Runs until every mailbox is gone; after a drain it lets go of what still comes.
    pub(crate) async fn run(mut self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let drain = self.drain.clone();
        loop {
            let publish_at = self.publish_at;
            tokio::select! {
                biased;
                () = drain.cancelled(), if self.view.is_some() => self.begin_drain(),
                () = until(publish_at) => self.publish(),
                _ = ticks.tick() => self.tick(),
                message = self.messages.recv() => match message {
                    Some(message) => self.take(message),
                    None => break,
                },
            }
        }
        self.counts.gone(&self.core);
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Attach { connection, worker, attached } => {
                if self.view.is_none() {
                    return;
                }
                self.connections.insert(connection, attached);
                self.on(Event::Registered { connection, worker });
            }
            Message::Event(event) => {
                if let Event::WorkerLost { connection } = event {
                    self.connections.remove(&connection);
                }
                self.on(event);
            }
            Message::Place { request, answer } => {
                if self.view.is_none() {
                    return;
                }
                let place = PlaceId(self.places);
                self.places += 1;
                self.calls.insert(place, Call { answer });
                let began = Instant::now();
                self.on(Event::Place { place, request });
                self.counts.decided(began.elapsed());
            }
            Message::Drain { worker, answer } => {
                // Whoever asked has gone: the command stands.
                let _ = answer.send(self.drain_worker(&worker));
            }
        }
    }

    /// Commands a worker to drain, if this coordinator surely leads.
    fn drain_worker(&mut self, worker: &str) -> Result<Term, DrainError> {
        // Nothing is awaited from here until the command leaves.
        if !self.fence.is_open(Instant::now()) {
            return Err(DrainError::Unconfirmed);
        }
        let of_worker = |(_, attached): &(&ConnectionId, &Attached)| attached.register.worker_id == worker;
        let (_, attached) =
            self.connections.iter().find(of_worker).ok_or_else(|| DrainError::Unknown(worker.into()))?;
        let drain = w::coordinator_command::Command::Drain(w::Drain { term: self.term.0 });
        let command = Ok(w::CoordinatorCommand { command: Some(drain) });
        attached.commands.try_send(command).map_err(|_| DrainError::Deaf(worker.into()))?;
        tracing::info!(%worker, term = self.term.0, "worker told to drain");
        Ok(self.term)
    }

    fn tick(&mut self) {
        let gone: Vec<PlaceId> =
            self.calls.iter().filter(|(_, call)| call.answer.is_closed()).map(|(place, _)| *place).collect();
        for place in gone {
            self.calls.remove(&place);
            self.on(Event::PlaceCancelled { place });
        }
        self.on(Event::Tick);
        self.counts.show(&self.core);
    }

    fn begin_drain(&mut self) {
        tracing::info!(queued = self.core.queued(), workers = self.connections.len(), "coordinator drains");
        // Callers learn that the coordinator has ended, and ask its successor; to be refused would end their requests.
        self.calls.clear();
        self.on(Event::Drain);
        self.connections.clear();
        self.view = None;
        self.publish_at = None;
    }

    fn on(&mut self, event: Event) {
        let mut undelivered = Vec::new();
        for command in self.core.on(self.start.elapsed(), event) {
            undelivered.extend(self.carry_out(command));
        }
        // The router left between asking and the answer: what the answer had taken is free again.
        for place in undelivered {
            self.on(Event::PlaceCancelled { place });
        }
    }

    /// Carries a command out; returns the call whose answer nobody took.
    fn carry_out(&mut self, command: Command) -> Option<PlaceId> {
        match command {
            Command::Accept { connection } => {
                if let Some(attached) = self.connections.get(&connection) {
                    let register = &attached.register;
                    let (worker, role, model) = (&register.worker_id, &register.role, &register.model_name);
                    tracing::info!(%worker, incarnation = register.incarnation, %role, %model, "worker registered");
                }
                self.send(
                    connection,
                    w::coordinator_command::Command::Registered(w::Registered {
                        term: self.term.0,
                        heartbeat_ms: wire::millis(self.heartbeat),
                        lost_after_ms: wire::millis(self.lost_after),
                    }),
                );
            }
            Command::SnapshotWanted { connection } => {
                self.send(connection, w::coordinator_command::Command::SnapshotWanted(w::SnapshotWanted {}));
            }
            Command::RefuseWorker { connection, reason } => self.refuse(connection, reason, false),
            Command::Disconnect { connection, reason, again } => self.refuse(connection, reason, again),
            Command::Answer { place, answer } => {
                if let Answer::Placed(placement) = &answer {
                    self.counts.queued(placement.queued);
                }
                let call = self.calls.remove(&place)?;
                return call.answer.send(answer).err().map(|_| place);
            }
            Command::FleetChanged { membership } => {
                let interval = if membership { VIEW_INTERVAL } else { LEDGER_INTERVAL };
                let due = self.published.map_or_else(Instant::now, |last| last + interval);
                self.publish_at = Some(self.publish_at.map_or(due, |at| at.min(due)));
            }
        }
        None
    }

    /// Tells a worker why it is not registered any more, and forgets its connection.
    fn refuse(&mut self, connection: ConnectionId, reason: String, again: bool) {
        let worker = self.connections.get(&connection).map_or("", |a| a.register.worker_id.as_str());
        match again {
            true => tracing::warn!(%worker, %reason, "worker taken out"),
            false => tracing::warn!(%worker, %reason, "worker refused"),
        }
        self.send(connection, w::coordinator_command::Command::Refused(w::Refused { reason, again }));
        self.connections.remove(&connection);
    }

    /// Sends to a worker. One that reads nothing misses it; its silence will end it, and snapshots are asked for again.
    fn send(&mut self, connection: ConnectionId, command: w::coordinator_command::Command) {
        let Some(attached) = self.connections.get(&connection) else { return };
        if attached.commands.try_send(Ok(w::CoordinatorCommand { command: Some(command) })).is_err() {
            tracing::warn!(worker = %attached.register.worker_id, "a worker does not read its commands");
        }
    }

    fn publish(&mut self) {
        self.publish_at = None;
        self.published = Some(Instant::now());
        let worker = |view: hadal_coordinator_core::WorkerView<'_>| {
            let attached = self.connections.get(&view.connection)?;
            Some(wire::fleet_worker(view, &attached.register))
        };
        let view = w::FleetView {
            term: self.term.0,
            workers: self.core.workers().filter_map(worker).collect(),
            queued: u32::try_from(self.core.queued()).unwrap_or(u32::MAX),
        };
        if let Some(sender) = &self.view {
            sender.send_replace(Arc::new(view));
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
