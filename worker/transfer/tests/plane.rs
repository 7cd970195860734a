//! The KV plane from outside: the contract that every backend keeps, and what TCP makes of faults.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is how a test fails

#[path = "plane/contract.rs"]
mod contract;
#[path = "plane/faults.rs"]
mod faults;
#[path = "plane/setup.rs"]
mod setup;
