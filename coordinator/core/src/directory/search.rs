//! The longest match: how many leading blocks of a chain each worker holds.
//!
//! ```text
//! holders:  block 0 ⊇ block 1 ⊇ .. ⊇ block n-1 ⊇ nobody
//! ```
//!
//! What a worker holds is closed under prefixes, so the holders of a chain's blocks form a falling row of sets. Where the
//! first and the last set of a range are equal, all between them are; else the range is halved. So there are about
//! log2(chain) look-ups for each length that some worker holds, however many workers share it. Belief may be wrong: of a
//! worker whose blocks have gaps, a shorter match is found or a longer one, which it will not confirm.

use hadal_types::{Part, PartSet, Tier};

use super::sets::{HELD_BITS, Holder, Set, held, id};
use super::{Slot, TIERS};

const HELD: usize = HELD_BITS as usize;

/// How much of a chain a worker holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// The worker.
    pub slot: Slot,
    /// As the holders have it.
    id: u32,
    /// Leading blocks by tier and part: in this tier or one above it.
    blocks: [u32; HELD],
}

impl Match {
    /// Leading blocks of which it holds all of `parts`, in any tier.
    pub fn blocks(&self, parts: PartSet) -> u32 {
        parts.iter().map(|part| self.within(part, Tier::Disk)).min().unwrap_or(0)
    }

    /// Leading blocks of which it holds a part in this tier or one above it.
    pub fn within(&self, part: Part, tier: Tier) -> u32 {
        self.blocks[tier as usize * Part::ALL.len() + part.index()]
    }
}

/// What is held in each tier or one above it, and so never more of a block than of those before it.
fn cumulated(held: u8) -> u8 {
    const ALL: u8 = ((1u32 << HELD_BITS) - 1) as u8;
    (1..TIERS).fold(held, |bits, tier| bits | held << (tier * Part::ALL.len()) & ALL)
}

/// What a search needs of the directory.
pub(super) trait Source {
    /// The holders of block `at` of the chain.
    fn holders(&self, at: usize) -> Set<'_>;

    /// Asks for the memory that [`Self::holders`] will read.
    fn touch(&self, blocks: &[usize]);

    /// The worker that an id stands for, if any.
    fn slot(&self, id: u32) -> Option<Slot>;
}

/// Halvings whose blocks are asked for together, so that the waits for memory overlap.
const AHEAD: u32 = 4;
const ASKED: usize = (1 << AHEAD) - 1;

/// Finds how many leading blocks of a chain of `length` each worker holds.
pub(super) fn matches(source: &impl Source, length: usize) -> Vec<Match> {
    let first = if length == 0 { Set::default() } else { source.holders(0) };
    let mut found = Found::new(first.holders, length as u32, source);
    if found.matches.is_empty() {
        return found.matches;
    }
    // All who are left in a range hold its first block; what is beyond the last one is held by nobody.
    let mut ranges = vec![(0, length, first, Set::default(), 0)];
    while let Some((from, to, before, after, ahead)) = ranges.pop() {
        if before == after {
            continue;
        }
        if to - from == 1 {
            found.end(before.holders, after.holders, to as u32);
            continue;
        }
        let ahead = if ahead > 0 {
            ahead
        } else {
            touch(source, from, to);
            AHEAD
        };
        let middle = middle(from, to);
        let between = source.holders(middle);
        ranges.push((from, middle, before, between, ahead - 1));
        ranges.push((middle, to, between, after, ahead - 1));
    }
    found.matches
}

fn middle(from: usize, to: usize) -> usize {
    from + (to - from) / 2
}

/// Asks for the blocks that the next halvings of a range look at.
fn touch(source: &impl Source, from: usize, to: usize) {
    let (mut blocks, mut ranges) = ([0; ASKED], [(0, 0); ASKED]);
    let (mut asked, mut halved, mut known) = (0, 0, 1);
    ranges[0] = (from, to);
    while halved < known {
        let (from, to) = ranges[halved];
        halved += 1;
        if to - from == 1 {
            continue;
        }
        let middle = middle(from, to);
        blocks[asked] = middle;
        asked += 1;
        for half in [(from, middle), (middle, to)] {
            if known < ASKED {
                ranges[known] = half;
                known += 1;
            }
        }
    }
    source.touch(&blocks[..asked]);
}

struct Found {
    /// By id, as the holders of the first block are.
    matches: Vec<Match>,
}

impl Found {
    fn new(first: &[Holder], length: u32, source: &impl Source) -> Self {
        let worker = |holder: &Holder| {
            let (id, held) = (id(*holder), cumulated(held(*holder)));
            let blocks = std::array::from_fn(|bit| if held & 1 << bit == 0 { 0 } else { length });
            Some(Match { slot: source.slot(id)?, id, blocks })
        };
        Self { matches: first.iter().filter_map(worker).collect() }
    }

    /// The holders of a block are `before`, and of the next one, which is block `depth`, `after`.
    fn end(&mut self, before: &[Holder], after: &[Holder], depth: u32) {
        let (mut at, mut next, mut row) = (0, 0, 0);
        loop {
            let same = alike(&before[at..], &after[next..]);
            (at, next) = (at + same, next + same);
            let Some(holder) = before.get(at) else { return };
            at += 1;
            while after.get(next).is_some_and(|h| id(*h) < id(*holder)) {
                next += 1;
            }
            let still = after.get(next).filter(|h| id(**h) == id(*holder)).map_or(0, |h| cumulated(held(*h)));
            let lost = cumulated(held(*holder)) & !still;
            if self.matches.get(row).is_none_or(|of| of.id != id(*holder)) {
                row = self.matches.partition_point(|of| of.id < id(*holder));
            }
            let Some(of) = self.matches.get_mut(row).filter(|of| of.id == id(*holder)) else { continue };
            for (bit, blocks) in of.blocks.iter_mut().enumerate() {
                *blocks = if lost & 1 << bit == 0 { *blocks } else { depth.min(*blocks) };
            }
            row += 1;
        }
    }
}

/// How many holders two sets have in common at their beginnings.
fn alike(one: &[Holder], two: &[Holder]) -> usize {
    const STRIDE: usize = 16;
    let both = one.len().min(two.len());
    let mut at = 0;
    while at + STRIDE <= both && one[at..at + STRIDE] == two[at..at + STRIDE] {
        at += STRIDE;
    }
    while at < both && one[at] == two[at] {
        at += 1;
    }
    at
}
