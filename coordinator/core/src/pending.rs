//! Placements that no heartbeat has named yet: what they will take of a worker counts as taken.

use std::collections::BTreeMap;

use hadal_types::RequestId;

use crate::event::PlaceId;

/// What a placement will take of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Pages, of every part.
    pub(crate) blocks: u64,
    /// Prompt tokens to be computed.
    pub(crate) tokens: u64,
}

/// A worker's placements under way.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    claims: BTreeMap<(RequestId, PlaceId), Claim>,
    blocks: u64,
    tokens: u64,
}

impl Pending {
    pub(crate) fn len(&self) -> usize {
        self.claims.len()
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    pub(crate) fn add(&mut self, request: RequestId, place: PlaceId, claim: Claim) {
        self.blocks += claim.blocks;
        self.tokens += claim.tokens;
        if let Some(old) = self.claims.insert((request, place), claim) {
            self.subtract(old);
        }
    }

    /// Ends one placement; whether it was still there.
    pub(crate) fn remove(&mut self, request: &RequestId, place: PlaceId) -> bool {
        let claim = self.claims.remove(&(request.clone(), place));
        claim.inspect(|claim| self.subtract(*claim)).is_some()
    }

    /// Ends all placements of a request.
    pub(crate) fn remove_all(&mut self, request: &RequestId) {
        let range = (request.clone(), PlaceId(0))..=(request.clone(), PlaceId(u64::MAX));
        let places: Vec<PlaceId> = self.claims.range(range).map(|((_, place), _)| *place).collect();
        for place in places {
            self.remove(request, place);
        }
    }

    fn subtract(&mut self, claim: Claim) {
        self.blocks -= claim.blocks;
        self.tokens -= claim.tokens;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_follow_the_claims() {
        let id = |n: u32| RequestId::new(format!("r{n}")).unwrap();
        let claim = |blocks| Claim { blocks, tokens: 10 * blocks };
        let mut pending = Pending::default();
        pending.add(id(1), PlaceId(1), claim(1));
        pending.add(id(1), PlaceId(2), claim(2));
        pending.add(id(2), PlaceId(3), claim(4));
        pending.add(id(2), PlaceId(3), claim(5));
        assert_eq!((pending.len(), pending.blocks(), pending.tokens()), (3, 8, 80));
        pending.remove_all(&id(1));
        assert_eq!((pending.len(), pending.blocks(), pending.tokens()), (1, 5, 50));
        assert!(!pending.remove(&id(1), PlaceId(1)));
        assert!(pending.remove(&id(2), PlaceId(3)));
        assert_eq!((pending.len(), pending.blocks(), pending.tokens()), (0, 0, 0));
    }
}
