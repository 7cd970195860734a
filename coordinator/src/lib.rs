//! The coordinator: workers attach to it, routers ask it where a request goes and watch the fleet. What it decides is
//! decided by `hadal-coordinator-core`.

mod actor;
mod attach;
mod config;
mod counts;
mod service;
mod start;
mod wire;

pub use config::{Config, ConfigError};
pub use start::{Handle, StartError, start};

#[cfg(test)]
mod tests;
