//! The byte ledger of a worker: what it holds and what it could still take.

use serde::{Deserialize, Serialize};

use crate::geometry::{Part, blocks_for};

/// Pages of one part. A page is one block of every store of the part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartLedger {
    /// Which part.
    pub part: Part,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Pages of the pool.
    pub pages_total: u64,
    /// Pages that hold nothing.
    pub pages_free: u64,
    /// Pages that hold cached blocks which no request uses: evicted when needed.
    pub pages_cached: u64,
}

impl PartLedger {
    /// Pages that a new request could have.
    pub fn pages_available(&self) -> u64 {
        self.pages_free.saturating_add(self.pages_cached)
    }
}

/// What a worker holds, exactly.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Weights in memory (a mapped file counts whole).
    pub weights_bytes: u64,
    /// The step's workspace, indexer logits included.
    pub workspace_bytes: u64,
    /// The parts, in [`Part::ALL`]'s order; only those that the model has.
    pub parts: Vec<PartLedger>,
}

impl Ledger {
    /// The pages of a part, if the model has it.
    pub fn part(&self, part: Part) -> Option<&PartLedger> {
        self.parts.iter().find(|p| p.part == part)
    }

    /// Tokens of the longest sequence that the pools could hold if they were empty.
    pub fn tokens_max(&self) -> u64 {
        self.blocks(|p| p.pages_total).saturating_mul(u64::from(crate::BLOCK_TOKENS))
    }

    /// Blocks that could be taken now, evicting what no request uses.
    pub fn blocks_available(&self) -> u64 {
        self.blocks(PartLedger::pages_available)
    }

    /// Whether a sequence of so many tokens could be held now.
    pub fn fits(&self, tokens: u64) -> bool {
        blocks_for(tokens) <= self.blocks_available()
    }

    fn blocks(&self, pages: impl Fn(&PartLedger) -> u64) -> u64 {
        self.parts.iter().map(pages).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scarcer_part_limits() {
        let part = |part, pages_total, pages_free, pages_cached| PartLedger {
            part,
            page_bytes: 1,
            pages_total,
            pages_free,
            pages_cached,
        };
        let ledger =
            Ledger { parts: vec![part(Part::Index, 10, 5, 2), part(Part::Latent, 8, 3, 1)], ..Ledger::default() };
        assert_eq!(ledger.tokens_max(), 8 * 64);
        assert!(ledger.fits(4 * 64));
        assert!(!ledger.fits(4 * 64 + 1));
    }

    #[test]
    fn absurd_numbers_saturate() {
        let most = u64::MAX;
        let part =
            PartLedger { part: Part::Index, page_bytes: 1, pages_total: most, pages_free: most, pages_cached: most };
        let ledger = Ledger { parts: vec![part], ..Ledger::default() };
        assert_eq!((ledger.tokens_max(), ledger.blocks_available()), (most, most));
    }
}
