//! The harness of the tests that start whole parts: processes, clusters and clients. Everything binds to loopback, port
//! 0, is bounded in time, and ends only processes that it started. Nothing sleeps: readiness and pages are awaited on
//! the streams by which the parts themselves tell of them, log lines as they come; only metrics have to be asked for.

pub mod checkpoint;
pub mod client;
pub mod cluster;
pub mod ensemble;
pub mod etcd;
pub mod history;
pub mod http;
pub mod load;
pub mod process;

use std::path::{Path, PathBuf};
use std::time::Duration;

/// The bound of everything that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A folder of `tests/golden`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The end of a log, for messages of failures.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
