//! The worker: the step loop around a model or a simulation of one, its gRPC service, the KV plane, and its connection
//! to the coordinator.

mod config;
mod engine;
mod start;

pub use config::{Config, ConfigError};
pub use engine::{Engine, EngineError, Info, SimConfig};
pub use start::{Handle, StartError, start};
