//! Starting a coordinator and ending it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hadal_coordinator_core::Core;
use hadal_proto::cluster::coordinator_server::CoordinatorServer;
use hadal_shell::Shell;
use hadal_shell::grpc::{self, MESSAGE_BYTES_MAX};
use hadal_shell::metrics::Status;
use hadal_shell::net::listen;
use hadal_shell::tasks::{Tasks, Unfinished};
use hadal_shell::tls::Tls;
use tonic::service::Routes;

use crate::actor::{Actor, Parts};
use crate::config::{Config, ConfigError};
use crate::counts::Counts;
use crate::leadership::{self, Leadership, Office};
use crate::service::Service;
use crate::store::{ClusterStore, Etcd, Memory, StoreAddress};

/// A lease of the store in memory.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Why a coordinator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A listener.
    #[error(transparent)]
    Listen(#[from] hadal_shell::net::ListenError),
    /// The store's addresses.
    #[error("--store: {0}")]
    Store(hadal_shell::grpc::ChannelError),
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
    config.policy()?;
    let (listener, grpc_address) = listen("--grpc", &config.grpc, &shell.exposure)?;
    let metrics = config.metrics.as_ref().map(|a| listen("--metrics", a, &shell.exposure)).transpose()?;
    let address = advertised(&config, grpc_address)?;
    let Shell { tasks, exposure, metrics: registry } = shell;
    let counts = Counts::new(&registry)?;
    let (store, ttl) = open_store(&config, exposure.tls.as_ref())?;
    let mut position = Leadership::start(leadership::Parts {
        store,
        address: address.clone(),
        ttl,
        office: office(&config, &counts, &tasks),
        tls: exposure.tls.clone(),
        tasks: tasks.clone(),
        counts,
    });
    if config.store == StoreAddress::Memory {
        position.settled().await;
    }
    let server = CoordinatorServer::new(Service::new(position.standing.clone(), address, tasks.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    grpc::spawn(&tasks, listener, exposure.tls, Routes::new(server), tasks.drain_token());
    let metrics_address = metrics.map(|(listener, address)| {
        hadal_shell::metrics::serve(&tasks, listener, Status::new(registry, move || position.ready()));
        address
    });
    tracing::info!(%grpc_address, policy = %config.policy, store = %config.store, "coordinator serves");
    Ok(Handle { grpc_address, metrics_address, tasks })
}

/// What others dial; without standbys nobody asks for it.
fn advertised(config: &Config, bound: SocketAddr) -> Result<String, ConfigError> {
    match hadal_shell::net::advertised(config.grpc_advertise.as_deref(), bound) {
        Ok(address) => Ok(address),
        Err(_) if config.grpc_advertise.is_none() && config.store == StoreAddress::Memory => Ok(bound.to_string()),
        Err(problem) => Err(ConfigError { flag: "grpc-advertise", problem }),
    }
}

/// The store, and how long a lease in it lasts.
fn open_store(config: &Config, tls: Option<&Tls>) -> Result<(Arc<dyn ClusterStore>, Duration), StartError> {
    match &config.store {
        // Nobody else could lead, however long this process is stopped.
        StoreAddress::Memory => Ok((Arc::new(Memory::new()), FOR_EVER)),
        StoreAddress::Etcd { members, tls: secured, prefix } => {
            if *secured && tls.is_none() {
                let problem = "etcds:// needs --tls-cert, --tls-key and --tls-ca".to_owned();
                return Err(ConfigError { flag: "store", problem }.into());
            }
            let store = Etcd::new(members, prefix, tls.filter(|_| *secured)).map_err(StartError::Store)?;
            Ok((Arc::new(store), config.leader_lease))
        }
    }
}

/// Makes the actor of each term.
fn office(config: &Config, counts: &Counts, tasks: &Tasks) -> Office {
    let (config, counts, tasks) = (config.clone(), counts.clone(), tasks.clone());
    Box::new(move |term, fence, drain| {
        // It was made before, when the configuration was checked.
        let policy = config.policy()?;
        let (actor, mailbox) = Actor::new(Parts {
            core: Core::new(config.core(), policy),
            term,
            fence,
            counts: counts.clone(),
            heartbeat: config.heartbeat,
            lost_after: config.lost_after,
            mailbox: config.mailbox,
            drain,
        });
        tasks.spawn("coordinator", actor.run());
        Ok(mailbox)
    })
}
