//! Keeping the directory in step with one worker's cache.
//!
//! ```text
//!            snapshot starts          snapshot ends
//!  Wanted ──────────────────► Reading ─────────────► Live ──┐ next event: taken in
//!    ▲                           │ another number,    │  ▲──┘
//!    │                           │ too many events    │ gap
//!    └───────────────────────────┴────────────────────┘
//! ```
//! Events that arrive between the pieces of a snapshot are kept, and taken in after it, since a later piece may list a
//! block that an earlier event dropped.
//!
//! A worker that says it holds more blocks than it has pages is not believed any more: it, or what it runs on, is broken,
//! and the directory's memory is bounded by what its workers can hold.

use std::time::Duration;

use hadal_types::{CacheChange, CacheEvent, Ledger, Part, Tier};

use crate::counters::{Counters, Discarded};
use crate::directory::{Change, Directory, Slot};
use crate::event::{SnapshotBlock, SnapshotChunk};

/// How far the directory follows a worker.
#[derive(Debug)]
pub(crate) enum Sync {
    /// A snapshot has been asked for.
    Wanted {
        since: Duration,
    },
    Reading {
        since: Duration,
        /// The last event that the snapshot covers.
        sequence: u64,
        events: Vec<CacheEvent>,
    },
    Live {
        next: u64,
    },
}

/// What following a worker needs of the core.
pub(crate) struct Context<'a> {
    pub(crate) now: Duration,
    pub(crate) slot: Slot,
    pub(crate) directory: &'a mut Directory,
    pub(crate) counters: &'a mut Counters,
    pub(crate) ledger: &'a Ledger,
    /// Events that are kept while a snapshot arrives.
    pub(crate) events_max: usize,
    /// Blocks of a part in a tier of which the ledger says nothing.
    pub(crate) blocks_max: u64,
}

/// What is to be done about a worker after a message of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    /// A snapshot must be asked for.
    SnapshotWanted,
    /// What it said cannot be true.
    Impossible(String),
}

impl Context<'_> {
    /// Takes changes in, and whether there can be so many blocks.
    fn apply<T>(&mut self, changes: &[T], change: impl Fn(&T) -> Change) -> Result<(), String> {
        self.directory.apply(self.slot, changes, change);
        for part in Part::ALL {
            let pages = self.ledger.part(part).map_or(0, |ledger| ledger.pages_total);
            for (tier, most) in [(Tier::Device, pages), (Tier::Host, self.blocks_max), (Tier::Disk, self.blocks_max)] {
                let blocks = self.directory.blocks_of(self.slot, part, tier);
                if blocks > most {
                    return Err(format!(
                        "it has {blocks} blocks of part {} in tier {tier:?}, where {most} fit",
                        part.name()
                    ));
                }
            }
        }
        Ok(())
    }
}

fn stored(block: &SnapshotBlock) -> Change {
    Change { hash: block.hash, change: CacheChange::Stored, parts: block.parts, tier: block.tier }
}

impl Sync {
    /// Forgets the worker's blocks until a snapshot has come, which the caller asks for.
    pub(crate) fn restart(&mut self, context: &mut Context<'_>) -> Step {
        context.directory.forget(context.slot);
        context.counters.snapshots_wanted += 1;
        *self = Sync::Wanted { since: context.now };
        Step::SnapshotWanted
    }

    /// Takes events in.
    pub(crate) fn events(&mut self, events: &[CacheEvent], context: &mut Context<'_>) -> Step {
        match self {
            Sync::Wanted { .. } => {
                context.counters.discard(Discarded::BeforeSnapshot, events.len());
                Step::Nothing
            }
            Sync::Reading { events: kept, .. } => {
                if kept.len() + events.len() > context.events_max {
                    return self.restart(context);
                }
                kept.extend_from_slice(events);
                Step::Nothing
            }
            Sync::Live { .. } => self.follow(events, context),
        }
    }

    /// Takes a piece of a snapshot in.
    pub(crate) fn chunk(&mut self, chunk: &SnapshotChunk, context: &mut Context<'_>) -> Step {
        if chunk.first {
            context.directory.forget(context.slot);
            *self = Sync::Reading { since: context.now, sequence: chunk.sequence, events: Vec::new() };
        }
        let Sync::Reading { since, sequence, events } = self else {
            // The rest of a snapshot that was given up.
            context.counters.discard(Discarded::BeforeSnapshot, 1);
            return Step::Nothing;
        };
        if *sequence != chunk.sequence {
            return self.restart(context);
        }
        *since = context.now;
        if let Err(problem) = context.apply(&chunk.blocks, stored) {
            return Step::Impossible(problem);
        }
        if !chunk.last {
            return Step::Nothing;
        }
        let (next, events) = (chunk.sequence.saturating_add(1), std::mem::take(events));
        *self = Sync::Live { next };
        self.follow(&events, context)
    }

    /// Whether the snapshot that was asked for is overdue.
    pub(crate) fn overdue(&self, now: Duration, wait: Duration) -> bool {
        match self {
            Sync::Wanted { since } | Sync::Reading { since, .. } => now.saturating_sub(*since) >= wait,
            Sync::Live { .. } => false,
        }
    }

    /// Takes in the events that come next, and those after them, up to a gap.
    fn follow(&mut self, events: &[CacheEvent], context: &mut Context<'_>) -> Step {
        let Sync::Live { next } = self else { return Step::Nothing };
        let mut left = events;
        while let Some(first) = left.first() {
            if first.sequence < *next {
                context.counters.discard(Discarded::Repeated, 1);
                left = &left[1..];
                continue;
            }
            let run = left.iter().zip(*next..).take_while(|(event, sequence)| event.sequence == *sequence).count();
            if run == 0 {
                context.counters.gaps += 1;
                context.counters.discard(Discarded::BeforeSnapshot, left.len());
                return self.restart(context);
            }
            *next = next.saturating_add(run as u64);
            if let Err(problem) = context.apply(&left[..run], |event| Change::from(event)) {
                return Step::Impossible(problem);
            }
            left = &left[run..];
        }
        Step::Nothing
    }
}
