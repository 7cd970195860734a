//! The connection to the coordinator that leads: registration first, then heartbeats and cache events, until it breaks or
//! another one leads; then again, for ever. It runs beside the step thread and reads what that shows, so a long step cannot silence it.

mod report;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hadal_proto::cluster as w;
use hadal_proto::cluster::coordinator_client::CoordinatorClient;
use hadal_shell::grpc::{MESSAGE_BYTES_MAX, explain};
use hadal_shell::leader::{Leader, Target};
use hadal_types::{CacheEvent, Term};
use hadal_worker_core::CacheSnapshot;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use w::coordinator_command::Command;
use w::worker_report::Report;

use crate::fence::Fence;
use crate::metrics::Counters;
use crate::shared::Shared;
use crate::step::{Message, Steps};
pub(crate) use report::Identity;

/// Reports that may wait for the network.
const REPORTS: usize = 64;
/// Events of one message.
const EVENTS_MAX: usize = 1024;
/// How long the coordinator may take to answer a registration, or to take a report.
const PATIENCE: Duration = Duration::from_secs(10);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// After a refusal: somebody must change something first.
const BACKOFF_REFUSED: Duration = Duration::from_secs(10);
/// Between two lines that say that the coordinator is not there.
const REMIND: Duration = Duration::from_secs(30);

