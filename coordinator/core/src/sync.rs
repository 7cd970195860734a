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

use std::time::Duration;

use hadal_types::{CacheChange, CacheEvent};

use crate::counters::{Counters, Discarded};
use crate::directory::{Change, Directory, Slot};
use crate::event::SnapshotChunk;

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
    pub(crate) events_max: usize,
}

impl Context<'_> {
    fn apply(&mut self, event: &CacheEvent) {
        let change = Change { change: event.change, parts: event.parts, tier: event.tier };
        self.directory.apply(self.slot, event.hash, change);
    }
}

impl Sync {
    /// Forgets the worker's blocks until a snapshot has come, which the caller asks for.
    pub(crate) fn restart(&mut self, context: &mut Context<'_>) {
        context.directory.forget(context.slot);
        context.counters.snapshots_wanted += 1;
        *self = Sync::Wanted { since: context.now };
    }

    /// Takes events in; whether a snapshot must be asked for.
    pub(crate) fn events(&mut self, events: &[CacheEvent], context: &mut Context<'_>) -> bool {
        match self {
            Sync::Wanted { .. } => {
                context.counters.discard(Discarded::BeforeSnapshot, events.len());
                false
            }
            Sync::Reading { events: kept, .. } => {
                if kept.len() + events.len() > context.events_max {
                    self.restart(context);
                    return true;
                }
                kept.extend_from_slice(events);
                false
            }
            Sync::Live { .. } => self.follow(events, context),
        }
    }

    /// Takes a piece of a snapshot in; whether a snapshot must be asked for.
    pub(crate) fn chunk(&mut self, chunk: &SnapshotChunk, context: &mut Context<'_>) -> bool {
        if chunk.first {
            context.directory.forget(context.slot);
            *self = Sync::Reading { since: context.now, sequence: chunk.sequence, events: Vec::new() };
        }
        let Sync::Reading { since, sequence, events } = self else {
            // The rest of a snapshot that was given up.
            context.counters.discard(Discarded::BeforeSnapshot, 1);
            return false;
        };
        if *sequence != chunk.sequence {
            self.restart(context);
            return true;
        }
        *since = context.now;
        for block in &chunk.blocks {
            let stored = Change { change: CacheChange::Stored, parts: block.parts, tier: block.tier };
            context.directory.apply(context.slot, block.hash, stored);
        }
        if !chunk.last {
            return false;
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

    fn follow(&mut self, events: &[CacheEvent], context: &mut Context<'_>) -> bool {
        for (position, event) in events.iter().enumerate() {
            let Sync::Live { next } = self else { return false };
            if event.sequence < *next {
                context.counters.discard(Discarded::Repeated, 1);
                continue;
            }
            if event.sequence > *next {
                context.counters.gaps += 1;
                context.counters.discard(Discarded::BeforeSnapshot, events.len() - position);
                self.restart(context);
                return true;
            }
            *next = next.saturating_add(1);
            context.apply(event);
        }
        false
    }
}
