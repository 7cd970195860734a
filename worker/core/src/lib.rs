//! The worker's state machine: pages, prefix cache, requests and the scheduler, without clock, IO or threads.
//!
//! The shell gives [`Core`] events with the instant, carries out the [`Command`]s that come back, asks for a [`Plan`],
//! has the engine compute it, and reports the results. See [`Core`] for the whole protocol.

mod cache;
mod command;
mod config;
mod core;
mod event;
mod incoming;
mod memory;
mod outgoing;
mod pages;
mod plan;
mod request;
mod scheduler;
mod step_model;

pub use self::core::{CacheSnapshot, Core, SampleInputs, Stats};
pub use command::{Command, Failure, FailureKind, FinishReason, TokenLogprobs};
pub use config::{Config, ConfigError};
pub use event::{Event, Generate, Prefill, RequestKey};
pub use incoming::{IncomingPage, Unexpected};
pub use plan::{Plan, Sampled, SliceResult, StepLoad, StepSlice};
pub use step_model::StepModel;
