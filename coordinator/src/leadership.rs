//! Who leads, and what this process does about it: carries out what the election's core commands, runs an actor while
//! this coordinator leads, and tells everybody who asks.
//!
//! ```text
//!   store ──watch──► ┌────────────┐ ──Lead──► Actor (one for each term; ended by StepDown)
//!   store ◄──call─── │  Election  │ ──Standing──► the service: leads, or knows who does
//!   leader ─reset──► └────────────┘
//! ```

mod fence;
mod peer;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hadal_coordinator_core::{Election, ElectionCommand, ElectionConfig, ElectionEvent, Leader, Seen};
use hadal_shell::tasks::Tasks;
use hadal_shell::tls::Tls;
use hadal_types::Term;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::actor::Mailbox;
use crate::config::ConfigError;
use crate::counts::Counts;
use crate::store::{Campaign, ClusterStore, StoreError};
pub(crate) use fence::Fence;

/// How often the election is told that time has passed.
const TICK: Duration = Duration::from_millis(50);
/// Pauses after a call of the store that failed; also before its watch is opened again.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Between two lines that say that the store is in trouble.
const REMIND: Duration = Duration::from_secs(30);
/// How long giving the lease back may take at the end; without it the lease ends by itself.
const RESIGN_TIMEOUT: Duration = Duration::from_secs(1);
/// News that may wait for the election.
const NEWS: usize = 16;

/// What this coordinator is.
#[derive(Clone)]
pub(crate) enum Standing {
    /// It does not lead.
    Standby {
        /// Who does, if that is known.
        leader: Option<Leader>,
    },
    /// It leads.
    Leading {
        /// The number of its leadership.
        term: Term,
        /// The way to what decides.
        mailbox: Mailbox,
    },
    /// It ends.
    Ended,
}

/// Makes what decides, for one term.
pub(crate) type Office = Box<dyn Fn(Term, Arc<Fence>, CancellationToken) -> Result<Mailbox, ConfigError> + Send + Sync>;

/// What a leadership is made of.
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn ClusterStore>,
    /// What others dial to reach this coordinator.
    pub(crate) address: String,
    /// How long a lease lasts.
    pub(crate) ttl: Duration,
    pub(crate) office: Office,
    pub(crate) tls: Option<Tls>,
    pub(crate) tasks: Tasks,
    pub(crate) counts: Counts,
}

/// What the election hears of, beside its own calls.
enum News {
    Store(Result<Seen, StoreError>),
    Reset(Term),
}

type Call = Pin<Box<dyn Future<Output = Result<ElectionEvent, StoreError>> + Send>>;

/// The task.
pub(crate) struct Leadership {
    parts: Parts,
    election: Election,
    start: Instant,
    standing: watch::Sender<Standing>,
    fence: Arc<Fence>,
    /// The call of the store that is under way.
    call: Option<Call>,
    news: mpsc::Sender<News>,
    /// Ends the actor of this term.
    office: Option<DropGuard>,
    /// Ends the watch of the leader's connection.
    peer: Option<DropGuard>,
    trouble: watch::Sender<Option<String>>,
    said: Option<Instant>,
}

/// What others see of it.
#[derive(Clone)]
pub(crate) struct Position {
    pub(crate) standing: watch::Receiver<Standing>,
    trouble: watch::Receiver<Option<String>>,
}

impl Position {
    /// Whether this coordinator does its part: leads, or knows who does.
    pub(crate) fn ready(&self) -> Result<(), String> {
        match (&*self.standing.borrow(), &*self.trouble.borrow()) {
            (Standing::Leading { .. } | Standing::Standby { leader: Some(_) }, _) => Ok(()),
            (Standing::Ended, _) => Err("draining".to_owned()),
            (_, Some(trouble)) => Err(format!("nobody is known to lead: {trouble}")),
            (_, None) => Err("nobody leads yet".to_owned()),
        }
    }

    /// Resolves when this coordinator leads or has ended.
    pub(crate) async fn settled(&mut self) {
        // An error means that the leadership has ended, too.
        let _ = self.standing.wait_for(|standing| !matches!(standing, Standing::Standby { .. })).await;
    }
}

impl Leadership {
    /// Starts the campaign. Ends with the drain of the part's tasks.
    pub(crate) fn start(parts: Parts) -> Position {
        let (standing, standing_seen) = watch::channel(Standing::Standby { leader: None });
        let (trouble, trouble_seen) = watch::channel(None);
        let (news, inbox) = mpsc::channel(NEWS);
        let tasks = parts.tasks.clone();
        tasks.spawn_service("store watch", follow(Arc::clone(&parts.store), news.clone()));
        let leadership = Self {
            parts,
            election: Election::new(ElectionConfig { retry_min: RETRY_MIN, retry_max: RETRY_MAX }),
            start: Instant::now(),
            standing,
            fence: Arc::new(Fence::new()),
            call: None,
            news,
            office: None,
            peer: None,
            trouble,
            said: None,
        };
        tasks.spawn("leadership", leadership.run(inbox));
        Position { standing: standing_seen, trouble: trouble_seen }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<News>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let drain = self.parts.tasks.drain_token();
        loop {
            tokio::select! {
                biased;
                () = drain.cancelled() => break,
                answer = pending(&mut self.call) => {
                    self.call = None;
                    match answer {
                        Ok(event) => self.on(event),
                        Err(error) => self.failed(&error),
                    }
                }
                Some(news) = inbox.recv() => match news {
                    News::Store(Ok(seen)) => self.on(ElectionEvent::Seen(seen)),
                    News::Store(Err(error)) => self.complain(&error),
                    News::Reset(term) => self.on(ElectionEvent::Reset { term }),
                },
                _ = ticks.tick() => self.on(ElectionEvent::Tick),
            }
        }
        self.resign().await;
    }

