//! The wire: `hadal.v1` (public) and `hadal.cluster.v1` (between the parts), and how its messages become the types of
//! `hadal-types`.

mod convert;

pub use convert::{Malformed, hashes_from_bytes, hashes_to_bytes, id16};

/// Raised when a peer must know of a change. A release speaks this version and accepts the one before.
pub const PROTOCOL_VERSION: u32 = 1;

/// The descriptors of both packages, for reflection and for the compatibility test.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The public API.
#[allow(missing_docs, unreachable_pub, clippy::all)] // generated; documented in the .proto file
pub mod v1 {
    tonic::include_proto!("hadal.v1");
}

/// Between the parts of a cluster.
#[allow(missing_docs, unreachable_pub, clippy::all)] // generated; documented in the .proto file
pub mod cluster {
    tonic::include_proto!("hadal.cluster.v1");
}

#[cfg(test)]
mod compatibility;
