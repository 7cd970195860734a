//! Who holds a block, in one word: nobody, one holder, or the name of a run of several.
//!
//! ```text
//! word:    0                    nobody
//!          0 │ id │ held        a holder: what the worker with that id holds, 6 bits
//!          1 │ class │ index    a run
//! class k: runs of 2 << k words │ holder │ holder │ .. │ free │   in pages of many runs; lengths apart
//! ```
//!
//! A run is ordered by id, each id once. One that is full moves to the next class, one that is a quarter full to the
//! class below; places that became free are used again. Holders whose id is no longer in use are dead: they are no
//! holders any more, and go when the run needs their place or is purged.

/// What a worker holds of a block; never 0, since nothing held is no holder.
pub(super) type Holder = u32;

/// Bits of a holder that say what is held; the id lies above.
pub(super) const HELD_BITS: u32 = 6;
/// Ids are smaller, so that no holder looks like the name of a run.
pub(super) const IDS_MAX: u32 = 1 << (31 - HELD_BITS);

const RUN: u32 = 1 << 31;
/// 16 classes: a run of the last has room for all 65,536 workers.
const INDEX_BITS: u32 = 27;
/// Words of a page, unless one run is longer.
const PAGE_WORDS: usize = 1 << 13;

pub(super) fn id(holder: Holder) -> u32 {
    holder >> HELD_BITS
}

pub(super) fn held(holder: Holder) -> u8 {
    (holder & ((1 << HELD_BITS) - 1)) as u8
}

/// The last steps of splitmix64.
fn digest(holder: Holder) -> u64 {
    let mixed = u64::from(holder).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 27)
}

fn digest_of(holders: &[Holder]) -> u64 {
    holders.iter().fold(0, |sum, holder| sum.wrapping_add(digest(*holder)))
}

fn holder(id: u32, held: u8) -> Holder {
    id << HELD_BITS | u32::from(held)
}

/// What became of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) word: u32,
    /// What the worker held, and holds.
    pub(super) before: u8,
    pub(super) after: u8,
    /// Dead holders that are gone.
    pub(super) purged: usize,
}

/// How many holders a run has, and the sum of their digests.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    length: usize,
    digest: u64,
}

/// The holders of a block, by id; some may be dead. Sets are compared by length and digest, so that runs of a thousand
/// holders need not be read to see that they are the same.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Set<'a> {
    pub(super) holders: &'a [Holder],
    digest: u64,
}

impl PartialEq for Set<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.holders.len() == other.holders.len() && self.digest == other.digest
    }
}

#[derive(Debug, Default)]
struct Class {
    pages: Vec<Box<[u32]>>,
    free: Vec<u32>,
    /// Of every run that was ever used.
    sums: Vec<Sum>,
}

/// All runs.
#[derive(Debug, Default)]
pub(super) struct Sets {
    classes: Vec<Class>,
}

impl Sets {
    /// The holders that a word stands for, by id; some may be dead.
    pub(super) fn holders<'a>(&'a self, word: &'a u32) -> &'a [Holder] {
        match *word {
            0 => &[],
            name if name & RUN != 0 => &self.run(name)[..self.length(name)],
            _ => std::slice::from_ref(word),
        }
    }

    /// The same, to be compared.
    pub(super) fn set<'a>(&'a self, word: &'a u32) -> Set<'a> {
        let holders = self.holders(word);
        let digest = if holders.len() > capacity(0) { self.sum(*word).digest } else { digest_of(holders) };
        Set { holders, digest }
    }

    /// What a worker holds.
    pub(super) fn held(&self, word: &u32, worker: u32) -> u8 {
        let holders = self.holders(word);
        let found = holders.get(holders.partition_point(|h| id(*h) < worker)).filter(|h| id(**h) == worker);
        found.map_or(0, |h| held(*h))
    }

    /// Changes what a worker holds.
    pub(super) fn change(
        &mut self,
        word: u32,
        worker: u32,
        change: impl FnOnce(u8) -> u8,
        is_live: impl Fn(u32) -> bool,
    ) -> Changed {
        if word & RUN != 0 {
            return self.change_run(word, worker, change, is_live);
        }
        let unchanged = |word, purged| Changed { word, before: 0, after: 0, purged };
        let own = word != 0 && id(word) == worker;
        let purged = usize::from(word != 0 && !own && !is_live(id(word)));
        let other = if own || purged != 0 { 0 } else { word };
        let before = if own { held(word) } else { 0 };
        let after = change(before);
        let word = match (other, after) {
            (0, 0) => 0,
            (0, _) => holder(worker, after),
            (_, 0) => return unchanged(other, purged),
            _ => self.pair(other, holder(worker, after)),
        };
        Changed { word, before, after, purged }
    }

