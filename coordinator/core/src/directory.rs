//! Which workers hold which blocks: one flat table from chain hash to holders.
//!
//! ```text
//! table: chain hash ──► One(holder) | Many([holder, ..])     holder: slot, epoch, parts in each tier
//! slots: slot ──► epoch, blocks                              a holder of an older epoch is stale
//! ```
//!
//! A worker holds the parents of every block that it holds and tells of them in that order, so the longest match is a
//! search for the last block that it holds, not a walk through a tree. To forget a worker is to raise its slot's epoch;
//! the stale holders are swept out once they are the larger half, so that forgetting costs nothing per block in the end.
//! The table is a belief: the worker verifies it when it reserves.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use hadal_types::{CacheChange, ChainHash, Part, PartSet, Tier};

/// Position of a worker in the fleet's table; reused.
pub(crate) type Slot = u16;

const TIERS: usize = 3;
const PART_BITS: usize = Part::ALL.len();
const _: () = assert!(TIERS * PART_BITS <= u16::BITS as usize);

/// Stale holders below this number are not worth a sweep.
const SWEEP_MIN: usize = 1024;

/// Chain hashes are hashes already: their first bytes do.
#[derive(Default)]
pub(crate) struct ChainHasher(u64);

impl Hasher for ChainHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // The length prefix of the array comes as a write of its own; only the hash's own bytes count.
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _: usize) {}
}

/// What happened to a block on a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) change: CacheChange,
    pub(crate) parts: PartSet,
    pub(crate) tier: Tier,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder {
    epoch: u32,
    slot: Slot,
    /// `PART_BITS` bits for each tier.
    held: u16,
}

impl Holder {
    fn parts(self) -> PartSet {
        let all = (0..TIERS).fold(0, |bits, tier| bits | self.held >> (tier * PART_BITS));
        PartSet::from_bits(u32::from(all))
    }
}

/// Ordered by slot, each slot once; 16 bytes, as most blocks have one holder.
#[derive(Debug)]
enum Holders {
    One(Holder),
    Many(Box<[Holder]>),
}

impl Holders {
    fn as_slice(&self) -> &[Holder] {
        match self {
            Holders::One(holder) => std::slice::from_ref(holder),
            Holders::Many(holders) => holders,
        }
    }

