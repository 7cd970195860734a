//! The prefix cache: full blocks by chain hash, with the requests that use them.
//!
//! A request that uses a block uses all blocks before it, so a block has at least as many users as any child. Hence
//! whatever hangs below an unused block is unused, every unused block can be evicted, leaves first, and what is held is
//! always closed under prefixes.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use hadal_types::{ChainHash, Part};

/// One page of each part; the entry of a part that the model has not means nothing.
pub(crate) type PageSet = [u32; Part::ALL.len()];

#[derive(Debug)]
struct Entry {
    parent: Option<ChainHash>,
    /// Position of the block in its sequence.
    block: usize,
    pages: PageSet,
    children: u32,
    users: u32,
    used_at: u64,
}

#[derive(Debug, Default)]
pub(crate) struct PrefixCache {
    entries: HashMap<ChainHash, Entry, BuildHasherDefault<TrustedHasher>>,
    /// What can be evicted next, least recently used first.
    unused_leaves: BTreeSet<(u64, ChainHash)>,
    unused: usize,
    /// Counts releases: the order of use, without a clock.
    uses: u64,
}

/// Chain hashes are keyed BLAKE3 already, and the order of this map is never seen.
#[derive(Default)]
pub(crate) struct TrustedHasher(u64);

impl Hasher for TrustedHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }
}

/// Leading blocks found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hits {
    pub(crate) blocks: usize,
    /// How many of them no request uses.
    pub(crate) unused: usize,
}

impl PrefixCache {
    /// Blocks that no request uses; all of them can be evicted.
    pub(crate) fn unused(&self) -> usize {
        self.unused
    }

    /// The longest prefix of a chain that is held.
    pub(crate) fn hits(&self, chain: &[ChainHash]) -> Hits {
        let held = chain.iter().map_while(|hash| self.entries.get(hash));
        held.fold(Hits::default(), |hits, entry| Hits {
            blocks: hits.blocks + 1,
            unused: hits.unused + usize::from(entry.users == 0),
        })
    }

    /// One more user of a block, of which the caller uses the parent already. Its pages, if it is held.
    pub(crate) fn acquire(&mut self, hash: ChainHash) -> Option<PageSet> {
        let entry = self.entries.get_mut(&hash)?;
        entry.users += 1;
        if entry.users == 1 {
            self.unused -= 1;
            self.unused_leaves.remove(&(entry.used_at, hash));
        }
        Some(entry.pages)
    }

    /// Adds the last block of `chain` with the caller as its user; the caller uses the blocks before it.
    pub(crate) fn insert(&mut self, chain: &[ChainHash], pages: PageSet) {
        let Some((&hash, before)) = chain.split_last() else { return };
        let parent = before.last().copied();
        let held = parent.map(|parent| self.entries.get_mut(&parent).map(|entry| entry.children += 1));
        debug_assert!(held != Some(None), "a block's parent is held while a request uses it");
        let entry = Entry { parent, block: before.len(), pages, children: 0, users: 1, used_at: 0 };
        let replaced = self.entries.insert(hash, entry);
        debug_assert!(replaced.is_none(), "a block is inserted once");
    }

    /// One user less of each of these leading blocks.
    pub(crate) fn release(&mut self, chain: &[ChainHash]) {
        self.uses += 1;
        for &hash in chain.iter().rev() {
            let Some(entry) = self.entries.get_mut(&hash) else {
                debug_assert!(false, "a block in use is held");
                continue;
            };
            debug_assert!(entry.users > 0, "a block is released by its users only");
            entry.users = entry.users.saturating_sub(1);
            if entry.users > 0 {
                continue;
            }
            entry.used_at = self.uses;
            self.unused += 1;
            if entry.children == 0 {
                self.unused_leaves.insert((entry.used_at, hash));
            }
        }
    }