    /// Removes dead holders; the word, and how many.
    pub(super) fn purge(&mut self, word: u32, is_live: impl Fn(u32) -> bool) -> (u32, usize) {
        if word & RUN == 0 {
            return if word != 0 && !is_live(id(word)) { (0, 1) } else { (word, 0) };
        }
        let length = self.length(word);
        let run = &mut self.run_mut(word)[..length];
        let mut kept = 0;
        for at in 0..length {
            if is_live(id(run[at])) {
                run[kept] = run[at];
                kept += 1;
            }
        }
        let digest = digest_of(&run[..kept]);
        (if kept == length { word } else { self.fit(word, Sum { length: kept, digest }) }, length - kept)
    }

    fn change_run(
        &mut self,
        word: u32,
        worker: u32,
        change: impl FnOnce(u8) -> u8,
        is_live: impl Fn(u32) -> bool,
    ) -> Changed {
        let length = self.length(word);
        let run = &mut self.run_mut(word)[..length];
        let at = run.partition_point(|h| id(*h) < worker);
        let own = run.get(at).is_some_and(|h| id(*h) == worker);
        let before = if own { held(run[at]) } else { 0 };
        let after = change(before);
        let mut changed = Changed { word, before, after, purged: 0 };
        match (own, after) {
            (true, 0) => {
                let gone = digest(run[at]);
                run.copy_within(at + 1.., at);
                let digest = self.sum(word).digest.wrapping_sub(gone);
                changed.word = self.fit(word, Sum { length: length - 1, digest });
            }
            (true, _) => {
                let gone = digest(std::mem::replace(&mut run[at], holder(worker, after)));
                let digest = self.sum(word).digest.wrapping_sub(gone).wrapping_add(digest(holder(worker, after)));
                self.set_sum(word, Sum { length, digest });
            }
            (false, 0) => {}
            (false, _) => (changed.word, changed.purged) = self.insert(word, holder(worker, after), is_live),
        }
        changed
    }

    fn insert(&mut self, mut word: u32, new: Holder, is_live: impl Fn(u32) -> bool) -> (u32, usize) {
        let mut purged = 0;
        if self.is_full(word) {
            (word, purged) = self.purge(word, is_live);
            if word & RUN == 0 {
                return (if word == 0 { new } else { self.pair(word, new) }, purged);
            }
            if self.is_full(word) {
                let (class, _) = split(word);
                word = self.relocate(word, class + 1);
            }
        }
        let length = self.length(word);
        let run = &mut self.run_mut(word)[..=length];
        let at = run[..length].partition_point(|h| *h < new);
        run.copy_within(at..length, at + 1);
        run[at] = new;
        let digest = self.sum(word).digest.wrapping_add(digest(new));
        self.set_sum(word, Sum { length: length + 1, digest });
        (word, purged)
    }

    fn pair(&mut self, one: Holder, two: Holder) -> u32 {
        let word = self.allocate(0);
        self.run_mut(word).copy_from_slice(&[one.min(two), one.max(two)]);
        let digest = digest_of(&[one, two]);
        self.set_sum(word, Sum { length: 2, digest });
        word
    }

    /// The smallest word for the holders that are left in a run.
    fn fit(&mut self, word: u32, sum: Sum) -> u32 {
        let ((class, _), length) = (split(word), sum.length);
        self.set_sum(word, sum);
        if length > 1 {
            let fewer = (length * 4 <= capacity(class)).then(|| class - 1);
            return fewer.map_or(word, |class| self.relocate(word, class));
        }
        let left = if length == 1 { self.run(word)[0] } else { 0 };
        self.free(word);
        left
    }

    fn relocate(&mut self, word: u32, class: usize) -> u32 {
        let (new, sum) = (self.allocate(class), self.sum(word));
        let holders: Vec<u32> = self.run(word)[..sum.length].to_vec();
        self.run_mut(new)[..sum.length].copy_from_slice(&holders);
        self.set_sum(new, sum);
        self.free(word);
        new
    }

    fn allocate(&mut self, class: usize) -> u32 {
        if self.classes.len() <= class {
            self.classes.resize_with(class + 1, Class::default);
        }
        let of = &mut self.classes[class];
        let index = of.free.pop().unwrap_or_else(|| {
            if of.sums.len() == of.pages.len() * runs(class) {
                of.pages.push(vec![0; runs(class) * capacity(class)].into_boxed_slice());
            }
            of.sums.push(Sum::default());
            of.sums.len() as u32 - 1
        });
        RUN | (class as u32) << INDEX_BITS | index
    }

