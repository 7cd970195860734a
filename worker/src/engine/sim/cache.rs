//! The rows of the simulated engine, and what is drawn from them. See there for what they are.

use std::ops::Range;

use hadal_types::{BLOCK_TOKENS, Geometry, Part, StoreId};

use crate::engine::{EngineError, Pages};

/// Rows that a token is drawn from.
pub(super) const CHOSEN: u32 = 32;
/// c(-1).
const ROOT: u64 = 0x6861_6461_6c00_0001;

/// The pages of all stores.
pub(super) struct SimCache {
    stores: Vec<(usize, Vec<u8>)>,
}

/// Page lists of the index and of latents.
pub(super) type Both<'a> = (&'a [u32], &'a [u32]);

impl SimCache {
    /// So many pages of each part.
    pub(super) fn new(geometry: &Geometry, pages: &[(Part, u32)]) -> Self {
        let stores = geometry.stores.iter().map(|store| {
            let pages = pages.iter().find(|(part, _)| *part == store.part).map_or(0, |&(_, n)| n as usize);
            let page_bytes = store.block_bytes() as usize;
            (page_bytes, vec![0; page_bytes * pages])
        });
        Self { stores: stores.collect() }
    }

    fn row(&self, store: usize, pages: &[u32], position: u32) -> Option<&[u8]> {
        let (page_bytes, bytes) = &self.stores[store];
        let row_bytes = page_bytes / BLOCK_TOKENS as usize;
        let page = *pages.get((position / BLOCK_TOKENS) as usize)? as usize;
        let begin = page * page_bytes + (position % BLOCK_TOKENS) as usize * row_bytes;
        bytes.get(begin..begin + row_bytes)
    }

    fn number(&self, store: usize, pages: &[u32], position: u32, at: usize) -> Option<u64> {
        let row = self.row(store, pages, position)?;
        Some(u64::from_le_bytes(row.get(at..at + 8)?.try_into().ok()?))
    }

