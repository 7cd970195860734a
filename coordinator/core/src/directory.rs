//! Which workers hold which blocks: one flat table from chain hash to holders (docs/adr/0011).
//!
//! ```text
//! table   chain hash ──► nobody, a holder, or a run of holders          a holder is an id and six bits:
//! ids     id ──► slot, or nobody any more: then its holders are dead     a part in a tier each
//! slots   slot ──► id, blocks, blocks of each part in each tier
//! ```
//!
//! To forget a worker is to take its id away from its slot: nothing that it held is found from then on, and what it
//! reports next goes under a new id. The dead holders are swept out piece by piece, by later changes and by
//! [`Directory::tidy`]; an id is used again once no holder has it. The table is a belief: the worker verifies it when it
//! reserves.

mod search;
mod sets;
mod table;

use std::collections::BTreeSet;

use hadal_types::{CacheChange, CacheEvent, ChainHash, Part, PartSet, Tier};

pub use search::Match;
use search::Source;
use sets::{HELD_BITS, IDS_MAX, Set, Sets};
use table::{Key, SEGMENTS, Table};

/// Position of a worker in the fleet's table; reused.
pub type Slot = u16;

const TIERS: usize = 3;
const PART_BITS: usize = Part::ALL.len();
const HELD: usize = TIERS * PART_BITS;
const _: () = assert!(HELD == HELD_BITS as usize);

/// Dead holders below this number are not worth a sweep.
const SWEEP_MIN: usize = 1024;
/// Ids without a worker that are not worth one.
const RETIRED_MAX: usize = 4096;
/// Changes for each of which a sweep goes on by one of the table's segments.
const SWEEP_EVERY: usize = 64;
/// Changes whose places are asked for together.
const BATCH: usize = 64;

/// What happened to a block on a worker.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// The block.
    pub hash: ChainHash,
    /// What happened.
    pub change: CacheChange,
    /// To which parts.
    pub parts: PartSet,
    /// In which tier.
    pub tier: Tier,
}

impl From<&CacheEvent> for Change {
    fn from(event: &CacheEvent) -> Self {
        Self { hash: event.hash, change: event.change, parts: event.parts, tier: event.tier }
    }
}

/// What is known of a slot.
#[derive(Clone, Copy, Debug, Default)]
struct Holding {
    /// None before anything is stored.
    id: Option<u32>,
    blocks: usize,
    held: [u32; HELD],
}

/// A pass over the table that removes dead holders.
#[derive(Debug)]
struct Sweep {
    /// The segment that comes next.
    segment: usize,
    /// Ids that nobody had when it began, and that no holder has when it ends.
    ids: Vec<u32>,
}

/// The directory of cached blocks.
#[derive(Debug, Default)]
pub struct Directory {
    table: Table,
    sets: Sets,
    ids: Vec<Option<Slot>>,
    slots: Vec<Holding>,
    free: BTreeSet<u32>,
    retired: Vec<u32>,
    sweep: Option<Sweep>,
    live: usize,
    dead: usize,
    /// Changes since the sweep last went on.
    changes: usize,
}

impl Directory {
    /// Pairs of block and worker.
    pub fn blocks(&self) -> usize {
        self.live
    }

    /// Blocks of which a worker holds a part in a tier.
    pub fn blocks_of(&self, slot: Slot, part: Part, tier: Tier) -> u64 {
        self.slots.get(usize::from(slot)).map_or(0, |s| u64::from(s.held[tier as usize * PART_BITS + part.index()]))
    }

    /// What a worker holds of a block, in any tier.
    pub fn held(&self, slot: Slot, hash: ChainHash) -> PartSet {
        let id = self.slots.get(usize::from(slot)).and_then(|s| s.id);
        let word = self.table.get(Key::new(hash));
        let held = id.zip(word).map_or(0, |(id, word)| self.sets.held(word, id));
        let parts = (0..TIERS).fold(0, |bits, tier| bits | held >> (tier * PART_BITS));
        PartSet::from_bits(u32::from(parts))
    }

    /// How many leading blocks of a chain each worker holds; workers without the first one are left out. The order means
    /// nothing, but is always the same.
    pub fn matches(&self, chain: &[ChainHash]) -> Vec<Match> {
        search::matches(&Chain { directory: self, chain }, chain.len())
    }

