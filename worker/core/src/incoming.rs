//! The decode side of a prefill elsewhere: which pages of one attempt (leg) have arrived.

use std::time::Duration;

use hadal_types::{BLOCK_TOKENS, StoreId};

/// Where a page that arrives belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncomingPage {
    /// Page in the pool of the store's part.
    pub page: u32,
    /// Rows that it must have.
    pub rows: u32,
}

/// A page that nobody waits for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unexpected {
    /// The request ended, or this attempt did: drop the page, and the connection.
    #[error("the request or this attempt to prefill it is over")]
    Over,
    /// The page is not of this sequence, was not wanted or came twice: the peer is at fault, fail the leg.
    #[error("block {block} of store {store} was not to be sent")]
    NotWanted {
        /// The block.
        block: u32,
        /// The store.
        store: u32,
    },
}

/// One attempt.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) number: u32,
    pub(crate) until: Duration,
    /// Tokens to be prefilled, from the sequence's start.
    tokens: usize,
    stores: usize,
    first: usize,
    /// One bit for each block from `first` and each store.
    arrived: Vec<u64>,
    /// Stores missing, for each block from `first`.
    missing: Vec<u32>,
    /// Leading blocks that are complete, held ones included.
    complete: usize,
}

impl Leg {
    /// Waits for all blocks of so many tokens from block `first` on.
    pub(crate) fn new(number: u32, until: Duration, tokens: usize, first: usize, stores: usize) -> Self {
        let blocks = tokens.div_ceil(BLOCK_TOKENS as usize).saturating_sub(first);
        Self {
            number,
            until,
            tokens,
            stores,
            first,
            arrived: vec![0; (blocks * stores).div_ceil(64)],
            missing: vec![stores as u32; blocks],
            complete: first,
        }
    }

    /// Whether this page is wanted and has not come yet.
    pub(crate) fn wants(&self, block: u32, store: StoreId) -> bool {
        self.bit(block, store).is_some_and(|(word, mask)| self.arrived[word] & mask == 0)
    }

    fn bit(&self, block: u32, store: StoreId) -> Option<(usize, u64)> {
        let block = (block as usize).checked_sub(self.first).filter(|&b| b < self.missing.len())?;
        let store = Some(store.0 as usize).filter(|&s| s < self.stores)?;
        let bit = block * self.stores + store;
        Some((bit / 64, 1 << (bit % 64)))
    }

    /// Notes a page.
    pub(crate) fn note(&mut self, block: u32, store: StoreId) {
        let Some((word, mask)) = self.bit(block, store).filter(|_| self.wants(block, store)) else { return };
        self.arrived[word] |= mask;
        self.missing[block as usize - self.first] -= 1;
        while self.missing.get(self.complete - self.first) == Some(&0) {
            self.complete += 1;
        }
    }

    /// Leading tokens whose rows are here.
    pub(crate) fn tokens_complete(&self) -> usize {
        (self.complete * BLOCK_TOKENS as usize).min(self.tokens)
    }

    /// Whether nothing is missing.
    pub(crate) fn is_complete(&self) -> bool {
        self.tokens_complete() == self.tokens
    }

    /// Tokens that are to be there in the end.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_blocks_count_when_all_their_stores_are_there() {
        let mut leg = Leg::new(1, Duration::ZERO, 64 * 2 + 5, 1, 2);
        assert_eq!(leg.tokens_complete(), 64);
        for (block, store, complete) in [(2, 0, 64), (2, 1, 64), (1, 1, 64), (1, 0, 133)] {
            assert!(leg.wants(block, StoreId(store)));
            leg.note(block, StoreId(store));
            assert_eq!(leg.tokens_complete(), complete);
        }
        assert!(leg.is_complete());
    }

    #[test]
    fn pages_held_beyond_the_end_unknown_or_twice_are_not_wanted() {
        let mut leg = Leg::new(1, Duration::ZERO, 64 * 2, 1, 2);
        leg.note(1, StoreId(0));
        for (block, store) in [(0, 0), (2, 0), (1, 2), (1, 0), (u32::MAX, 0)] {
            assert!(!leg.wants(block, StoreId(store)), "block {block} store {store}");
        }
        leg.note(1, StoreId(0));
        assert!(!leg.is_complete());
    }
}
