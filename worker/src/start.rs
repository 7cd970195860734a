//! Starting a worker and ending it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hadal_shell::grpc;
use hadal_shell::leader::Leader;
use hadal_shell::net::listen;
use hadal_shell::tasks::{Tasks, Unfinished};
use hadal_shell::{Shell, id, metrics};
use hadal_transfer::{Connector, Expect, Tcp, TcpConfig, Timeouts};
use hadal_types::{Incarnation, Ledger, Part, WorkerId};
use hadal_worker_core::Core;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::attach::{Attach, Identity};
use crate::config::{Config, ConfigError};
use crate::engine::{Engine, Info};
use crate::fence::Fence;
use crate::leg::Peers;
use crate::metrics::{Counters, Direction};
use crate::service::Service;
use crate::shared::Shared;
use crate::step::{Context, Limits, Message, StepLoop, Steps};

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
    /// The operating system gave no thread.
    #[error("the operating system refused a thread: {0}")]
    Thread(std::io::Error),
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
    shared: Arc<Shared>,
}

impl Handle {
    /// What the worker holds and has free, as of its last step boundary.
    pub fn ledger(&self) -> Ledger {
        self.shared.lock().ledger.clone()
    }

    /// Ids of the requests that are here, as of the last step boundary.
    pub fn request_ids(&self) -> Vec<String> {
        self.shared.lock().request_ids.clone()
    }

