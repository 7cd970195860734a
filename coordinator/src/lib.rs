//! The coordinator: workers attach to it, routers ask it where a request goes and watch the fleet. What it decides is
//! decided by `hadal-coordinator-core`.

mod actor;
mod attach;
mod config;
mod counts;
mod leadership;
mod service;
mod start;
mod store;
mod wire;

pub use config::{Config, ConfigError};
pub use start::{Handle, StartError, start};
pub use store::{StoreAddress, StoreAddressError};

#[cfg(test)]
mod tests;
