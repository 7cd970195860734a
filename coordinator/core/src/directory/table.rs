//! An open-addressing table from chain hash to a word, in which a look-up reads one cache line as a rule.
//!
//! ```text
//! mixed hash ──► segment (10 bits) ──► home bucket (the other bits)
//! bucket, one line of 64 bytes: 5 fingerprints of 64 bits | 5 words | how many entries passed by
//! ```
//!
//! A fingerprint is half of the mixed hash, and with its segment tells 74 bits apart: of ten million blocks, no two are
//! taken for one (3e-9), and if two were, the worker would not confirm what was believed of it.
//!
//! An entry lies in its home bucket or, where that was full, in the first later one with room; every bucket on the way
//! counts it. So a search ends at a bucket that nobody has passed by, and removing an entry leaves nothing behind. A
//! segment grows by a quarter, alone: no growth stops the world, and as segments begin with different sizes, they do not
//! grow all at once either. Word 0 is no entry.

use hadal_types::ChainHash;

/// Independent pieces of the table.
pub(super) const SEGMENTS: usize = 1 << SEGMENT_BITS;
const SEGMENT_BITS: u32 = 10;
/// Entries of a bucket.
const LANES: usize = 5;
/// Buckets of the smallest segment; the others have up to three more.
const BUCKETS_MIN: usize = 16;
/// Entries of 100 lanes beyond which a segment grows, below which it shrinks, and with which it has shrunk.
const GROW_PERCENT: usize = 50;
const SHRINK_PERCENT: usize = 20;
const SHRUNK_PERCENT: usize = 40;

/// A chain hash, and where its entry is looked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Key {
    segment: u32,
    print: u64,
}