    /// Takes out the unused leaf that was used longest ago.
    pub(crate) fn evict(&mut self) -> Option<(ChainHash, PageSet)> {
        let (_, hash) = self.unused_leaves.pop_first()?;
        let entry = self.entries.remove(&hash)?;
        self.unused -= 1;
        if let Some((hash, parent)) = entry.parent.and_then(|p| Some((p, self.entries.get_mut(&p)?))) {
            parent.children -= 1;
            if parent.children == 0 && parent.users == 0 {
                self.unused_leaves.insert((parent.used_at, hash));
            }
        }
        Some((hash, entry.pages))
    }

    /// Every block, parents before children, in an order that depends on nothing else.
    pub(crate) fn blocks(&self) -> Vec<ChainHash> {
        let mut blocks: Vec<(usize, ChainHash)> = self.entries.iter().map(|(hash, e)| (e.block, *hash)).collect();
        blocks.sort_unstable();
        blocks.into_iter().map(|(_, hash)| hash).collect()
    }
}

/// What the tests of the whole core look at.
#[cfg(any(test, feature = "test-util"))]
impl PrefixCache {
    /// Checks the counts against `users` of each block, and gives every block's pages, hash and whether it is used.
    pub(crate) fn audit(&self, users: &HashMap<ChainHash, u32>) -> Vec<(ChainHash, PageSet, bool)> {
        let mut children: HashMap<ChainHash, u32> = HashMap::new();
        for entry in self.entries.values() {
            if let Some(parent) = entry.parent {
                assert!(self.entries.contains_key(&parent), "held blocks are closed under prefixes");
                *children.entry(parent).or_default() += 1;
            }
        }
        let mut leaves = BTreeSet::new();
        for (hash, entry) in &self.entries {
            assert_eq!(entry.users, users.get(hash).copied().unwrap_or(0), "users of a block");
            assert_eq!(entry.children, children.get(hash).copied().unwrap_or(0), "children of a block");
            if entry.users == 0 && entry.children == 0 {
                leaves.insert((entry.used_at, *hash));
            }
        }
        assert_eq!(self.unused_leaves, leaves);
        assert_eq!(self.unused, self.entries.values().filter(|e| e.users == 0).count());
        self.entries.iter().map(|(hash, e)| (*hash, e.pages, e.users > 0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u8) -> ChainHash {
        ChainHash([n; 16])
    }

    /// Inserts a chain as one request does, and releases it.
    fn add(cache: &mut PrefixCache, chain: &[ChainHash]) {
        for end in 1..=chain.len() {
            if cache.acquire(chain[end - 1]).is_none() {
                cache.insert(&chain[..end], [u32::from(chain[end - 1].0[0]); 2]);
            }
        }
        cache.release(chain);
    }

    fn evicted(cache: &mut PrefixCache) -> Vec<u8> {
        std::iter::from_fn(|| cache.evict()).map(|(hash, _)| hash.0[0]).collect()
    }

    #[test]
    fn leaves_go_first_and_of_them_the_one_used_longest_ago() {
        let mut cache = PrefixCache::default();
        add(&mut cache, &[hash(1), hash(2), hash(3)]);
        add(&mut cache, &[hash(1), hash(2), hash(4)]);
        add(&mut cache, &[hash(9)]);
        assert_eq!(cache.unused(), 5);
        assert_eq!(evicted(&mut cache), [3, 4, 2, 1, 9]);
        assert_eq!(cache.unused(), 0);
    }

    #[test]
    fn a_block_in_use_and_what_it_follows_stay() {
        let mut cache = PrefixCache::default();
        add(&mut cache, &[hash(1), hash(2), hash(3)]);
        cache.acquire(hash(1));
        cache.acquire(hash(2));
        assert_eq!(cache.hits(&[hash(1), hash(2), hash(3), hash(4)]), Hits { blocks: 3, unused: 1 });
        assert_eq!(evicted(&mut cache), [3]);
        cache.release(&[hash(1), hash(2)]);
        assert_eq!(evicted(&mut cache), [2, 1]);
    }

    #[test]
    fn blocks_are_listed_parents_first() {
        let mut cache = PrefixCache::default();
        add(&mut cache, &[hash(9), hash(1)]);
        add(&mut cache, &[hash(8), hash(2), hash(3)]);
        assert_eq!(cache.blocks(), [8, 9, 1, 2, 3].map(hash));
    }
}