    /// Whether the coordinator has registered it.
    pub fn registered(&self) -> bool {
        self.shared.lock().registered
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

type Bound = (TcpListener, SocketAddr);

/// The listeners and what others dial to reach them.
struct Listeners {
    grpc: Bound,
    transfer: Option<Bound>,
    metrics: Option<Bound>,
    grpc_address: String,
    transfer_address: String,
}

impl Listeners {
    fn open(config: &Config, shell: &Shell) -> Result<Self, StartError> {
        let grpc = listen("--grpc", &config.grpc, &shell.exposure)?;
        let wanted = Some(&config.transfer).filter(|address| !address.is_empty());
        let transfer = wanted.map(|address| listen("--transfer", address, &shell.exposure)).transpose()?;
        let metrics = config.metrics.as_ref().map(|a| listen("--metrics", a, &shell.exposure)).transpose()?;
        let grpc_address = advertised("grpc-advertise", &config.grpc_advertise, grpc.1)?;
        let transfer_address = match &transfer {
            Some((_, bound)) => advertised("transfer-advertise", &config.transfer_advertise, *bound)?,
            None => String::new(),
        };
        Ok(Self { grpc, transfer, metrics, grpc_address, transfer_address })
    }
}

fn advertised(flag: &'static str, given: &Option<String>, bound: SocketAddr) -> Result<String, ConfigError> {
    hadal_shell::net::advertised(given.as_deref(), bound).map_err(|problem| ConfigError { flag, problem })
}

/// Starts a worker. It serves at once and registers as soon as the coordinator is there. Must be called within a tokio
/// runtime.
///
/// # Errors
/// When the configuration is inconsistent or a listener cannot be opened.
pub async fn start(config: Config, engine: Engine, shell: Shell) -> Result<Handle, StartError> {
    config.validate()?;
    let info = engine.info().clone();
    let pages = config.pages(&info.geometry)?;
    config.check_workspace(engine.workspace_bytes(config.step_tokens))?;
    let incarnation = id::incarnation()?;
    let core = Core::new(core_config(&config, &engine, pages, incarnation))?;
    let counters = Counters::new(&shell.metrics)?;
    let leader = Leader::find(&config.coordinator, shell.exposure.tls.as_ref(), &shell.tasks)?;
    let listeners = Listeners::open(&config, &shell)?;
    let name = config.id.clone().unwrap_or_else(|| format!("{}-{:08x}", config.role, incarnation.0 >> 32));
    let identity = Identity {
        id: WorkerId(name),
        incarnation,
        role: config.role,
        grpc_address: listeners.grpc_address.clone(),
        transfer_address: listeners.transfer_address.clone(),
        info,
    };
    let shared = Arc::new(Shared::default());
    shared.lock().ledger = core.ledger();
    let handle = handle(&identity, &listeners, (&shell, &shared));

    let connector = connector(&config, &shell, &identity, &counters);
    let (steps, inbox) = Steps::new(config.step_queue);
    let (events, cache_events) = mpsc::channel(config.event_queue);
    let context = Arc::new(Context {
        steps: steps.clone(),
        tasks: shell.tasks.clone(),
        counters: counters.clone(),
        connector: Arc::new(connector.clone()) as Arc<dyn Connector>,
        peers: Peers::new(shell.exposure.tls.clone()),
        incarnation,
        info: identity.info.clone(),
        limits: limits(&config, &identity.info),
        events,
    });
    let named = Part::ALL.map(|part| (part, pages[part.index()]));
    let backend = engine.backend(&named, core.config().step_rows_max());
    let drained = run_steps(StepLoop::new(core, backend, inbox, Arc::clone(&context), Arc::clone(&shared)))?;
    let tasks = shell.tasks.clone();
    let attach = Attach {
        identity,
        leader,
        fence: Fence::default(),
        steps,
        shared: Arc::clone(&shared),
        counters,
        events: cache_events,
        drain: shell.tasks.drain_token(),
        on_drain: Box::new(move || tasks.drain()),
    };
    shell.tasks.spawn_service("attach", attach.run());
    serve(&shell, listeners, (context, config.role, connector), (shared, drained));
    tracing::info!(worker = %handle.id, role = %config.role, grpc = %handle.grpc_address, ?pages, "worker started");
    Ok(handle)
}

fn handle(identity: &Identity, listeners: &Listeners, (shell, shared): (&Shell, &Arc<Shared>)) -> Handle {
    let address = |bound: &Option<Bound>| bound.as_ref().map(|(_, address)| *address);
    Handle {
        id: identity.id.clone(),
        incarnation: identity.incarnation,
        grpc_address: listeners.grpc.1,
        transfer_address: address(&listeners.transfer),
        metrics_address: address(&listeners.metrics),
        tasks: shell.tasks.clone(),
        shared: Arc::clone(shared),
    }
}

fn core_config(
    config: &Config,
    engine: &Engine,
    pages: [u32; Part::ALL.len()],
    incarnation: Incarnation,
) -> hadal_worker_core::Config {
    let info = engine.info();
    let config = hadal_worker_core::Config {
        incarnation,
        numerics_class: info.class,
        geometry: (*info.geometry).clone(),
        pages,
        weights_bytes: info.weights_bytes,
        workspace_bytes: 0,
        context_tokens: info.context_tokens,
        vocab_tokens: info.vocab_tokens,
        step_tokens_max: config.step_tokens,
        chunk_tokens_max: config.chunk_tokens,
        requests_max: config.requests_max,
        local_tokens_max: config.local_tokens,
        prefill_lease: config.prefill_lease,
    };
    hadal_worker_core::Config { workspace_bytes: engine.workspace_bytes(config.step_rows_max()), ..config }
}

fn limits(config: &Config, info: &Info) -> Limits {
    let sizes = info.geometry.stores.iter().map(|s| s.block_bytes());
    let (smallest, largest) = (sizes.clone().min().unwrap_or(1).max(1), sizes.max().unwrap_or(1));
    let send_bytes = config.kv_send_buffer.max(largest);
    Limits {
        output_tokens_max: config.output_tokens_max,
        peer_timeout: config.peer_timeout,
        prefill_lease: config.prefill_lease,
        window_bytes: config.kv_window.max(largest),
        send_bytes,
        send_pages: usize::try_from(send_bytes / smallest).unwrap_or(usize::MAX / 2),
    }
}

fn connector(config: &Config, shell: &Shell, identity: &Identity, counters: &Counters) -> Tcp {
    let counters = counters.clone();
    let Identity { incarnation, info, .. } = identity;
    Tcp::new(TcpConfig {
        address: identity.transfer_address.clone(),
        us: Expect { incarnation: *incarnation, class: info.class, geometry: Arc::clone(&info.geometry) },
        timeouts: Timeouts { stall: config.kv_stall, ..Timeouts::default() },
        tls: shell.exposure.tls.clone(),
        on_error: Arc::new(move |kind| counters.transfer_ended(Direction::Sent, kind.name())),
    })
}

/// Starts the step thread. Gives what is cancelled when it has drained.
fn run_steps(steps: StepLoop) -> Result<CancellationToken, StartError> {
    let drained = steps.drained.clone();
    let tasks = steps.context.tasks.clone();
    let runtime = tokio::runtime::Handle::current();
    let body = move || {
        let _within = runtime.enter();
        steps.run();
    };
    tasks.spawn_thread("steps", body).map_err(StartError::Thread)?;
    Ok(drained)
}

fn serve(
    shell: &Shell,
    listeners: Listeners,
    (context, role, connector): (Arc<Context>, hadal_types::Role, Tcp),
    (shared, drained): (Arc<Shared>, CancellationToken),
) {
    let drain = shell.tasks.drain_token();
    let steps = context.steps.clone();
    let routes = Routes::new(Service::server(context, role));
    // The server goes on until all requests have ended, and refuses new ones in words.
    grpc::spawn(&shell.tasks, listeners.grpc.0, shell.exposure.tls.clone(), routes, drained);
    shell.tasks.spawn("drain", async move {
        drain.cancelled().await;
        // A step thread that has ended has drained.
        let _ = steps.send(Message::Drain).await;
    });
    if let Some((listener, _)) = listeners.transfer {
        shell.tasks.spawn_service("KV listener", connector.serve(listener));
    }
    if let Some((listener, _)) = listeners.metrics {
        let ready = move || {
            if shared.lock().registered { Ok(()) } else { Err("not registered with the coordinator".to_owned()) }
        };
        metrics::serve(&shell.tasks, listener, metrics::Status::new(shell.metrics.clone(), ready));
    }
}