    fn from_vec(holders: Vec<Holder>) -> Option<Self> {
        match holders.as_slice() {
            [] => None,
            [holder] => Some(Holders::One(*holder)),
            _ => Some(Holders::Many(holders.into_boxed_slice())),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct SlotState {
    epoch: u32,
    blocks: usize,
}

/// The directory of cached blocks.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    table: HashMap<ChainHash, Holders, BuildHasherDefault<ChainHasher>>,
    slots: Vec<SlotState>,
    live: usize,
    stale: usize,
}

impl Directory {
    /// Pairs of block and worker.
    pub(crate) fn blocks(&self) -> usize {
        self.live
    }

    /// What a worker holds of a block, in any tier.
    pub(crate) fn held(&self, slot: Slot, hash: ChainHash) -> PartSet {
        self.holder(self.holders(hash), slot).map_or(PartSet::EMPTY, Holder::parts)
    }

    /// Takes a change of a block on a worker in.
    pub(crate) fn apply(&mut self, slot: Slot, hash: ChainHash, change: Change) {
        let bits = (change.parts.bits() as u16) << (change.tier as usize * PART_BITS);
        let index = usize::from(slot);
        if self.slots.len() <= index {
            self.slots.resize(index + 1, SlotState::default());
        }
        let epoch = self.slots[index].epoch;
        let mut holders = match self.table.remove(&hash) {
            None => Vec::new(),
            Some(Holders::One(holder)) => vec![holder],
            Some(Holders::Many(holders)) => holders.into_vec(),
        };
        let before = holders.len();
        holders.retain(|h| self.slots.get(usize::from(h.slot)).is_some_and(|s| s.epoch == h.epoch));
        self.stale -= before - holders.len();
        let at = holders.binary_search_by_key(&slot, |h| h.slot);
        let held = at.map_or(0, |at| holders[at].held);
        let now = if change.change == CacheChange::Stored { held | bits } else { held & !bits };
        match at {
            Ok(at) if now == 0 => _ = holders.remove(at),
            Ok(at) => holders[at].held = now,
            Err(_) if now == 0 => {}
            Err(at) => holders.insert(at, Holder { epoch, slot, held: now }),
        }
        let (was, is) = (usize::from(held != 0), usize::from(now != 0));
        self.live = self.live + is - was;
        self.slots[index].blocks = self.slots[index].blocks + is - was;
        if let Some(holders) = Holders::from_vec(holders) {
            self.table.insert(hash, holders);
        }
    }

    /// Forgets all that a worker holds.
    pub(crate) fn forget(&mut self, slot: Slot) {
        let Some(state) = self.slots.get_mut(usize::from(slot)) else { return };
        state.epoch = state.epoch.wrapping_add(1);
        self.live -= state.blocks;
        self.stale += state.blocks;
        state.blocks = 0;
        if self.stale > SWEEP_MIN.max(self.live) {
            self.sweep();
        }
    }

    /// How many leading blocks of a chain each worker holds with all of `wanted`, ordered by slot; workers with none
    /// are left out.
    ///
    /// A range of blocks whose first and last a worker holds is held throughout, so ranges are halved until all their
    /// workers agree: at most `log2(chain)` look-ups a worker, whatever the length.
    pub(crate) fn matches(&self, chain: &[ChainHash], wanted: PartSet) -> Vec<(Slot, u32)> {
        let mut found = Vec::new();
        let Some(first) = chain.first() else { return found };
        let of_first = self.holders(*first).iter().filter(|h| self.is_live(h) && h.parts().contains_all(wanted));
        let mut ranges = vec![(0, chain.len(), of_first.map(|h| h.slot).collect::<Vec<Slot>>())];
        // Every worker of a range holds the blocks up to `from`, and none holds block `to`.
        while let Some((from, to, slots)) = ranges.pop() {
            if slots.is_empty() {
                continue;
            }
            if to - from == 1 {
                found.extend(slots.into_iter().map(|slot| (slot, to as u32)));
                continue;
            }
            let middle = from + (to - from) / 2;
            let holders = self.holders(chain[middle]);
            let holds = |slot: &Slot| self.holder(holders, *slot).is_some_and(|h| h.parts().contains_all(wanted));
            let (further, rest) = slots.into_iter().partition(holds);
            ranges.push((from, middle, rest));
            ranges.push((middle, to, further));
        }
        found.sort_unstable();
        found
    }

    /// The holders of a block, ordered by slot; some may be stale.
    fn holders(&self, hash: ChainHash) -> &[Holder] {
        self.table.get(&hash).map_or(&[], Holders::as_slice)
    }

    fn holder(&self, holders: &[Holder], slot: Slot) -> Option<Holder> {
        let at = holders.binary_search_by_key(&slot, |h| h.slot).ok()?;
        Some(holders[at]).filter(|h| self.is_live(h))
    }

    fn is_live(&self, holder: &Holder) -> bool {
        self.slots.get(usize::from(holder.slot)).is_some_and(|s| s.epoch == holder.epoch)
    }

    fn sweep(&mut self) {
        let slots = &self.slots;
        self.table.retain(|_, holders| {
            let live: Vec<Holder> =
                holders.as_slice().iter().copied().filter(|h| slots[usize::from(h.slot)].epoch == h.epoch).collect();
            let kept = Holders::from_vec(live);
            let keep = kept.is_some();
            if let Some(kept) = kept {
                *holders = kept;
            }
            keep
        });
        self.table.shrink_to_fit();
        self.stale = 0;
    }
}

#[cfg(test)]
mod tests;
