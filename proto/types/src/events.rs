//! What workers tell of their caches.

use serde::{Deserialize, Serialize};

use crate::geometry::PartSet;
use crate::hash::ChainHash;
use crate::ids::Incarnation;

/// Where a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// In the pools that steps read.
    Device,
    /// In host memory.
    Host,
    /// On local disk.
    Disk,
}

/// What happened to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheChange {
    /// These parts of the block are there now. Its parent, if it has one, was stored before it.
    Stored,
    /// These parts of the block are gone. Its children went before it.
    Dropped,
}

/// One change of one block. Numbered without gaps by the worker; a gap makes the coordinator ask for a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheEvent {
    /// The life of the worker that this belongs to.
    pub incarnation: Incarnation,
    /// One more than the event before.
    pub sequence: u64,
    /// The block.
    pub hash: ChainHash,
    /// What happened.
    pub change: CacheChange,
    /// To which parts.
    pub parts: PartSet,
    /// In which tier.
    pub tier: Tier,
}
