//! The total order of choices, larger score first, then lower position, where −0 equals +0; and the best `k` of a stream
//! of scores by that order, in memory for 2k.
//!
//! Scores come in tiles, by ascending position, and what is kept stays in that order. When 2k are kept, the best k of
//! them remain. The best that has gone is the floor: as many as k with lower positions are at or above it, so that only
//! what exceeds it is still of interest.

use crate::context::Path;
use crate::scratch;

#[cfg(target_arch = "x86_64")]
mod avx512;

/// Scores of a tile.
const TILE: usize = 64;

/// A score and its position as one integer: larger is better.
pub(crate) type Ranked = u64;

/// Packs a score that is not NaN with its position.
#[inline]
pub(crate) fn rank(score: f32, position: u32) -> Ranked {
    u64::from(key(score)) << 32 | u64::from(!position)
}

/// The score of a packed pair.
#[inline]
pub(crate) fn score(ranked: Ranked) -> f32 {
    score_of((ranked >> 32) as u32)
}

/// The position of a packed pair.
#[inline]
pub(crate) fn position(ranked: Ranked) -> u32 {
    !(ranked as u32)
}

/// A score as an integer of the same order.
type Key = u32;

/// That of a score which is not NaN. Never 0.
#[inline]
fn key(score: f32) -> Key {
    // Adding +0 turns −0 into +0.
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

#[inline]
fn score_of(key: Key) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

/// The selection. It keeps its memory when it begins anew.
#[derive(Clone, Debug)]
pub(crate) struct TopK {
    path: Path,
    k: usize,
    /// Scores and positions, of which `kept` count; the rest is room.
    keys: Vec<Key>,
    positions: Vec<u32>,
    kept: usize,
    /// The best that has gone; 0 if nothing has.
    gone: Key,
    /// A score was NaN, so there is no order.
    unordered: bool,
}

/// The end of a selection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Chosen<'a> {
    /// The best, ascending.
    pub(crate) positions: &'a [u32],
    /// The lowest score among them.
    pub(crate) last: f32,
    /// The highest score that was left out; -infinity where none was.
    pub(crate) next: f32,
}

impl TopK {
    /// Of `k`, on a path that this machine has.
    pub(crate) fn new(path: Path, k: usize) -> Self {
        let (keys, positions) = (Vec::new(), Vec::new());
        let mut new = Self { path, k, keys, positions, kept: 0, gone: 0, unordered: false };
        new.begin(path, k);
        new
    }

    /// Forgets all.
    pub(crate) fn begin(&mut self, path: Path, k: usize) {
        (self.path, self.k) = (path, k);
        (self.kept, self.gone, self.unordered) = (0, 0, false);
        // A tile always finds room.
        self.make_room(2 * k + TILE);
    }

    fn make_room(&mut self, room: usize) {
        if self.keys.len() < room {
            self.keys.resize(room, 0);
            self.positions.resize(room, 0);
        }
    }

    /// Offers the scores `seen` of a tile that begins at position `first`, behind all that were offered before.
    pub(crate) fn offer(&mut self, tile: &[f32; TILE], seen: std::ops::Range<usize>, first: u32) {
        let seen = ones(seen.end) & !ones(seen.start);
        let floor = if self.gone == 0 { f32::NAN } else { score_of(self.gone) };
        let room = (&mut self.keys[self.kept..], &mut self.positions[self.kept..]);
        let (count, nan) = keep(self.path, (tile, first), (seen, floor), room);
        self.unordered |= nan;
        self.kept += count;
        if self.kept > 2 * self.k {
            self.shrink();
        }
    }

    /// Takes what others kept of the positions that follow, each behind those of the one before.
    pub(crate) fn merge<'a>(&mut self, others: impl Iterator<Item = &'a TopK>) {
        for other in others {
            let end = self.kept + other.kept;
            self.make_room(end);
            self.keys[self.kept..end].copy_from_slice(&other.keys[..other.kept]);
            self.positions[self.kept..end].copy_from_slice(&other.positions[..other.kept]);
            self.kept = end;
            self.gone = self.gone.max(other.gone);
            self.unordered |= other.unordered;
        }
        self.shrink();
    }

    /// Leaves the best k.
    pub(crate) fn shrink(&mut self) {
        let Some(more) = self.kept.checked_sub(self.k + 1) else { return };
        let (keys, positions) = (&mut self.keys[..self.kept], &mut self.positions[..self.kept]);
        let best_gone = scratch::with(keys.len(), |copy| {
            copy.iter_mut().zip(&*keys).for_each(|(to, &r)| *to = f32::from_bits(r));
            copy.select_nth_unstable_by_key(more, |key| key.to_bits()).1.to_bits()
        });
        // Of those that equal it, the first stay.
        let mut equal = self.k - keys.iter().filter(|&&r| r > best_gone).count();
        let mut to = 0;
        for at in 0..keys.len() {
            let (key, position) = (keys[at], positions[at]);
            let stays = key > best_gone || (key == best_gone && equal > 0);
            equal -= usize::from(stays && key == best_gone);
            (keys[to], positions[to]) = (key, position);
            to += usize::from(stays);
        }
        self.kept = self.k;
        self.gone = self.gone.max(best_gone);
    }

    /// The choice; none if a score was NaN.
    pub(crate) fn finish(&mut self) -> Option<Chosen<'_>> {
        if self.unordered {
            return None;
        }
        self.shrink();
        let last = self.keys[..self.kept].iter().min().map_or(f32::NEG_INFINITY, |&r| score_of(r));
        let next = if self.gone == 0 { f32::NEG_INFINITY } else { score_of(self.gone) };
        Some(Chosen { positions: &self.positions[..self.kept], last, next })
    }
}

/// The lowest `count` bits.
fn ones(count: usize) -> u64 {
    if count >= TILE { u64::MAX } else { (1 << count) - 1 }
}

/// Writes those of a tile that exceed the floor, or all where it is NaN, to the beginning of the room for keys and
/// positions, which is a tile at least. Gives their count, and whether one is NaN.
fn keep(
    path: Path,
    (tile, first): (&[f32; TILE], u32),
    (seen, floor): (u64, f32),
    room: (&mut [Key], &mut [u32]),
) -> (usize, bool) {
    #[cfg(target_arch = "x86_64")]
    if path == Path::Avx512 {
        return avx512::keep((tile, first), (seen, floor), room);
    }
    let _ = path;
    let exceeds = |s: f32| s > floor || s.is_nan() || floor.is_nan();
    // Most tiles of a long context are below the floor as a whole.
    if !tile.iter().fold(false, |any, &s| any | exceeds(s)) {
        return (0, false);
    }
    let (mut count, mut nan) = (0, false);
    for (at, &score) in tile.iter().enumerate().filter(|(at, _)| seen >> at & 1 == 1) {
        (room.0[count], room.1[count]) = (key(score), first + at as u32);
        count += usize::from(exceeds(score));
        nan |= score.is_nan();
    }
    (count, nan)
}

#[cfg(test)]
mod tests;
