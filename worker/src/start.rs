//! Starting a worker and ending it.

use std::net::SocketAddr;
use std::time::Duration;

use hadal_shell::Shell;
use hadal_shell::tasks::{Tasks, Unfinished};
use hadal_types::{Incarnation, Ledger, WorkerId};

use crate::config::{Config, ConfigError};
use crate::engine::Engine;

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A listener.
    #[error(transparent)]
    Listen(#[from] hadal_shell::net::ListenError),
    /// The coordinator's address.
    #[error("--coordinator: {0}")]
    Coordinator(#[from] hadal_shell::grpc::ChannelError),
    /// The core refuses.
    #[error(transparent)]
    Core(#[from] hadal_worker_core::ConfigError),
    /// A metric.
    #[error(transparent)]
    Metrics(#[from] hadal_shell::metrics::MetricError),
    /// The operating system gave no random bytes.
    #[error(transparent)]
    Random(#[from] hadal_shell::id::NoRandom),
    /// The operating system gave no thread, or a listener without an address.
    #[error("the operating system refused {what}: {source}")]
    Os {
        /// What was asked for.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// A running worker.
pub struct Handle {
    /// Its name in the fleet.
    pub id: WorkerId,
    /// This life of it.
    pub incarnation: Incarnation,
    /// Where gRPC is served.
    pub grpc_address: SocketAddr,
    /// Where the KV plane listens; none for a decode worker without `--transfer`.
    pub transfer_address: Option<SocketAddr>,
    /// Where metrics are served, if they are.
    pub metrics_address: Option<SocketAddr>,
    tasks: Tasks,
}

impl Handle {
    /// What the worker holds and has free.
    pub fn ledger(&self) -> Ledger {
        Ledger::default()
    }

    /// Whether the coordinator has registered it.
    pub fn registered(&self) -> bool {
        false
    }

    /// Takes nothing new; running streams finish.
    pub fn drain(&self) {
        self.tasks.drain();
    }

    /// Drains, and waits until all has ended or the deadline.
    ///
    /// # Errors
    /// Names what had not ended.
    pub async fn join(&self, deadline: Duration) -> Result<(), Unfinished> {
        self.tasks.join(deadline).await
    }
}

/// Starts a worker. It serves at once and registers as soon as the coordinator is there.
///
/// # Errors
/// When the configuration is inconsistent or a listener cannot be opened.
pub async fn start(config: Config, engine: Engine, shell: Shell) -> Result<Handle, StartError> {
    let _ = (config, engine, shell);
    todo!("published for its callers; the step loop follows")
}