    async fn resign(mut self) {
        self.call = None;
        let commands = self.election.on(self.start.elapsed(), ElectionEvent::Resign);
        for command in commands {
            match command {
                ElectionCommand::Revoke(lease) => {
                    let revoked = tokio::time::timeout(RESIGN_TIMEOUT, self.parts.store.revoke(lease)).await;
                    if !matches!(revoked, Ok(Ok(()))) {
                        tracing::warn!("the lease could not be given back; it ends by itself");
                    }
                }
                other => self.carry_out(other),
            }
        }
        self.standing.send_replace(Standing::Ended);
    }

    fn failed(&mut self, error: &StoreError) {
        self.complain(error);
        self.on(match error {
            StoreError::LeaseGone => ElectionEvent::LeaseGone,
            _ => ElectionEvent::Failed,
        });
    }

    fn complain(&mut self, error: &StoreError) {
        if *error == StoreError::LeaseGone {
            return;
        }
        self.trouble.send_replace(Some(error.to_string()));
        if self.said.is_none_or(|at| at.elapsed() >= REMIND) {
            tracing::warn!(%error, leads = self.election.leads().is_some(), "no word from the store; trying again");
            self.said = Some(Instant::now());
        }
    }

    fn on(&mut self, event: ElectionEvent) {
        if !matches!(event, ElectionEvent::Tick | ElectionEvent::Failed | ElectionEvent::Reset { .. }) {
            self.trouble.send_replace(None);
            self.said = None;
        }
        let commands = self.election.on(self.start.elapsed(), event);
        // Closed first: what was commanded under the old standing must not slip through.
        self.fence.set(self.election.may_command_until().map(|until| self.start + until));
        commands.into_iter().for_each(|command| self.carry_out(command));
    }

    fn carry_out(&mut self, command: ElectionCommand) {
        match command {
            ElectionCommand::Lead(term) => {
                tracing::info!(term = term.0, address = %self.parts.address, "this coordinator leads");
                let end = CancellationToken::new();
                let mailbox = match (self.parts.office)(term, Arc::clone(&self.fence), end.clone()) {
                    Ok(mailbox) => mailbox,
                    Err(error) => return self.parts.tasks.fail(error.to_string()),
                };
                (self.office, self.peer) = (Some(end.drop_guard()), None);
                self.stand(Standing::Leading { term, mailbox });
            }
            ElectionCommand::StepDown(why) => {
                tracing::warn!(why, "this coordinator does not lead any more");
                self.office = None;
                self.stand(Standing::Standby { leader: None });
            }
            ElectionCommand::Follow(leader) => {
                tracing::info!(term = leader.term.0, address = %leader.address, "following the leader");
                self.peer = Some(self.watch_peer(&leader));
                self.stand(Standing::Standby { leader: Some(leader) });
            }
            ElectionCommand::Unfollow => {
                self.peer = None;
                self.stand(Standing::Standby { leader: None });
            }
            // Given by the end alone, which deals with it.
            ElectionCommand::Revoke(_) => {}
            call => self.call = Some(self.ask(call)),
        }
    }

    fn stand(&self, standing: Standing) {
        let term = match &standing {
            Standing::Leading { term, .. } => Some(*term),
            _ => None,
        };
        self.parts.counts.leads(term);
        self.standing.send_replace(standing);
    }

    fn watch_peer(&self, leader: &Leader) -> DropGuard {
        let end = CancellationToken::new();
        let (until, news, term) = (end.clone(), self.news.clone(), leader.term);
        let gone = peer::gone(leader.clone(), self.parts.tls.clone());
        self.parts.tasks.spawn_service("leader's connection", async move {
            tokio::select! {
                () = until.cancelled() => {}
                () = gone => {
                    tracing::warn!(term = term.0, "the leader's process has ended");
                    // A full inbox waits; a closed one means that this coordinator ends.
                    let _ = news.send(News::Reset(term)).await;
                }
            }
        });
        end.drop_guard()
    }

    /// A call of the store, and what its answer is for the election.
    fn ask(&self, call: ElectionCommand) -> Call {
        let store = Arc::clone(&self.parts.store);
        let (asked, ttl, address) = (self.start.elapsed(), self.parts.ttl, self.parts.address.clone());
        Box::pin(async move {
            Ok(match call {
                ElectionCommand::Grant => {
                    let (lease, ttl) = store.grant(ttl).await?;
                    ElectionEvent::Granted { lease, asked, ttl }
                }
                ElectionCommand::Renew(lease) => ElectionEvent::Renewed { asked, ttl: store.renew(lease).await? },
                ElectionCommand::Campaign(lease) => match store.campaign(lease, &address).await? {
                    Campaign::Won(term) => ElectionEvent::Won { term },
                    Campaign::Held(seen) => ElectionEvent::Held(seen),
                },
                ElectionCommand::Unseat(term) => ElectionEvent::Held(store.unseat(term).await?),
                // None of these is a call.
                _ => ElectionEvent::Tick,
            })
        })
    }
}

async fn pending(call: &mut Option<Call>) -> Result<ElectionEvent, StoreError> {
    match call {
        Some(call) => call.await,
        None => std::future::pending().await,
    }
}

/// Follows the key for ever.
async fn follow(store: Arc<dyn ClusterStore>, news: mpsc::Sender<News>) {
    let mut pause = RETRY_MIN;
    loop {
        let ended = async {
            let mut watch = store.watch().await?;
            loop {
                let seen = watch.next().await?;
                pause = RETRY_MIN;
                if news.send(News::Store(Ok(seen))).await.is_err() {
                    return Ok(());
                }
            }
        };
        let Err(error) = ended.await else { return };
        if news.send(News::Store(Err(error))).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}