    /// Takes in what happened on a worker, in order.
    pub fn apply<T>(&mut self, slot: Slot, changes: &[T], change: impl Fn(&T) -> Change) {
        if changes.is_empty() {
            return;
        }
        let id = self.id(slot);
        for batch in changes.chunks(BATCH) {
            let mut keys = [Key::default(); BATCH];
            let keys = &mut keys[..batch.len()];
            keys.iter_mut().zip(batch).for_each(|(key, of)| *key = Key::new(change(of).hash));
            self.table.touch(keys);
            for (key, of) in keys.iter().zip(batch) {
                self.change(slot, id, *key, change(of));
            }
        }
        self.changes += changes.len();
        self.tidy(self.changes / SWEEP_EVERY);
        self.changes %= SWEEP_EVERY;
    }

    /// Forgets all that a worker holds.
    pub fn forget(&mut self, slot: Slot) {
        let Some(of) = self.slots.get_mut(usize::from(slot)).filter(|of| of.blocks > 0) else { return };
        let Holding { id, blocks, .. } = std::mem::take(of);
        self.live -= blocks;
        self.dead += blocks;
        if let Some(id) = id {
            self.ids[id as usize] = None;
            self.retired.push(id);
        }
    }

    /// Sweeps dead holders out of so many segments of the table, if there are enough of them.
    pub fn tidy(&mut self, segments: usize) {
        for _ in 0..segments {
            if self.sweep.is_none() && self.dead <= SWEEP_MIN.max(self.live / 4) && self.retired.len() <= RETIRED_MAX {
                return;
            }
            let retired = &mut self.retired;
            let sweep = self.sweep.get_or_insert_with(|| Sweep { segment: 0, ids: std::mem::take(retired) });
            let (sets, ids, dead) = (&mut self.sets, &self.ids, &mut self.dead);
            self.table.update_segment(sweep.segment, |word| {
                let (word, purged) = sets.purge(word, |id| ids[id as usize].is_some());
                *dead -= purged;
                word
            });
            sweep.segment += 1;
            if sweep.segment == SEGMENTS
                && let Some(sweep) = self.sweep.take()
            {
                self.free.extend(sweep.ids);
            }
        }
    }

    fn change(&mut self, slot: Slot, id: u32, key: Key, change: Change) {
        let bits = (change.parts.bits() as u8) << (change.tier as usize * PART_BITS);
        let stored = change.change == CacheChange::Stored;
        let Self { table, sets, ids, dead, live, slots, .. } = self;
        let of = &mut slots[usize::from(slot)];
        table.update(key, |word| {
            let change = |held| if stored { held | bits } else { held & !bits };
            let changed = sets.change(word, id, change, |id| ids[id as usize].is_some());
            let (was, is) = (usize::from(changed.before != 0), usize::from(changed.after != 0));
            *dead -= changed.purged;
            *live = *live + is - was;
            of.blocks = of.blocks + is - was;
            let mut differ = changed.before ^ changed.after;
            while differ != 0 {
                let count = &mut of.held[differ.trailing_zeros() as usize];
                *count = if stored { *count + 1 } else { *count - 1 };
                differ &= differ - 1;
            }
            changed.word
        });
    }

    /// The id under which a worker's blocks are kept.
    fn id(&mut self, slot: Slot) -> u32 {
        let index = usize::from(slot);
        if self.slots.len() <= index {
            self.slots.resize(index + 1, Holding::default());
        }
        if let Some(id) = self.slots[index].id {
            return id;
        }
        if self.free.is_empty() && self.ids.len() >= IDS_MAX as usize {
            // Every slot but few has gone through hundreds of ids since a sweep began.
            self.tidy(2 * SEGMENTS);
        }
        let id = self.free.pop_first().unwrap_or(self.ids.len() as u32);
        if self.ids.len() <= id as usize {
            self.ids.push(None);
        }
        self.ids[id as usize] = Some(slot);
        self.slots[index].id = Some(id);
        id
    }
}

/// A chain that is looked for.
struct Chain<'a> {
    directory: &'a Directory,
    chain: &'a [ChainHash],
}

impl Source for Chain<'_> {
    fn holders(&self, at: usize) -> Set<'_> {
        let word = self.directory.table.get(Key::new(self.chain[at]));
        word.map_or(Set::default(), |word| self.directory.sets.set(word))
    }

    fn touch(&self, blocks: &[usize]) {
        let mut keys = [Key::default(); BATCH];
        let keys = &mut keys[..blocks.len().min(BATCH)];
        keys.iter_mut().zip(blocks).for_each(|(key, at)| *key = Key::new(self.chain[*at]));
        self.directory.table.touch(keys);
    }

    fn slot(&self, id: u32) -> Option<Slot> {
        self.directory.ids[id as usize]
    }
}

#[cfg(test)]
mod tests;
