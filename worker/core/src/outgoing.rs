//! The prefill side of a transfer: which pages may leave, in which order, and how many at a time.
//!
//! Blocks are queued as runs of one store: the cached ones at once, then those of each layer as it is computed, index
//! before latents. What is handed out never exceeds the receiver's credit.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use hadal_types::{BLOCK_TOKENS, Geometry, LayerId, LeaseId, Part, StoreId};

/// A store, as sending sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SendStore {
    pub(crate) id: StoreId,
    pub(crate) owner: LayerId,
    pub(crate) part: Part,
    stride: u32,
    page_bytes: u64,
}

impl SendStore {
    /// The stores in sending order: by owner, index before latents.
    pub(crate) fn in_order(geometry: &Geometry) -> Vec<SendStore> {
        let mut stores: Vec<SendStore> = (0..)
            .zip(&geometry.stores)
            .map(|(id, s)| SendStore {
                id: StoreId(id),
                owner: s.owner,
                part: s.part,
                stride: s.stride,
                page_bytes: s.block_bytes(),
            })
            .collect();
        stores.sort_by_key(|s| (s.owner, s.part, s.id));
        stores
    }

    /// Rows of a block of a sequence of so many tokens.
    pub(crate) fn rows(&self, block: usize, tokens: usize) -> u32 {
        rows(block, tokens, self.stride)
    }
}

/// Rows that a block of a sequence of `tokens` has in a store of that stride.
pub(crate) fn rows(block: usize, tokens: usize, stride: u32) -> u32 {
    let block_tokens = tokens.saturating_sub(block * BLOCK_TOKENS as usize).min(BLOCK_TOKENS as usize);
    block_tokens as u32 / stride
}

/// The sending of one prefill.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) lease: LeaseId,
    pub(crate) until: Duration,
    /// When the last row was computed.
    pub(crate) computed_at: Option<Duration>,
    pub(crate) computed_tokens: usize,
    pub(crate) end_sent: bool,
    credit: u64,
    /// By position in sending order: the first block not queued yet.
    offered: Vec<usize>,
    runs: VecDeque<(usize, Range<usize>)>,
}

impl Outgoing {
    /// Nothing queued, no credit; `blocks_held` leading blocks are never sent.
    pub(crate) fn new(lease: LeaseId, until: Duration, blocks_held: usize, stores: usize) -> Self {
        Self {
            lease,
            until,
            computed_at: None,
            computed_tokens: 0,
            end_sent: false,
            credit: 0,
            offered: vec![blocks_held; stores],
            runs: VecDeque::new(),
        }
    }

    /// Queues what is new when this store (by position in sending order) has so many complete blocks.
    pub(crate) fn offer(&mut self, store: usize, complete: usize) {
        let from = self.offered[store];
        if from < complete {
            self.runs.push_back((store, from..complete));
            self.offered[store] = complete;
        }
    }

    pub(crate) fn add_credit(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_add(bytes);
    }

    /// The next block to send, by position of its store in sending order, if credit allows.
    pub(crate) fn next(&mut self, stores: &[SendStore]) -> Option<(usize, usize)> {
        let (store, blocks) = self.runs.front_mut()?;
        let store = *store;
        self.credit = self.credit.checked_sub(stores[store].page_bytes)?;
        let block = blocks.start;
        blocks.start += 1;
        if Range::is_empty(blocks) {
            self.runs.pop_front();
        }
        Some((store, block))
    }

    /// Whether nothing is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::geometry;

    fn drain(outgoing: &mut Outgoing, stores: &[SendStore]) -> Vec<(u32, usize)> {
        std::iter::from_fn(|| outgoing.next(stores)).map(|(s, b)| (stores[s].id.0, b)).collect()
    }

    #[test]
    fn stores_go_by_layer_with_the_index_first() {
        let order: Vec<u32> = SendStore::in_order(&geometry(2, true)).iter().map(|s| s.id.0).collect();
        assert_eq!(order, [1, 0, 3, 2], "the test geometry lists latents first");
    }

    #[test]
    fn held_blocks_are_left_out_and_credit_bounds_the_rest() {
        let stores = SendStore::in_order(&geometry(1, true));
        let mut outgoing = Outgoing::new(LeaseId(1), Duration::ZERO, 1, stores.len());
        outgoing.offer(0, 3);
        outgoing.offer(1, 2);
        assert_eq!(drain(&mut outgoing, &stores), []);
        outgoing.add_credit(2 * stores[0].page_bytes);
        assert_eq!(drain(&mut outgoing, &stores), [(1, 1), (1, 2)]);
        outgoing.offer(0, 3);
        outgoing.add_credit(u64::MAX);
        assert_eq!(drain(&mut outgoing, &stores), [(0, 1)]);
        assert!(outgoing.is_empty());
    }

    #[test]
    fn the_last_block_may_have_fewer_rows() {
        assert_eq!([rows(0, 70, 1), rows(1, 70, 1), rows(2, 70, 1)], [64, 6, 0]);
        assert_eq!(rows(0, 64, 4), 16);
    }
}
