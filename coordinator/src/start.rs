//! Starting a coordinator and ending it.

use std::net::SocketAddr;
use std::time::Duration;

use hadal_coordinator_core::Core;
use hadal_proto::cluster::coordinator_server::CoordinatorServer;
use hadal_shell::Shell;
use hadal_shell::grpc::{self, MESSAGE_BYTES_MAX};
use hadal_shell::metrics::Status;
use hadal_shell::net::listen;
use hadal_shell::tasks::{Tasks, Unfinished};
use tonic::service::Routes;

use crate::actor::{Actor, Parts};
use crate::config::{Config, ConfigError};
use crate::counts::Counts;
use crate::service::Service;

/// Why a coordinator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A listener.
    #[error(transparent)]
    Listen(#[from] hadal_shell::net::ListenError),
    /// A metric.
    #[error(transparent)]
    Metrics(#[from] hadal_shell::metrics::MetricError),
}

/// A running coordinator.
pub struct Handle {
    /// Where gRPC is served.
    pub grpc_address: SocketAddr,
    /// Where metrics are served, if they are.
    pub metrics_address: Option<SocketAddr>,
    tasks: Tasks,
}

impl Handle {
    /// Places nothing more, refuses what waits, and lets workers and watchers go.
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

/// Starts a coordinator; it serves when this returns.
///
/// # Errors
/// When the configuration is inconsistent or a listener cannot be opened.
pub async fn start(config: Config, shell: Shell) -> Result<Handle, StartError> {
    let policy = config.policy()?;
    let (listener, grpc_address) = listen("--grpc", &config.grpc, &shell.exposure)?;
    let metrics = config.metrics.as_ref().map(|a| listen("--metrics", a, &shell.exposure)).transpose()?;
    let Shell { tasks, exposure, metrics: registry } = shell;
    let (actor, mailbox) = Actor::new(Parts {
        core: Core::new(config.core(), policy),
        counts: Counts::new(&registry)?,
        heartbeat: config.heartbeat,
        lost_after: config.lost_after,
        mailbox: config.mailbox,
        drain: tasks.drain_token(),
    });
    tasks.spawn("coordinator", actor.run());
    let server = CoordinatorServer::new(Service::new(mailbox, tasks.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    grpc::spawn(&tasks, listener, exposure.tls, Routes::new(server), tasks.drain_token());
    let metrics_address = metrics.map(|(listener, address)| {
        hadal_shell::metrics::serve(&tasks, listener, Status::new(registry, || Ok(())));
        address
    });
    tracing::info!(%grpc_address, policy = %config.policy, "coordinator serves");
    Ok(Handle { grpc_address, metrics_address, tasks })
}
