//! The worker's state machine: pages, prefix cache, requests and the scheduler, without clock, IO or threads.
//!
//! The shell gives [`Core`] events with the instant, carries out the [`Command`]s that come back, asks for a [`Plan`],
//! has the engine compute it, and reports the results. See [`Core`] for the whole protocol.

mod admission;
mod cache;
mod command;
mod config;
mod core;
mod event;
mod failure;
#[cfg(any(test, feature = "test-util"))]
pub mod fuzz;
mod incoming;
mod legs;
mod memory;
mod outgoing;
mod pages;
mod plan;
mod request;
mod results;
mod scheduler;
mod sending;
mod speculation;
mod step_model;
#[cfg(any(test, feature = "test-util"))]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod test_util;
#[cfg(any(test, feature = "test-util"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, reason = "the fuzz target uses a part of the harness"))]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]
mod tests;

pub use self::core::{CacheSnapshot, Core, SampleInputs, Stats};
pub use command::{Command, FinishReason, TokenLogprobs};
pub use config::{Config, ConfigError};
pub use event::{Event, Generate, Prefill, RequestKey};
pub use failure::{Failure, FailureKind};
pub use incoming::{IncomingPage, Unexpected};
pub use plan::{Follow, Plan, Sampled, SliceResult, StepLoad, StepSlice, Tokens};
pub use step_model::StepModel;
