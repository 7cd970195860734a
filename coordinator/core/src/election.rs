//! Which coordinator leads, as one of the candidates sees it.
//!
//! ```text
//!            Granted            Campaigned(Won)
//! no lease ─────────► vacant ───────────────────► leading ──LeaseGone, a newer leader, the key gone──┐
//!    ▲                  ▲ │ Campaigned(Held), Seen(leader)                                           │
//!    │ LeaseGone        │ └──────────────► following ──Reset──► unseating                            │
//!    └──────────────────┴──── Seen(none), Unseated ◄────────────────┘ ◄──────────────────────────────┘
//! ```
//! A leadership is a key in the store, written under the leader's lease; its term is the key's create_revision, so that
//! terms only grow. The lease is renewed several times within its life. A leader whose lease cannot be renewed goes on,
//! since placements are advice, but [`Election::may_command_until`] passes, and with it the right to change state.
//!
//! At most one call of the store is under way, and a failed one is tried again after a pause that doubles to a bound.

use std::time::Duration;

use hadal_types::Term;

/// A lease of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreLease(pub i64);

/// Who leads, by the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Where it is reached, host:port.
    pub address: String,
    /// The number of its leadership.
    pub term: Term,
    /// The lease that keeps it.
    pub lease: StoreLease,
}

/// What the leader's key is at one revision of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The revision.
    pub revision: u64,
    /// The leader; none when there is no key.
    pub leader: Option<Leader>,
}

/// How long a failed call of the store is waited for before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElectionConfig {
    /// The first pause after a call that failed.
    pub retry_min: Duration,
    /// The longest.
    pub retry_max: Duration,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElectionEvent {
    /// Time has passed. To be sent several times in a lease's life.
    Tick,
    /// A lease was given, for `ttl` from when it was asked for at the earliest.
    Granted {
        /// The lease.
        lease: StoreLease,
        /// When it was asked for.
        asked: Duration,
        /// For how long.
        ttl: Duration,
    },
    /// The lease was renewed.
    Renewed {
        /// When that was asked for.
        asked: Duration,
        /// For how long.
        ttl: Duration,
    },
    /// The store does not know the lease any more.
    LeaseGone,
    /// The campaign was won: the key is ours.
    Won {
        /// The number of this leadership.
        term: Term,
    },
    /// What the key is, as the watch tells.
    Seen(Seen),
    /// The call came too late: that is what the key is.
    Held(Seen),
    /// The key of that term is gone, by our hand or another's; `revision` is the store's.
    Unseated {
        /// The revision at which it was gone.
        revision: u64,
    },
    /// The call that was under way failed.
    Failed,
    /// The connection to the leader of that term was reset, and its place knows nothing of that leadership any more.
    Reset {
        /// The number of its leadership.
        term: Term,
    },
    /// This candidate ends.
    Resign,
}

/// Something to be done. `Grant`, `Renew`, `Campaign` and `Unseat` are calls of the store, of which one is under way at
/// a time; each ends with one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElectionCommand {
    /// Ask for a lease.
    Grant,
    /// Renew the lease.
    Renew(StoreLease),
    /// Write the key under the lease if there is none.
    Campaign(StoreLease),
    /// Remove the key if it is of that term.
    Unseat(Term),
    /// Give the lease back; nothing follows.
    Revoke(StoreLease),
    /// This candidate leads.
    Lead(Term),
    /// It does not any more, and why.
    StepDown(&'static str),
    /// Another one leads: watch its connection.
    Follow(Leader),
    /// Nobody is known to lead.
    Unfollow,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Vacant,
    Following { leader: Leader, reset: bool },
    Leading(Term),
    Resigned,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    lease: StoreLease,
    /// Renewals are counted from when they were asked for, which is before the store counts: this clock is never late.
    until: Duration,
    renew_at: Duration,
}

/// The state machine.
#[derive(Debug)]
pub struct Election {
    config: ElectionConfig,
    state: State,
    lease: Option<Held>,
    /// The newest revision heard of; what is older is old news.
    revision: u64,
    calling: bool,
    retry_at: Duration,
    retry_after: Duration,
    out: Vec<ElectionCommand>,
}

impl Election {
    /// A candidate that knows nothing.
    pub fn new(config: ElectionConfig) -> Self {
        Self {
            config,
            state: State::Vacant,
            lease: None,
            revision: 0,
            calling: false,
            retry_at: Duration::ZERO,
            retry_after: config.retry_min,
            out: Vec::new(),
        }
    }

