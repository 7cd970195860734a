//! What requests hold: pages of every part, shared ones through the prefix cache.
//!
//! The blocks of a sequence lie like this; a page has one owner, the cache or one request:
//!
//! ```text
//! block     0 .. shared            shared .. blocks
//!           pages of the cache     pages of its own
//!           complete, immutable    being computed, received or waiting for it
//! ```

#[cfg(any(test, feature = "test-util"))]
use std::collections::HashMap;

use hadal_types::{CacheChange, CacheEvent, ChainHash, Geometry, Incarnation, Part, PartLedger, PartSet, Tier};

use crate::cache::{PageSet, PrefixCache};
use crate::pages::PagePool;

/// The pages of one sequence.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    pages: [Vec<u32>; Part::ALL.len()],
    blocks: usize,
    shared: usize,
}

impl Holding {
    /// Blocks that it has pages for.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Leading blocks that are in the prefix cache.
    pub(crate) fn shared(&self) -> usize {
        self.shared
    }

    /// The pages of a part, one a block.
    pub(crate) fn pages(&self, part: Part) -> &[u32] {
        &self.pages[part.index()]
    }
}

/// The pools and the cache of a worker.
#[derive(Debug)]
pub(crate) struct Memory {
    parts: PartSet,
    pools: [PagePool; Part::ALL.len()],
    cache: PrefixCache,
    incarnation: Incarnation,
    sequence: u64,
    events: Vec<CacheEvent>,
    evicted: u64,
}

impl Memory {
    pub(crate) fn new(incarnation: Incarnation, parts: PartSet, pages: [u32; Part::ALL.len()]) -> Self {
        Self {
            parts,
            pools: Part::ALL.map(|p| PagePool::new(if parts.contains(p) { pages[p.index()] } else { 0 })),
            cache: PrefixCache::default(),
            incarnation,
            sequence: 0,
            events: Vec::new(),
            evicted: 0,
        }
    }

    /// Blocks of the longest sequence that fits when nothing else is here.
    pub(crate) fn capacity(&self) -> usize {
        self.least(PagePool::total)
    }

    /// Blocks that could be taken now.
    pub(crate) fn available(&self) -> usize {
        self.least(PagePool::free) + self.cache.unused()
    }

    fn least(&self, count: impl Fn(&PagePool) -> usize) -> usize {
        self.parts.iter().map(|p| count(&self.pools[p.index()])).min().unwrap_or(0)
    }

    /// Pages for a sequence of so many blocks, the leading ones from the cache where it has them (`chain` names those
    /// that may come from there), if as many as `headroom` are left for others' growth.
    pub(crate) fn reserve(&mut self, chain: &[ChainHash], blocks: usize, headroom: usize) -> Option<Holding> {
        debug_assert!(chain.len() <= blocks, "only blocks of the sequence are looked up");
        let hits = self.cache.hits(chain);
        if blocks - hits.blocks + headroom > self.available() - hits.unused {
            return None;
        }
        let mut holding = Holding::default();
        for &hash in &chain[..hits.blocks] {
            if let Some(pages) = self.cache.acquire(hash) {
                self.append(&mut holding, pages);
                holding.shared += 1;
            }
        }
        let grown = self.grow(&mut holding, blocks);
        debug_assert!(grown, "what is available can be taken");
        Some(holding)
    }

    /// Extends a holding to so many blocks, evicting unused ones. False when memory is short; what could be taken is
    /// kept.
    pub(crate) fn grow(&mut self, holding: &mut Holding, blocks: usize) -> bool {
        while holding.blocks < blocks {
            let Some(pages) = self.take() else { return false };
            self.append(holding, pages);
        }
        true
    }

    fn append(&self, holding: &mut Holding, pages: PageSet) {
        for part in self.parts.iter() {
            holding.pages[part.index()].push(pages[part.index()]);
        }
        holding.blocks += 1;
    }

    fn take(&mut self) -> Option<PageSet> {
        if self.least(PagePool::free) == 0 {
            let (hash, pages) = self.cache.evict()?;
            self.give(pages);
            self.evicted += 1;
            self.log(hash, CacheChange::Dropped);
        }
        let mut pages = PageSet::default();
        for part in self.parts.iter() {
            pages[part.index()] = self.pools[part.index()].take()?;
        }
        Some(pages)
    }

