//! The coordinator's decisions, without IO: which workers there are, what they hold, and where a request goes.
//!
//! [`Core::on`] takes the instant and an [`Event`] and returns [`Command`]s. Nothing here reads a clock, draws a random
//! number or opens a socket, so the same events give the same commands.

mod config;
mod core;
mod counters;
pub mod directory;
mod election;
mod event;
mod fleet;
mod pending;
mod placing;
pub mod policy;
mod queue;
mod sync;

pub use crate::core::Core;
pub use config::Config;
pub use counters::{Counters, Discarded, Loss, Outcome};
pub use election::{Election, ElectionCommand, ElectionConfig, ElectionEvent, Leader, Seen, StoreLease};
pub use event::{
    Answer, Command, ConnectionId, Event, Heartbeat, Leg, PlaceId, PlaceRequest, Placement, Refusal, RefusalKind,
    SnapshotBlock, SnapshotChunk, WorkerInfo,
};
pub use fleet::WorkerView;

#[cfg(test)]
mod tests;
