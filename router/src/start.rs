//! Starting a router and ending it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hadal_router_core::{Failure, FailureKind};
use hadal_shell::Shell;
use hadal_shell::leader::Leader;
use hadal_shell::metrics::Status;
use hadal_shell::tasks::{Tasks, Unfinished};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic_health::server::HealthReporter;

use crate::config::{Aliases, Config, ConfigError};
use crate::dispatch::{Dispatch, InFlight};
use crate::fleet::{Fleet, Link};
use crate::metrics::Metrics;
use crate::models::{self, Models};
use crate::service::{Api, Backend, ModelInfo, OutputStream, Readiness, ServedModel, Submission};
use crate::workers::Workers;
use crate::{grpc, http};

/// Why a router does not start.
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
    /// A metric.
    #[error(transparent)]
    Metrics(#[from] hadal_shell::metrics::MetricError),
    /// The descriptors for reflection.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The running router, as its servers use it. A cheap handle.
#[derive(Clone)]
pub struct Service {
    fleet: Fleet,
    models: Models,
    dispatch: Arc<Dispatch>,
    drain: CancellationToken,
}

impl Backend for Service {
    fn readiness(&self) -> Readiness {
        if self.drain.is_cancelled() {
            return Readiness::Draining;
        }
        match (self.fleet.link(), self.models.obstacle()) {
            (Link::Down(reason), _) => Readiness::Waiting(models::no_coordinator(&reason)),
            (Link::Up, Some(obstacle)) => Readiness::Waiting(obstacle),
            (Link::Up, None) => Readiness::Ready,
        }
    }

    fn models(&self) -> Vec<ModelInfo> {
        self.models.list()
    }

    async fn model(&self, name: &str, deadline: Option<Instant>) -> Result<Arc<ServedModel>, Failure> {
        self.undrained()?;
        tokio::select! {
            found = self.models.get(name, deadline) => found,
            // What waits has not begun, and another router may have the model.
            () = self.drain.cancelled() => Err(draining()),
        }
    }

    async fn submit(&self, submission: Submission) -> Result<OutputStream, Failure> {
        self.undrained().inspect_err(|failure| self.refused(submission.context.api, failure))?;
        self.dispatch.submit(submission).await
    }

    fn refused(&self, api: Api, failure: &Failure) {
        self.dispatch.metrics.refused(api, failure);
    }
}

impl Service {
    #[cfg(test)]
    pub(crate) fn in_flight_is_empty(&self) -> bool {
        self.dispatch.in_flight.is_empty()
    }

    fn undrained(&self) -> Result<(), Failure> {
        if self.drain.is_cancelled() { Err(draining()) } else { Ok(()) }
    }
}

fn draining() -> Failure {
    Failure::new(FailureKind::Unavailable, "this router drains; send the request to another one")
}

/// A running router.
pub struct Handle {
    /// Where HTTP is served.
    pub http_address: SocketAddr,
    /// Where gRPC is served.
    pub grpc_address: SocketAddr,
    service: Service,
    tasks: Tasks,
}

impl Handle {
    /// Whether requests can be answered now.
    pub fn readiness(&self) -> Readiness {
        self.service.readiness()
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

/// How often health is told anew.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);

/// Starts a router. It serves at once, and waits for its coordinator and a first worker as long as it takes.
///
/// # Errors
/// When the configuration is inconsistent or a listener cannot be opened.
pub async fn start(config: Config, shell: Shell) -> Result<Handle, StartError> {
    let service = service(&config, &shell)?;
    let (http, http_address) = hadal_shell::net::listen_public("--http", &config.http)?;
    let (grpc, grpc_address) = hadal_shell::net::listen_public("--grpc", &config.grpc)?;
    let bytes = usize::try_from(config.request_bytes_max).unwrap_or(usize::MAX);
    serve_http(&service, bytes, &shell, http);
    serve_grpc(&service, bytes, &shell, grpc)?;
    Ok(Handle { http_address, grpc_address, service, tasks: shell.tasks })
}

/// The service, with the tasks that keep its view of the fleet.
pub(crate) fn service(config: &Config, shell: &Shell) -> Result<Service, StartError> {
    let limits = config.limits()?;
    let aliases = Aliases::parse(&config.served_model_name)?;
    let tls = shell.exposure.tls.clone();
    let leader = Leader::find(&config.coordinator, tls.as_ref(), &shell.tasks)?;
    let metrics = Metrics::new(&shell.metrics)?;
    let workers = Workers::new(tls);
    let waiting = Arc::new(Semaphore::new(limits.waiting));
    let (fleet, watcher) = Fleet::new(leader.clone(), metrics.clone());
    let shared = (Arc::clone(&waiting), metrics.clone());
    let (models, librarian) = Models::new(fleet.clone(), workers.clone(), aliases, &limits, shared);
    // While streams finish they may have to be placed again, so the view is kept to the end.
    shell.tasks.spawn_service("fleet", watcher.run());
    shell.tasks.spawn_service("models", librarian.run());
    let dispatch = Dispatch {
        leader,
        fleet: fleet.clone(),
        workers,
        limits,
        waiting,
        metrics,
        tasks: shell.tasks.clone(),
        in_flight: InFlight::default(),
    };
    Ok(Service { fleet, models, dispatch: Arc::new(dispatch), drain: shell.tasks.drain_token() })
}

fn serve_http(service: &Service, bytes: usize, shell: &Shell, listener: TcpListener) {
    let probe = service.clone();
    let ready = move || match probe.readiness() {
        Readiness::Ready => Ok(()),
        Readiness::Waiting(reason) => Err(reason),
        Readiness::Draining => Err("draining".to_owned()),
    };
    let status = Status::new(shell.metrics.clone(), ready);
    let routes = http::routes(service.clone(), http::Options::new(bytes), status);
    hadal_shell::http::serve(&shell.tasks, listener, routes);
}

fn serve_grpc(service: &Service, bytes: usize, shell: &Shell, listener: TcpListener) -> Result<(), StartError> {
    let (routes, health) = grpc::routes(service.clone(), bytes)?;
    let drain = shell.tasks.drain_token();
    shell.tasks.spawn_service("health", keep_health(service.clone(), health));
    // Clients are no parts of the cluster: they have no certificate of its authority.
    hadal_shell::grpc::spawn(&shell.tasks, listener, None, routes, drain);
    Ok(())
}

async fn keep_health(service: Service, mut health: HealthReporter) {
    let mut told = None;
    while told != Some(Readiness::Draining) {
        let readiness = service.readiness();
        if told.as_ref() != Some(&readiness) {
            grpc::tell_health(&health, &readiness).await;
            told = Some(readiness);
        }
        let wait = tokio::time::sleep(HEALTH_INTERVAL);
        tokio::select! {
            () = wait => {}
            () = service.drain.cancelled() => {}
        }
    }
    // Clients that watch health have heard it; their streams would hold up the end of the server.
    grpc::end_health(&mut health).await;
}

#[cfg(test)]
mod tests;
