//! Where coordinators agree on who leads: a key under a lease, whose create_revision is the leadership's term.
//!
//! A store answers within a bounded time or fails; whoever calls it tries again. Every call may be repeated: an answer
//! that was lost does no harm. `memory` serves a coordinator without standbys, `etcd` all others.

mod address;
mod etcd;
mod memory;

use std::time::Duration;

use hadal_coordinator_core::{Seen, StoreLease};
use hadal_types::Term;

pub use address::{StoreAddress, StoreAddressError};
pub(crate) use etcd::Etcd;
pub(crate) use memory::Memory;

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// Nobody answers, or not in time.
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
    /// It has forgotten the lease.
    #[error("the lease has ended")]
    LeaseGone,
    /// Something else wrote the key.
    #[error(
        "the store's key {key} holds what no coordinator of this release wrote ({problem}); if no other cluster uses it, \
         remove it (etcdctl del {key}), else give this cluster a prefix of its own: --store etcd://HOST:PORT/PREFIX"
    )]
    Foreign {
        /// The key.
        key: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// It will not, however often it is asked.
    #[error("the store refuses: {0}")]
    Refused(String),
}

/// What came of a campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Campaign {
    /// The key is ours.
    Won(Term),
    /// It is another's.
    Held(Seen),
}

/// A store. Its leases end when they are not renewed, and take the key with them.
#[tonic::async_trait]
pub(crate) trait ClusterStore: Send + Sync {
    /// A new lease and how long it lasts, which may be longer than asked.
    async fn grant(&self, ttl: Duration) -> Result<(StoreLease, Duration), StoreError>;

    /// Renews a lease; how long it lasts from now.
    async fn renew(&self, lease: StoreLease) -> Result<Duration, StoreError>;

    /// Ends a lease; one that has ended is no error.
    async fn revoke(&self, lease: StoreLease) -> Result<(), StoreError>;

    /// Writes the key with the candidate's address under its lease if there is no key. Won again by whoever holds it.
    async fn campaign(&self, lease: StoreLease, address: &str) -> Result<Campaign, StoreError>;

    /// Removes the key if it is of this term, in one transaction; what it is afterwards.
    async fn unseat(&self, term: Term) -> Result<Seen, StoreError>;

    /// What the key is now, and every change from then on.
    async fn watch(&self) -> Result<Box<dyn Watch>, StoreError>;
}

/// The key as it changes. Intermediate states may be left out, the last one is not.
#[tonic::async_trait]
pub(crate) trait Watch: Send {
    /// The next state. After an error the watch is of no more use.
    async fn next(&mut self) -> Result<Seen, StoreError>;
}

#[cfg(test)]
mod tests;