impl Key {
    /// Chain hashes are hashes already, but whatever a worker makes up is spread, too.
    pub(super) fn new(hash: ChainHash) -> Self {
        let hash = u128::from_le_bytes(hash.0);
        let (low, high) = (hash as u64 ^ 0x9e37_79b9_7f4a_7c15, (hash >> 64) as u64 ^ 0xd6e8_feb8_6659_fd93);
        let product = u128::from(low) * u128::from(high);
        let print = product as u64 ^ (product >> 64) as u64;
        // A vacant lane has fingerprint 0.
        let print = print.max(1);
        Self {
            segment: ((low ^ high.rotate_left(32)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> (u64::BITS - SEGMENT_BITS))
                as u32,
            print,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Bucket {
    prints: [u64; LANES],
    words: [u32; LANES],
    passed: u32,
}

impl Bucket {
    /// The lane with this fingerprint, 0 being that of a vacant one. Looks at all lanes, as where one lies cannot be
    /// foreseen and a wrong guess costs more than the rest.
    fn lane(&self, print: u64) -> Option<usize> {
        let equal = self.prints.iter().rev().fold(0u32, |bits, p| bits << 1 | u32::from(*p == print));
        (equal != 0).then(|| equal.trailing_zeros() as usize)
    }
}

#[derive(Debug, Default)]
struct Segment {
    buckets: Box<[Bucket]>,
    entries: usize,
}

impl Segment {
    fn home(&self, print: u64) -> usize {
        ((u128::from(print) * self.buckets.len() as u128) >> u64::BITS) as usize
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.buckets.len() { 0 } else { at + 1 }
    }

    fn find(&self, print: u64) -> Option<(usize, usize)> {
        let mut at = self.home(print);
        for _ in 0..self.buckets.len() {
            let bucket = &self.buckets[at];
            if let Some(lane) = bucket.lane(print) {
                return Some((at, lane));
            }
            if bucket.passed == 0 {
                break;
            }
            at = self.after(at);
        }
        None
    }

    /// Adds an entry that is not there, in a segment that has room.
    fn place(&mut self, print: u64, word: u32) {
        let mut at = self.home(print);
        for _ in 0..self.buckets.len() {
            let bucket = &mut self.buckets[at];
            if let Some(lane) = bucket.lane(0) {
                bucket.prints[lane] = print;
                bucket.words[lane] = word;
                self.entries += 1;
                return;
            }
            bucket.passed += 1;
            at = self.after(at);
        }
        debug_assert!(false, "a segment always has room");
    }

    fn remove(&mut self, print: u64, (bucket, lane): (usize, usize)) {
        self.buckets[bucket].words[lane] = 0;
        self.buckets[bucket].prints[lane] = 0;
        self.entries -= 1;
        let mut at = self.home(print);
        while at != bucket {
            self.buckets[at].passed -= 1;
            at = self.after(at);
        }
    }

    fn resize(&mut self, buckets: usize) {
        let old = std::mem::replace(&mut self.buckets, vec![Bucket::default(); buckets].into_boxed_slice());
        self.entries = 0;
        for bucket in &old {
            for (print, word) in bucket.prints.into_iter().zip(bucket.words).filter(|(_, word)| *word != 0) {
                self.place(print, word);
            }
        }
    }

    fn make_room(&mut self, number: usize) {
        if (self.entries + 1) * 100 > self.buckets.len() * LANES * GROW_PERCENT {
            self.resize((self.buckets.len() * 5 / 4).max(smallest(number)));
        }
    }

    fn shrink(&mut self, number: usize) {
        if self.entries == 0 {
            self.buckets = Box::default();
        } else if self.entries * 100 < self.buckets.len() * LANES * SHRINK_PERCENT {
            let buckets = (self.entries * 100).div_ceil(LANES * SHRUNK_PERCENT).max(smallest(number));
            if buckets < self.buckets.len() {
                self.resize(buckets);
            }
        }
    }
}

fn smallest(number: usize) -> usize {
    BUCKETS_MIN + number % 4
}

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    segments: Vec<Segment>,
}

impl Default for Table {
    fn default() -> Self {
        Self { segments: std::iter::repeat_with(Segment::default).take(SEGMENTS).collect() }
    }
}

impl Table {
    /// Entries.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.entries).sum()
    }

    /// Reads a little of where each entry should be, so that the waits for memory overlap. Nothing else is done between
    /// the reads: a processor looks only so many instructions ahead.
    pub(super) fn touch(&self, keys: &[Key]) {
        let mut touched = 0;
        for key in keys {
            let segment = &self.segments[key.segment as usize];
            touched ^= segment.buckets.get(segment.home(key.print)).map_or(0, |bucket| bucket.passed);
        }
        std::hint::black_box(touched);
    }

    /// The word of an entry.
    pub(super) fn get(&self, key: Key) -> Option<&u32> {
        let segment = &self.segments[key.segment as usize];
        segment.find(key.print).map(|(bucket, lane)| &segment.buckets[bucket].words[lane])
    }

    /// Changes the word of an entry; 0 stands for no entry, before and after.
    pub(super) fn update(&mut self, key: Key, change: impl FnOnce(u32) -> u32) {
        let number = key.segment as usize;
        let segment = &mut self.segments[number];
        let found = segment.find(key.print);
        let Some((bucket, lane)) = found else {
            let word = change(0);
            if word != 0 {
                segment.make_room(number);
                segment.place(key.print, word);
            }
            return;
        };
        let word = &mut segment.buckets[bucket].words[lane];
        *word = change(*word);
        if *word == 0 {
            segment.remove(key.print, (bucket, lane));
            segment.shrink(number);
        }
    }

    /// Changes every word of a segment.
    pub(super) fn update_segment(&mut self, number: usize, mut change: impl FnMut(u32) -> u32) {
        let segment = &mut self.segments[number];
        for bucket in 0..segment.buckets.len() {
            for lane in 0..LANES {
                let word = segment.buckets[bucket].words[lane];
                if word == 0 {
                    continue;
                }
                let changed = change(word);
                segment.buckets[bucket].words[lane] = changed;
                if changed == 0 {
                    segment.remove(segment.buckets[bucket].prints[lane], (bucket, lane));
                }
            }
        }
        segment.shrink(number);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Few values of either half, so that structured hashes are as good as random ones.
    fn key(n: u16) -> Key {
        let (low, high) = (u128::from(n & 0xff), u128::from(n >> 8));
        Key::new(ChainHash((low | high << 64).to_le_bytes()))
    }

    /// Every bucket counts exactly those that passed it by.
    fn check(table: &Table) {
        for segment in &table.segments {
            let mut passed = vec![0; segment.buckets.len()];
            for (place, bucket) in segment.buckets.iter().enumerate() {
                for (print, _) in bucket.prints.into_iter().zip(bucket.words).filter(|(_, word)| *word != 0) {
                    let mut at = segment.home(print);
                    while at != place {
                        passed[at] += 1;
                        at = segment.after(at);
                    }
                }
            }
            assert_eq!(passed, segment.buckets.iter().map(|bucket| bucket.passed).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_bucket_is_a_cache_line() {
        assert_eq!((size_of::<Bucket>(), align_of::<Bucket>()), (64, 64));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_table_is_a_map(ops in proptest::collection::vec((any::<u16>(), 0..4u32), 1..4000)) {
            let mut table = Table::default();
            let mut map = BTreeMap::new();
            for (n, word) in ops {
                let before = map.insert(n, word).unwrap_or(0);
                table.update(key(n), |found| {
                    assert_eq!(found, before);
                    word
                });
                map.retain(|_, word| *word != 0);
                prop_assert_eq!(table.get(key(n)).copied().unwrap_or(0), word);
            }
            check(&table);
            prop_assert_eq!(table.len(), map.len());
            for (n, word) in &map {
                prop_assert_eq!(table.get(key(*n)), Some(word));
            }
            for number in 0..SEGMENTS {
                table.update_segment(number, |word| word.saturating_sub(1));
            }
            check(&table);
            map.retain(|_, word| *word > 1);
            prop_assert_eq!(table.len(), map.len());
            for (n, word) in &map {
                prop_assert_eq!(table.get(key(*n)).copied(), Some(word - 1));
            }
        }
    }

    #[test]
    fn a_crowded_segment_grows_by_itself_and_shrinks_when_it_empties() {
        let mut table = Table::default();
        let crowd: Vec<Key> = (0..u64::MAX)
            .map(|n| Key::new(ChainHash(u128::from(n).to_le_bytes())))
            .filter(|key| key.segment as usize == 3)
            .take(5000)
            .collect();
        crowd.iter().for_each(|key| table.update(*key, |_| 1));
        let lanes = |table: &Table| table.segments.iter().map(|s| s.buckets.len() * LANES).sum::<usize>();
        assert!(
            (5000 * 100 / GROW_PERCENT..=5000 * 126 / GROW_PERCENT).contains(&lanes(&table)),
            "{} lanes",
            lanes(&table)
        );
        check(&table);
        crowd[..4900].iter().for_each(|key| table.update(*key, |_| 0));
        assert!(lanes(&table) <= 100 * 100 / SHRINK_PERCENT, "{} lanes", lanes(&table));
        assert!(crowd[4900..].iter().all(|key| table.get(*key) == Some(&1)));
        crowd[4900..].iter().for_each(|key| table.update(*key, |_| 0));
        assert_eq!(lanes(&table), 0);
    }
}
