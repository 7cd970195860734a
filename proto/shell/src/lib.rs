//! What the shells of Hadal's parts share: configuration, TLS, listeners, gRPC, tasks and drain, metrics, logs, ids.

pub mod config;
pub mod exit;
pub mod grpc;
pub mod http;
pub mod id;
pub mod leader;
pub mod log;
pub mod metrics;
pub mod net;
pub mod signal;
pub mod tasks;
pub mod tls;
pub mod units;

/// What a part is started with: its tasks, how it may be exposed, and where it counts.
#[derive(Clone)]
pub struct Shell {
    /// Spawns what the part runs, and ends it.
    pub tasks: tasks::Tasks,
    /// Whether its internal listeners may be reached from other machines, and how connections are secured.
    pub exposure: net::Exposure,
    /// Registers its metrics.
    pub metrics: metrics::Metrics,
}

impl Shell {
    /// A shell without TLS on loopback and without constant labels, as tests and embedded parts use it.
    pub fn local() -> Self {
        Self { tasks: tasks::Tasks::new(), exposure: net::Exposure::default(), metrics: metrics::Metrics::new(&[]) }
    }
}