    fn free(&mut self, word: u32) {
        let (class, index) = split(word);
        self.classes[class].free.push(index as u32);
    }

    fn is_full(&self, word: u32) -> bool {
        self.length(word) == capacity(split(word).0)
    }

    fn length(&self, word: u32) -> usize {
        let (class, index) = split(word);
        // A pair is two: that need not be read.
        if class == 0 { capacity(0) } else { self.classes[class].sums[index].length }
    }

    fn sum(&self, word: u32) -> Sum {
        let (class, index) = split(word);
        self.classes[class].sums[index]
    }

    fn set_sum(&mut self, word: u32, sum: Sum) {
        let (class, index) = split(word);
        self.classes[class].sums[index] = sum;
    }

    fn run(&self, word: u32) -> &[u32] {
        let (class, index) = split(word);
        let (page, start) = (index / runs(class), index % runs(class) * capacity(class));
        &self.classes[class].pages[page][start..start + capacity(class)]
    }

    fn run_mut(&mut self, word: u32) -> &mut [u32] {
        let (class, index) = split(word);
        let (page, start) = (index / runs(class), index % runs(class) * capacity(class));
        &mut self.classes[class].pages[page][start..start + capacity(class)]
    }
}

fn capacity(class: usize) -> usize {
    2 << class
}

/// Runs of a page; a power of two.
fn runs(class: usize) -> usize {
    (PAGE_WORDS / capacity(class)).max(1)
}

fn split(name: u32) -> (usize, usize) {
    ((name & !RUN) as usize >> INDEX_BITS, (name & ((1 << INDEX_BITS) - 1)) as usize)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        /// A block of many workers, of which those with an odd id die one day.
        #[test]
        fn a_word_is_a_map_from_worker_to_held(
            ops in proptest::collection::vec((0..200u32, 0..64u8, 0..50u8), 1..800)
        ) {
            let mut sets = Sets::default();
            let (mut word, mut map, mut dead) = (0, BTreeMap::<u32, u8>::new(), 0);
            let mut is_odd_dead = false;
            for (worker, after, event) in ops {
                if event == 0 && !is_odd_dead {
                    is_odd_dead = true;
                    dead = map.keys().filter(|worker| *worker % 2 == 1).count();
                    map.retain(|worker, _| worker % 2 == 0);
                }
                if event == 1 {
                    let (now, purged) = sets.purge(word, |id| !is_odd_dead || id % 2 == 0);
                    (word, dead) = (now, dead - purged);
                    prop_assert_eq!(dead, 0);
                }
                let worker = if is_odd_dead { worker & !1 } else { worker };
                let before = map.insert(worker, after).unwrap_or(0);
                map.retain(|_, held| *held != 0);
                let changed = sets.change(word, worker, |_| after, |id| !is_odd_dead || id % 2 == 0);
                prop_assert_eq!((changed.before, changed.after), (before, after));
                (word, dead) = (changed.word, dead - changed.purged);
                let live: Vec<(u32, u8)> = sets.holders(&word).iter().map(|h| (id(*h), held(*h)))
                    .filter(|(id, _)| !is_odd_dead || id % 2 == 0).collect();
                prop_assert_eq!(live, map.clone().into_iter().collect::<Vec<_>>());
                prop_assert_eq!(sets.holders(&word).len(), map.len() + dead);
                prop_assert_eq!(sets.held(&word, worker), after);
                prop_assert_eq!(sets.set(&word).digest, digest_of(sets.holders(&word)));
                prop_assert_eq!(word & RUN == 0, sets.holders(&word).len() < 2);
            }
        }
    }

    #[test]
    fn places_of_runs_are_used_again() {
        let mut sets = Sets::default();
        for _ in 0..10 * PAGE_WORDS {
            let mut word = 0;
            (0..9).for_each(|worker| word = sets.change(word, worker, |_| 1, |_| true).word);
            (0..9).for_each(|worker| word = sets.change(word, worker, |_| 0, |_| true).word);
            assert_eq!(word, 0);
        }
        assert!(sets.classes.iter().all(|class| class.pages.len() == 1));
    }

    #[test]
    fn the_highest_id_is_no_name_of_a_run() {
        let (mut sets, last) = (Sets::default(), IDS_MAX - 1);
        let word = sets.change(0, last, |_| 63, |_| true).word;
        assert_eq!((word & RUN, sets.held(&word, last)), (0, 63));
        let word = sets.change(word, last - 1, |_| 63, |_| true).word;
        assert_eq!((sets.holders(&word).len(), sets.held(&word, last)), (2, 63));
    }
}
