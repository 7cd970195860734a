//! Workers over loopback, with a coordinator that only listens.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is how a test fails

#[path = "worker/attach.rs"]
mod attach;
#[path = "worker/cancel.rs"]
mod cancel;
#[path = "worker/faults.rs"]
mod faults;
#[path = "worker/golden.rs"]
mod golden;
#[path = "worker/pair.rs"]
mod pair;
#[path = "worker/setup.rs"]
mod setup;
