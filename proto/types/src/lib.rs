//! What the cores of Hadal share: ids, cache geometry, chain hashes, ledgers, cache events, the numerics class and
//! sampling parameters. No IO, no clock, no async.

mod attention;
mod events;
mod geometry;
mod hash;
mod ids;
mod ledger;
mod numerics;
mod sampling;

pub use attention::Attention;
pub use events::{CacheChange, CacheEvent, Tier};
pub use geometry::{
    BLOCK_TOKENS, Choice, Encoding, Field, Geometry, GeometryError, Keep, Layer, LayerId, Part, PartSet, Placement,
    Read, Rows, Store, StoreClass, StoreId, blocks_for,
};
pub use hash::{ChainHash, ChainRoot, ParseHashError};
pub use ids::{Incarnation, LeaseId, Priority, RequestId, RequestIdError, Role, RoleError, Term, WorkerId};
pub use ledger::{Ledger, PartLedger};
pub use numerics::{Dtype, Fingerprint, KvEncoding, Numerics, NumericsClass, UnknownName};
pub use sampling::{InvalidSampling, SamplingParams};
