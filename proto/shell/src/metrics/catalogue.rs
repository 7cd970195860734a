//! Every metric of Hadal, in one file for each part. One entry is one static and one line in that file's `ALL`;
//! docs/metrics.md is made from it and checked by a test (`UPDATE=1 cargo test -p hadal-shell` renews it).
//!
//! Names: `hadal_<part>_<what>_<unit>`, counters end in `_total`. Labels are bounded: a part, a kind, a model that is
//! served, a worker. Every metric of a worker also bears the label `worker`.

mod coordinator;
mod router;
mod worker;

pub use coordinator::*;
pub use router::*;
pub use worker::*;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by upper bound.
    Histogram(&'static [f64]),
}

impl Kind {
    /// As the documentation calls it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug)]
pub struct Desc {
    /// Full name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it measures; a sentence.
    pub help: &'static str,
    /// Its unit, in words.
    pub unit: &'static str,
    /// Names of its labels, in the order of their values.
    pub labels: &'static [&'static str],
    /// What to do when it moves.
    pub advice: &'static str,
}

/// Upper bounds for waits that a client notices: 1 ms to 2 minutes.
const LATENCY_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// Upper bounds for steps and decisions: 10 µs to 10 s.
const SHORT_SECONDS: &[f64] = &[0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

/// Upper bounds for tokens of a request.
const TOKENS: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 131072.0, 262144.0, 1048576.0];

/// All of them, by part.
pub fn all() -> impl Iterator<Item = &'static Desc> {
    [router::ALL, coordinator::ALL, worker::ALL].into_iter().flatten().copied()
}