    fn give(&mut self, pages: PageSet) {
        for part in self.parts.iter() {
            self.pools[part.index()].give(pages[part.index()]);
        }
    }

    /// Puts the leading blocks that `chain` names into the cache; all their rows are there. Where the cache has a block
    /// already (another request computed the same at the same time), the holding goes over to that one's pages: the bits
    /// are equal, and a used child never hangs below an unused parent.
    pub(crate) fn publish(&mut self, holding: &mut Holding, chain: &[ChainHash]) {
        debug_assert!(chain.len() <= holding.blocks, "a complete block has pages");
        while holding.shared < chain.len() {
            let block = holding.shared;
            let own = self.block_pages(holding, block);
            if let Some(pages) = self.cache.acquire(chain[block]) {
                for part in self.parts.iter() {
                    holding.pages[part.index()][block] = pages[part.index()];
                }
                self.give(own);
            } else {
                self.cache.insert(&chain[..=block], own);
                self.log(chain[block], CacheChange::Stored);
            }
            holding.shared += 1;
        }
    }

    fn block_pages(&self, holding: &Holding, block: usize) -> PageSet {
        let mut pages = PageSet::default();
        for part in self.parts.iter() {
            pages[part.index()] = holding.pages[part.index()][block];
        }
        pages
    }

    /// Gives back all pages; `chain` is that of the sequence. Cached blocks stay until they are evicted.
    pub(crate) fn release(&mut self, holding: Holding, chain: &[ChainHash]) {
        for block in holding.shared..holding.blocks {
            let pages = self.block_pages(&holding, block);
            self.give(pages);
        }
        self.cache.release(&chain[..holding.shared]);
    }

    fn log(&mut self, hash: ChainHash, change: CacheChange) {
        self.sequence += 1;
        self.events.push(CacheEvent {
            incarnation: self.incarnation,
            sequence: self.sequence,
            hash,
            change,
            parts: self.parts,
            tier: Tier::Device,
        });
    }

    /// The events since the last call.
    pub(crate) fn take_events(&mut self) -> impl Iterator<Item = CacheEvent> + '_ {
        self.events.drain(..)
    }

    /// Number of the last event, and every cached block, parents first.
    pub(crate) fn snapshot(&self) -> (u64, Vec<(ChainHash, PartSet)>) {
        (self.sequence, self.cache.blocks().into_iter().map(|hash| (hash, self.parts)).collect())
    }

    /// Blocks evicted so far.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The pools' part of the ledger.
    pub(crate) fn ledger(&self, geometry: &Geometry) -> Vec<PartLedger> {
        let part = |part: Part| PartLedger {
            part,
            page_bytes: geometry.page_bytes(part),
            pages_total: self.pools[part.index()].total() as u64,
            pages_free: self.pools[part.index()].free() as u64,
            pages_cached: self.cache.unused() as u64,
        };
        self.parts.iter().map(part).collect()
    }
}