    fn set(&mut self, store: usize, pages: &[u32], position: u32, numbers: &[u64]) -> Option<()> {
        let (page_bytes, bytes) = &mut self.stores[store];
        let row_bytes = *page_bytes / BLOCK_TOKENS as usize;
        let page = *pages.get((position / BLOCK_TOKENS) as usize)? as usize;
        let begin = page * *page_bytes + (position % BLOCK_TOKENS) as usize * row_bytes;
        for (number, bytes) in numbers.iter().zip(bytes.get_mut(begin..begin + row_bytes)?.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        Some(())
    }

    /// Whether the draft layer's rows are kept.
    pub(super) fn drafts(&self) -> bool {
        self.stores.len() > 3
    }

    /// c at a position, if the rows of the main model's stores there are those of one sequence.
    fn verified(&self, (index, latent): Both<'_>, position: u32) -> Option<u64> {
        let c = self.number(1, latent, position, 0)?;
        let right = self.number(0, index, position, 0)? == mix(c, 1)
            && self.number(1, latent, position, 8)? == mix(c, 2)
            && self.number(2, latent, position, 0)? == mix(c, 3);
        right.then_some(c)
    }

    /// c at a position, if its draft row is right as well.
    fn verified_with_draft(&self, pages: Both<'_>, position: u32) -> Option<u64> {
        let c = self.verified(pages, position)?;
        let right = !self.drafts() || self.number(3, pages.1, position, 0)? == draft_row(c, position);
        right.then_some(c)
    }

    /// Writes the rows of a slice. None if the row before it is wrong.
    pub(super) fn compute(&mut self, start: u32, tokens: &[u32], (index, latent): Both<'_>) -> Option<()> {
        let mut c = match start.checked_sub(1) {
            Some(before) => self.verified_with_draft((index, latent), before)?,
            None => ROOT,
        };
        for (position, &token) in (start..).zip(tokens) {
            c = mix(c, u64::from(token));
            self.set(0, index, position, &[mix(c, 1)])?;
            self.set(1, latent, position, &[c, mix(c, 2)])?;
            self.set(2, latent, position, &[mix(c, 3)])?;
        }
        Some(())
    }

    /// What the token after the first `rows` is drawn from: its own row, and some of those before it. Those before
    /// `start` have their draft rows.
    pub(super) fn sum(&self, rows: u32, start: u32, pages: Both<'_>) -> Option<u64> {
        let c = self.number(1, pages.1, rows.checked_sub(1)?, 0)?;
        chosen(c, rows).try_fold(c, |sum, position| {
            let row = if position < start {
                self.verified_with_draft(pages, position)
            } else {
                self.verified(pages, position)
            };
            Some(mix(sum, row?))
        })
    }

    /// c of a token at position `rows`, which has no row yet, and what the one after it will be drawn from.
    pub(super) fn expect(&self, rows: u32, token: u32, pages: Both<'_>) -> Option<(u64, u64)> {
        let c = mix(self.number(1, pages.1, rows.checked_sub(1)?, 0)?, u64::from(token));
        let sum = chosen(c, rows + 1).try_fold(c, |sum, position| {
            let row = if position == rows { c } else { self.number(1, pages.1, position, 0)? };
            Some(mix(sum, row))
        })?;
        Some((c, sum))
    }

    /// Writes draft rows at positions that follow others of the step, and at that of the token after them.
    pub(super) fn follow(&mut self, rows: Range<u32>, next: Option<u32>, pages: Both<'_>) -> Option<()> {
        // The first of them has its own, unless it is that of the sequence.
        for position in rows.clone().skip(usize::from(rows.start > 0)) {
            let c = self.number(1, pages.1, position, 0)?;
            self.set(3, pages.1, position, &[draft_row(c, position)])?;
        }
        let Some(token) = next else { return Some(()) };
        let c = mix(self.number(1, pages.1, rows.end.checked_sub(1)?, 0)?, u64::from(token));
        self.set(3, pages.1, rows.end, &[draft_row(c, rows.end)])
    }

    pub(super) fn write_page(&mut self, store: StoreId, page: u32, bytes: &[u8]) -> Result<(), EngineError> {
        let wrong = || EngineError(format!("there is no page {page} of store {}", store.0));
        let (page_bytes, all) = self.stores.get_mut(store.0 as usize).ok_or_else(wrong)?;
        let begin = page as usize * *page_bytes;
        let target = all.get_mut(begin..begin + bytes.len().min(*page_bytes)).ok_or_else(wrong)?;
        target.copy_from_slice(&bytes[..target.len()]);
        Ok(())
    }
}

/// The draft layer's row of a position.
fn draft_row(c: u64, position: u32) -> u64 {
    if position == 0 { 0 } else { mix(c, 5) }
}

/// The positions, of so many, that a token depends on.
fn chosen(c: u64, rows: u32) -> impl Iterator<Item = u32> {
    (0..CHOSEN).map(move |i| (mix(c, 100 + u64::from(i)) % u64::from(rows.max(1))) as u32)
}

impl Pages for SimCache {
    fn page(&self, store: StoreId, page: u32) -> Result<&[u8], EngineError> {
        let found = self.stores.get(store.0 as usize).and_then(|(page_bytes, bytes)| {
            let begin = page as usize * page_bytes;
            bytes.get(begin..begin + page_bytes)
        });
        found.ok_or_else(|| EngineError(format!("there is no page {page} of store {}", store.0)))
    }
}

/// SplitMix64's finaliser over both numbers.
pub(super) fn mix(a: u64, b: u64) -> u64 {
    let mut z = (a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sim::geometry;

    fn cache() -> SimCache {
        SimCache::new(&geometry(true), &Part::ALL.map(|part| (part, 4)))
    }

    #[test]
    fn chunks_and_pages_change_nothing() {
        let tokens: Vec<u32> = (0..150).collect();
        let mut whole = cache();
        let pages: Both<'_> = (&[0, 1, 2], &[2, 1, 0]);
        whole.compute(0, &tokens, pages).unwrap();
        let mut parts = cache();
        let pages_of_parts: Both<'_> = (&[3, 2, 1], &[0, 1, 3]);
        parts.compute(0, &tokens[..70], pages_of_parts).unwrap();
        parts.follow(0..70, None, pages_of_parts).unwrap();
        parts.compute(69, &tokens[69..], pages_of_parts).unwrap();
        assert_eq!(parts.sum(150, 69, pages_of_parts), whole.sum(150, 0, pages));
        assert!(whole.sum(150, 0, pages).is_some());
    }

    #[test]
    fn what_is_expected_of_a_token_is_what_its_row_gives() {
        let mut cache = cache();
        let pages: Both<'_> = (&[0], &[0]);
        cache.compute(0, &[5, 6, 7], pages).unwrap();
        let (_, expected) = cache.expect(3, 8, pages).unwrap();
        cache.compute(2, &[7, 8], (&[1], &[0])).ok_or("no draft row").unwrap_err();
        cache.follow(0..3, Some(8), pages).unwrap();
        cache.compute(3, &[8], pages).unwrap();
        assert_eq!(cache.sum(4, 3, pages), Some(expected));
    }

    #[test]
    fn a_wrong_row_is_found_in_every_store() {
        let tokens: Vec<u32> = (0..10).collect();
        for (store, row_bytes) in [(0, 8), (1, 16), (2, 8), (3, 8)] {
            let mut cache = cache();
            cache.compute(0, &tokens, (&[0], &[0])).unwrap();
            cache.follow(0..10, None, (&[0], &[0])).unwrap();
            assert!(cache.compute(10, &[1], (&[0], &[0])).is_some());
            cache.stores[store].1[row_bytes * 9] ^= 1;
            assert_eq!(cache.compute(10, &[1], (&[0], &[0])), None);
        }
    }
}
