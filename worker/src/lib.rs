//! The worker: the step loop around a model or a simulation of one, its gRPC service, the KV plane, and its connection
//! to the coordinator.

mod attach;
mod config;
mod engine;
mod errors;
mod fence;
mod leg;
mod metrics;
mod output;
mod send;
mod service;
mod shared;
mod start;
mod step;

pub use config::{Config, ConfigError};
pub use engine::{Engine, EngineError, Info, SimConfig};
pub use start::{Handle, StartError, start};