/// What the tests of the whole core look at.
#[cfg(any(test, feature = "test-util"))]
impl Memory {
    /// Checks that every page has exactly one owner: the free list, the cache, or one of these sequences.
    pub(crate) fn audit<'a>(&self, holdings: impl Iterator<Item = (&'a Holding, &'a [ChainHash])> + Clone) {
        let mut users: HashMap<ChainHash, u32> = HashMap::new();
        for (holding, chain) in holdings.clone() {
            chain[..holding.shared].iter().for_each(|hash| *users.entry(*hash).or_default() += 1);
        }
        let cached = self.cache.audit(&users);
        let pages_of: HashMap<ChainHash, PageSet> = cached.iter().map(|(hash, pages, _)| (*hash, *pages)).collect();
        for part in Part::ALL {
            let i = part.index();
            let mut pages: Vec<u32> = self.pools[i].audit().to_vec();
            if self.parts.contains(part) {
                pages.extend(cached.iter().map(|(_, pages, _)| pages[i]));
            }
            for (holding, chain) in holdings.clone() {
                let held = &holding.pages[i];
                assert_eq!(held.len(), if self.parts.contains(part) { holding.blocks } else { 0 });
                let (shared, own) = held.split_at(holding.shared.min(held.len()));
                pages.extend(own);
                assert!(shared.iter().zip(chain).all(|(page, hash)| pages_of[hash][i] == *page));
            }
            pages.sort_unstable();
            assert!(pages.into_iter().eq(0..self.pools[i].total() as u32), "pages of {part:?} are conserved");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(index: u32, latent: u32) -> Memory {
        let parts = Part::ALL.into_iter().filter(|p| [index, latent][p.index()] > 0).collect();
        Memory::new(Incarnation(7), parts, [index, latent])
    }

    fn chain(name: u8, blocks: u8) -> Vec<ChainHash> {
        (0..blocks).map(|b| ChainHash([name + b; 16])).collect()
    }

    fn changes(memory: &mut Memory) -> Vec<(u64, u8, CacheChange)> {
        memory.take_events().map(|e| (e.sequence, e.hash.0[0], e.change)).collect()
    }

    #[test]
    fn the_scarcer_part_limits_and_both_are_taken_together() {
        let mut m = memory(8, 3);
        assert_eq!((m.capacity(), m.available()), (3, 3));
        assert!(m.reserve(&[], 3, 1).is_none());
        let holding = m.reserve(&[], 2, 1).unwrap();
        assert_eq!(holding.pages(Part::Index).len(), 2);
        assert_eq!(m.available(), 1);
        m.release(holding, &[]);
        assert_eq!(m.available(), 3);
    }

    #[test]
    fn a_model_without_an_index_has_no_index_pages() {
        let mut m = memory(0, 2);
        let holding = m.reserve(&[], 2, 0).unwrap();
        assert!(holding.pages(Part::Index).is_empty());
        assert_eq!(holding.pages(Part::Latent), [0, 1]);
        m.release(holding, &[]);
    }

    #[test]
    fn published_blocks_are_found_and_evicted_when_memory_is_short() {
        let mut m = memory(3, 3);
        let c = chain(1, 2);
        let mut first = m.reserve(&[], 2, 0).unwrap();
        m.publish(&mut first, &c);
        let second = m.reserve(&c, 3, 0).unwrap();
        assert_eq!((second.shared(), second.blocks()), (2, 3));
        assert_eq!(second.pages(Part::Latent)[..2], first.pages(Part::Latent)[..2]);
        m.release(first, &c);
        m.release(second, &c);
        assert_eq!(m.available(), 3);
        let other = m.reserve(&[], 2, 0).unwrap();
        let expected = [(1, 1, CacheChange::Stored), (2, 2, CacheChange::Stored), (3, 2, CacheChange::Dropped)];
        assert_eq!(changes(&mut m), expected);
        assert_eq!(m.snapshot(), (3, vec![(c[0], m.parts)]));
        m.release(other, &[]);
    }

    #[test]
    fn unused_hits_are_not_counted_as_evictable_too() {
        let mut m = memory(3, 3);
        let c = chain(1, 2);
        let mut first = m.reserve(&[], 2, 0).unwrap();
        m.publish(&mut first, &c);
        m.release(first, &c);
        assert!(m.reserve(&c, 3, 1).is_none(), "two hits leave one page, and it is needed");
        assert!(m.reserve(&c, 3, 0).is_some());
    }

    #[test]
    fn the_second_to_publish_a_block_goes_over_to_the_firsts_pages() {
        let mut m = memory(4, 4);
        let c = chain(1, 2);
        let mut first = m.reserve(&[], 1, 0).unwrap();
        let mut second = m.reserve(&[], 2, 0).unwrap();
        m.publish(&mut first, &c[..1]);
        m.publish(&mut second, &c);
        assert_eq!(second.pages(Part::Index)[0], first.pages(Part::Index)[0]);
        assert_eq!(m.available(), 2);
        m.release(first, &c[..1]);
        assert_eq!(m.available(), 2, "the parent of a block in use cannot be evicted");
        m.release(second, &c);
        assert_eq!(m.available(), 4);
    }
}