/// What the connection needs.
pub(crate) struct Attach {
    pub(crate) identity: Identity,
    pub(crate) leader: Leader,
    pub(crate) fence: Fence,
    pub(crate) steps: Steps,
    pub(crate) shared: Arc<Shared>,
    pub(crate) counters: Counters,
    pub(crate) events: mpsc::Receiver<CacheEvent>,
    /// Cancelled when the worker begins to drain.
    pub(crate) drain: CancellationToken,
    /// Begins to drain it.
    pub(crate) on_drain: Box<dyn Fn() + Send + Sync>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{}", explain(.0))]
    Call(#[from] tonic::Status),
    #[error("it closed the connection")]
    Closed,
    #[error("it does not answer")]
    Silent,
    #[error("it refuses this worker: {}", .0.reason)]
    Refused(w::Refused),
    #[error("it speaks another protocol: {0}")]
    Protocol(&'static str),
    #[error("another one leads")]
    Deposed,
}

/// One connection that stands.
struct Connection {
    reports: mpsc::Sender<w::WorkerReport>,
    commands: Streaming<w::CoordinatorCommand>,
    heartbeats: Interval,
    sequence: u64,
    snapshot: Option<oneshot::Receiver<CacheSnapshot>>,
    left: bool,
}

impl Attach {
    /// Stays connected until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut backoff = BACKOFF_MIN;
        let mut said: Option<Instant> = None;
        loop {
            let target = self.leader.target();
            let mut leader = self.leader.clone();
            let lost = tokio::select! {
                () = leader.other_than(&target) => Lost::Deposed,
                lost = self.follow(&target, &mut backoff, &mut said) => lost,
            };
            self.set_registered(false);
            if let Lost::Deposed = lost {
                tracing::info!(coordinator = %target.address, "another coordinator leads; this worker goes there");
                (backoff, said) = (BACKOFF_MIN, None);
                while self.events.try_recv().is_ok() {}
                continue;
            }
            if said.is_none_or(|at| at.elapsed() >= REMIND) {
                said = Some(Instant::now());
                self.tell(&lost);
            }
            backoff = match lost {
                Lost::Refused(w::Refused { again: false, .. }) => BACKOFF_REFUSED,
                _ => (backoff * 2).min(BACKOFF_MAX),
            };
            tokio::select! {
                () = leader.other_than(&target) => backoff = BACKOFF_MIN,
                () = tokio::time::sleep(backoff) => {}
            }
            // What was not sent is part of the next snapshot.
            while self.events.try_recv().is_ok() {}
        }
    }

    /// One connection, to its end.
    async fn follow(&mut self, target: &Target, backoff: &mut Duration, said: &mut Option<Instant>) -> Lost {
        match self.connect(target).await {
            Ok(connection) => {
                (*backoff, *said) = (BACKOFF_MIN, None);
                self.set_registered(true);
                self.serve(connection).await
            }
            Err(lost) => lost,
        }
    }

    fn tell(&self, lost: &Lost) {
        let coordinator = self.leader.listed();
        match lost {
            Lost::Refused(refused) => {
                tracing::warn!(%coordinator, reason = %refused.reason, "the coordinator refuses this worker, which goes on asking");
            }
            why => tracing::warn!(
                %coordinator, %why,
                "no coordinator; the worker keeps its cache and goes on trying (is --coordinator right?)"
            ),
        }
    }

    fn set_registered(&self, registered: bool) {
        self.shared.lock().registered = registered;
        self.counters.connected(registered);
    }

    async fn connect(&mut self, target: &Target) -> Result<Connection, Lost> {
        let (reports, outgoing) = mpsc::channel(REPORTS);
        let register = self.identity.register(&self.shared.lock().ledger);
        send(&reports, Report::Register(register)).await?;
        let client = CoordinatorClient::new(target.channel.clone());
        let mut client =
            client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX);
        let answer = tokio::time::timeout(PATIENCE, async {
            let mut commands = client.attach(ReceiverStream::new(outgoing)).await?.into_inner();
            let first = commands.message().await?.and_then(|c| c.command).ok_or(Lost::Closed)?;
            Ok::<_, Lost>((commands, first))
        });
        let (commands, first) = answer.await.map_err(|_| Lost::Silent)??;
        let registered = match first {
            Command::Registered(registered) => registered,
            Command::Refused(refused) => return Err(Lost::Refused(refused)),
            _ => return Err(Lost::Protocol("a registration must be answered first")),
        };
        self.fence.see(Term(registered.term));
        tracing::info!(coordinator = %target.address, term = registered.term, "registered");
        let mut heartbeats = tokio::time::interval(Duration::from_millis(registered.heartbeat_ms.clamp(10, 60_000)));
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Connection { reports, commands, heartbeats, sequence: 0, snapshot: None, left: false })
    }

    async fn ask_snapshot(&self) -> Result<oneshot::Receiver<CacheSnapshot>, Lost> {
        let (answer, snapshot) = oneshot::channel();
        self.steps.send(Message::Snapshot(answer)).await.map_err(|_| Lost::Closed)?;
        Ok(snapshot)
    }

    async fn serve(&mut self, mut connection: Connection) -> Lost {
        loop {
            if let Err(lost) = self.turn(&mut connection).await {
                return lost;
            }
        }
    }

    /// Waits for one thing to happen and deals with it.
    async fn turn(&mut self, connection: &mut Connection) -> Result<(), Lost> {
        let Connection { reports, commands, heartbeats, sequence, snapshot, left } = connection;
        let mut events = Vec::new();
        tokio::select! {
            _ = heartbeats.tick() => {
                *sequence += 1;
                let heartbeat = self.shared.lock().heartbeat(*sequence);
                send(reports, Report::Heartbeat(heartbeat)).await
            }
            count = self.events.recv_many(&mut events, EVENTS_MAX), if !self.events.is_closed() => {
                if count > 0 {
                    send(reports, Report::CacheEvents(self.identity.events(&events))).await?;
                }
                Ok(())
            }
            taken = ready(snapshot) => {
                *snapshot = None;
                for message in self.identity.snapshot(&taken.ok_or(Lost::Closed)?) {
                    send(reports, Report::CacheSnapshot(message)).await?;
                }
                Ok(())
            }
            () = self.drain.cancelled(), if !*left => {
                *left = true;
                send(reports, Report::Leave(w::Leave {})).await
            }
            command = commands.message() => match command?.ok_or(Lost::Closed)?.command {
                Some(Command::SnapshotWanted(_)) => {
                    *snapshot = Some(self.ask_snapshot().await?);
                    Ok(())
                }
                Some(Command::Refused(refused)) => Err(Lost::Refused(refused)),
                Some(Command::Drain(drain)) => match self.fence.admit(Term(drain.term)) {
                    Ok(()) => {
                        tracing::info!(term = drain.term, "the coordinator drains this worker");
                        (self.on_drain)();
                        Ok(())
                    }
                    Err(deposed) => {
                        tracing::warn!(error = %deposed, "a drain was refused");
                        self.counters.command_refused();
                        let refused =
                            w::CommandRefused { term: deposed.term.0, term_highest: deposed.highest.0 };
                        send(reports, Report::CommandRefused(refused)).await
                    }
                },
                // Said again, or of a later release.
                Some(Command::Registered(_)) | None => Ok(()),
            },
        }
    }
}

/// The snapshot that was asked for; never, if none was.
async fn ready(snapshot: &mut Option<oneshot::Receiver<CacheSnapshot>>) -> Option<CacheSnapshot> {
    match snapshot {
        Some(snapshot) => snapshot.await.ok(),
        None => std::future::pending().await,
    }
}

async fn send(reports: &mpsc::Sender<w::WorkerReport>, report: Report) -> Result<(), Lost> {
    let report = w::WorkerReport { report: Some(report) };
    match tokio::time::timeout(PATIENCE, reports.send(report)).await {
        Ok(sent) => sent.map_err(|_| Lost::Closed),
        Err(_) => Err(Lost::Silent),
    }
}
