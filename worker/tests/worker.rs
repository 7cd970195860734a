//! Workers over loopback, with a coordinator that only listens.

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
