//! What the coordinator is told, as messages.

use hadal_proto::{PROTOCOL_VERSION, cluster as w};
use hadal_types::{CacheEvent, Incarnation, Ledger, Role, WorkerId};
use hadal_worker_core::CacheSnapshot;

use crate::engine::Info;

/// Blocks of one message: about 100 KB.
const BLOCKS_MAX: usize = 4096;

/// Who a worker is.
pub(crate) struct Identity {
    pub(crate) id: WorkerId,
    pub(crate) incarnation: Incarnation,
    pub(crate) role: Role,
    pub(crate) grpc_address: String,
    pub(crate) transfer_address: String,
    pub(crate) info: Info,
}

impl Identity {
    pub(super) fn register(&self, ledger: &Ledger) -> w::Register {
        let files = self.info.files.iter().map(|f| w::ModelFile {
            name: f.name.to_owned(),
            blake3: f.blake3.to_vec(),
            bytes: f.bytes.len() as u64,
        });
        w::Register {
            protocol_version: PROTOCOL_VERSION,
            worker_id: self.id.0.clone(),
            incarnation: self.incarnation.0,
            role: self.role.name().to_owned(),
            model_name: self.info.model_name.clone(),
            architecture: self.info.architecture.clone(),
            fingerprint: self.info.fingerprint.0.to_vec(),
            numerics_class: self.info.class.0.to_vec(),
            geometry: Some((&*self.info.geometry).into()),
            grpc_address: self.grpc_address.clone(),
            transfer_address: self.transfer_address.clone(),
            ledger: Some(ledger.into()),
            context_tokens: self.info.context_tokens,
            files: files.collect(),
        }
    }

    pub(super) fn events(&self, events: &[CacheEvent]) -> w::CacheEvents {
        w::CacheEvents { incarnation: self.incarnation.0, events: events.iter().map(Into::into).collect() }
    }

    /// One message at least, the last one marked.
    pub(super) fn snapshot(&self, snapshot: &CacheSnapshot) -> Vec<w::CacheSnapshot> {
        let block = |(hash, parts): &(hadal_types::ChainHash, hadal_types::PartSet)| w::cache_snapshot::Block {
            hash: hash.0.to_vec(),
            parts: parts.bits(),
            tier: 0,
        };
        let message = |blocks: &[_], first, last| w::CacheSnapshot {
            incarnation: self.incarnation.0,
            sequence: snapshot.sequence,
            blocks: blocks.iter().map(block).collect(),
            first,
            last,
        };
        let count = snapshot.blocks.len().div_ceil(BLOCKS_MAX).max(1);
        let pieces = (0..count).map(|i| {
            let end = snapshot.blocks.len().min((i + 1) * BLOCKS_MAX);
            message(&snapshot.blocks[i * BLOCKS_MAX..end], i == 0, i + 1 == count)
        });
        pieces.collect()
    }
}

#[cfg(test)]
mod tests {
    use hadal_types::{ChainHash, PartSet};

    use super::*;
    use crate::engine::{Engine, SimConfig};

    #[test]
    fn a_snapshot_is_cut_into_messages_that_cover_it() {
        let engine = Engine::sim(SimConfig::instant(), None, "sim");
        let identity = Identity {
            id: WorkerId("a".into()),
            incarnation: Incarnation(1),
            role: Role::Mixed,
            grpc_address: String::new(),
            transfer_address: String::new(),
            info: engine.info().clone(),
        };
        for count in [0, 1, BLOCKS_MAX, BLOCKS_MAX + 1] {
            let blocks = vec![(ChainHash([1; 16]), PartSet::from_bits(3)); count];
            let messages = identity.snapshot(&CacheSnapshot { sequence: 5, blocks });
            assert_eq!(messages.iter().map(|m| m.blocks.len()).sum::<usize>(), count);
            assert!(messages.iter().enumerate().all(|(i, m)| m.first == (i == 0)));
            assert!(messages.iter().rev().enumerate().all(|(i, m)| m.last == (i == 0)));
        }
    }
}