    /// Takes in what happened at `now` and returns what is to be done.
    pub fn on(&mut self, now: Duration, event: ElectionEvent) -> Vec<ElectionCommand> {
        if self.state != State::Resigned {
            self.take(now, event);
            self.call(now);
        }
        std::mem::take(&mut self.out)
    }

    /// The term that is led.
    pub fn leads(&self) -> Option<Term> {
        match self.state {
            State::Leading(term) => Some(term),
            _ => None,
        }
    }

    /// Until when nobody else can have been elected because of this leader's silence: commands that change state are
    /// given before. Nine tenths of the lease, so that clocks need not run alike.
    pub fn may_command_until(&self) -> Option<Duration> {
        self.leads()?;
        self.lease.map(|held| held.until)
    }

    fn take(&mut self, now: Duration, event: ElectionEvent) {
        match event {
            ElectionEvent::Tick => {}
            ElectionEvent::Granted { lease, asked, ttl } => {
                self.succeeded(now);
                self.lease = Some(self.held(lease, asked, ttl));
            }
            ElectionEvent::Renewed { asked, ttl } => {
                self.succeeded(now);
                self.lease = self.lease.map(|held| self.held(held.lease, asked, ttl));
            }
            ElectionEvent::LeaseGone => {
                self.succeeded(now);
                self.lease = None;
                self.step_down("its lease ended");
            }
            ElectionEvent::Won { term } => {
                self.succeeded(now);
                self.won(term);
            }
            ElectionEvent::Seen(seen) => self.seen(seen),
            ElectionEvent::Held(seen) => {
                self.succeeded(now);
                self.seen(seen);
            }
            ElectionEvent::Unseated { revision } => {
                self.succeeded(now);
                self.seen(Seen { revision, leader: None });
            }
            ElectionEvent::Failed => {
                self.calling = false;
                self.retry_at = now + self.retry_after;
                self.retry_after = (self.retry_after * 2).min(self.config.retry_max);
            }
            ElectionEvent::Reset { term } => {
                if let State::Following { leader, reset } = &mut self.state {
                    *reset |= leader.term == term;
                }
            }
            ElectionEvent::Resign => self.resign(),
        }
    }

    fn held(&self, lease: StoreLease, asked: Duration, ttl: Duration) -> Held {
        Held { lease, until: asked.saturating_add(ttl / 10 * 9), renew_at: asked.saturating_add(ttl / 6) }
    }

    fn succeeded(&mut self, now: Duration) {
        self.calling = false;
        self.retry_at = now;
        self.retry_after = self.config.retry_min;
    }

    fn won(&mut self, term: Term) {
        self.revision = self.revision.max(term.0);
        if self.state != State::Leading(term) {
            self.state = State::Leading(term);
            self.out.push(ElectionCommand::Lead(term));
        }
    }

    fn seen(&mut self, seen: Seen) {
        if seen.revision < self.revision {
            return;
        }
        self.revision = seen.revision;
        let Some(leader) = seen.leader else {
            self.step_down("its key was removed");
            if matches!(self.state, State::Following { .. }) {
                self.state = State::Vacant;
                self.out.push(ElectionCommand::Unfollow);
            }
            return;
        };
        // The answer to our own campaign was lost, and here is what it did.
        if self.lease.is_some_and(|held| held.lease == leader.lease) {
            return self.won(leader.term);
        }
        if matches!(&self.state, State::Following { leader: known, .. } if known.term == leader.term) {
            return;
        }
        self.step_down("another coordinator leads");
        self.out.push(ElectionCommand::Follow(leader.clone()));
        self.state = State::Following { leader, reset: false };
    }

    fn step_down(&mut self, why: &'static str) {
        if matches!(self.state, State::Leading(_)) {
            self.state = State::Vacant;
            self.out.push(ElectionCommand::StepDown(why));
        }
    }

    fn resign(&mut self) {
        self.step_down("it ends");
        self.state = State::Resigned;
        if let Some(held) = self.lease.take() {
            self.out.push(ElectionCommand::Revoke(held.lease));
        }
    }

    /// The next call of the store, if one is due.
    fn call(&mut self, now: Duration) {
        if self.calling || now < self.retry_at || self.state == State::Resigned {
            return;
        }
        let command = match (&self.state, self.lease) {
            (_, None) => ElectionCommand::Grant,
            (State::Vacant, Some(held)) => ElectionCommand::Campaign(held.lease),
            (State::Following { leader, reset: true }, _) => ElectionCommand::Unseat(leader.term),
            (_, Some(held)) if now >= held.renew_at => ElectionCommand::Renew(held.lease),
            _ => return,
        };
        self.calling = true;
        self.out.push(command);
    }
}

#[cfg(test)]
mod tests;
