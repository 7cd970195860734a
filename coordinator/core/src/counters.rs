//! What the core has counted since its start. The shell turns the counts into metrics.

use crate::event::RefusalKind;

/// How a placement relates to what was cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// On the worker that had the most of the prompt.
    Reused,
    /// On another one, since that one was too busy.
    Spread,
    /// No worker had any of it.
    Cold,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 3] = [Outcome::Reused, Outcome::Spread, Outcome::Cold];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Reused => "reused",
            Outcome::Spread => "spread",
            Outcome::Cold => "cold",
        }
    }
}

/// Why a worker's message had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Discarded {
    /// Its connection belongs to no registered worker.
    UnknownWorker,
    /// It speaks of an earlier life of the worker.
    OldIncarnation,
    /// It was seen before, or a later one was.
    Repeated,
    /// A snapshot that will cover it has been asked for.
    BeforeSnapshot,
}

impl Discarded {
    /// Every reason.
    pub const ALL: [Discarded; 4] =
        [Discarded::UnknownWorker, Discarded::OldIncarnation, Discarded::Repeated, Discarded::BeforeSnapshot];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Discarded::UnknownWorker => "unknown_worker",
            Discarded::OldIncarnation => "old_incarnation",
            Discarded::Repeated => "repeated",
            Discarded::BeforeSnapshot => "before_snapshot",
        }
    }
}

/// Why a worker was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// It had said that it would leave.
    Left,
    /// Its connection ended.
    Disconnected,
    /// It sent no heartbeats, or said what cannot be true.
    Silent,
    /// Another process registered under its id.
    Replaced,
}

impl Loss {
    /// Every reason.
    pub const ALL: [Loss; 4] = [Loss::Left, Loss::Disconnected, Loss::Silent, Loss::Replaced];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Loss::Left => "left",
            Loss::Disconnected => "disconnected",
            Loss::Silent => "silent",
            Loss::Replaced => "replaced",
        }
    }
}

/// Counts since the start; they only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    placements: [u64; Outcome::ALL.len()],
    refusals: [u64; RefusalKind::ALL.len()],
    discarded: [u64; Discarded::ALL.len()],
    lost: [u64; Loss::ALL.len()],
    /// Prompt blocks of placed requests that a chosen worker was believed to have.
    pub blocks_hit: u64,
    /// Prompt blocks of placed requests that no chosen worker had.
    pub blocks_missed: u64,
    /// Gaps in the numbers of a worker's cache events.
    pub gaps: u64,
    /// Snapshots asked for.
    pub snapshots_wanted: u64,
    /// Placements whose lease ended before a heartbeat named them.
    pub leases_expired: u64,
    /// Requests that were given up while they waited, or before their answer was taken.
    pub cancelled: u64,
    /// Registrations that were refused.
    pub workers_refused: u64,
}

impl Counters {
    /// Placements with this outcome.
    pub fn placements(&self, outcome: Outcome) -> u64 {
        self.placements[outcome as usize]
    }

    /// Refusals of this kind.
    pub fn refusals(&self, kind: RefusalKind) -> u64 {
        self.refusals[kind as usize]
    }

    /// Messages (cache events one by one) that had no effect for this reason.
    pub fn discarded(&self, reason: Discarded) -> u64 {
        self.discarded[reason as usize]
    }

    /// Workers taken out for this reason.
    pub fn lost(&self, reason: Loss) -> u64 {
        self.lost[reason as usize]
    }

    pub(crate) fn lose(&mut self, reason: Loss) {
        self.lost[reason as usize] += 1;
    }

    pub(crate) fn placed(&mut self, outcome: Outcome) {
        self.placements[outcome as usize] += 1;
    }

    pub(crate) fn refused(&mut self, kind: RefusalKind) {
        self.refusals[kind as usize] += 1;
    }

    pub(crate) fn discard(&mut self, reason: Discarded, count: usize) {
        self.discarded[reason as usize] += count as u64;
    }
}
