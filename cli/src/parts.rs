//! The parts of a cluster, one process each: `hadal router`, `hadal coordinator`, `hadal worker`.

use std::path::PathBuf;

use hadal_shell::Shell;
use hadal_shell::exit::Exit;
use hadal_shell::id;
use hadal_shell::metrics::Metrics;
use hadal_shell::net::ExposureOptions;
use hadal_shell::tasks::Tasks;
use hadal_worker::{Engine, SimConfig};
use serde_json::{Value, json};

use crate::engine::{self, ModelOptions};
use crate::fault::{Fault, OrExit, listen_exit};
use crate::run::{RunOptions, Running};

pub(crate) const ROUTER_HELP: &str = "\
Examples:
  hadal router                                        beside a coordinator on this machine
  hadal router --coordinator coordinator:8002 --http 0.0.0.0:8000 \\
      --tls-cert router.pem --tls-key router.key --tls-ca ca.pem
  hadal router --config router.toml                   the same flags, written down

It waits for the coordinator and for a first worker, and says so at /ready.";

pub(crate) const COORDINATOR_HELP: &str = "\
Examples:
  hadal coordinator                                   on loopback, for parts on this machine
  hadal coordinator --grpc 0.0.0.0:8002 --tls-cert c.pem --tls-key c.key --tls-ca ca.pem
  hadal coordinator --grpc 0.0.0.0:8002 --insecure    where everything on the network is trusted";

pub(crate) const WORKER_HELP: &str = "\
Examples:
  hadal worker --role prefill                         the bundled sample model, beside a coordinator on this machine
  hadal worker --role decode --model ~/models/DeepSeek-V3.2-Exp --kv fp8 --kv-memory 64GiB
  hadal worker --role mixed --engine sim              no model: the time of steps on paper, for load tests

It waits for the coordinator, and comes back by itself when the connection is lost. Workers exchange cache rows and
continue each other's streams where checkpoint, --dtype, --kv and kernel path are equal.";

/// `hadal router`.
#[derive(Debug, clap::Args)]
pub(crate) struct RouterOptions {
    #[command(flatten)]
    config: hadal_router::Config,
    #[command(flatten)]
    exposure: ExposureOptions,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

/// `hadal coordinator`.
#[derive(Debug, clap::Args)]
pub(crate) struct CoordinatorOptions {
    #[command(flatten)]
    config: hadal_coordinator::Config,
    #[command(flatten)]
    exposure: ExposureOptions,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

/// What a worker computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum EngineKind {
    /// A checkpoint.
    Model,
    /// The time of steps on paper.
    Sim,
}

/// Flags of a worker that only `--engine sim` reads.
pub(crate) const SIM_FLAGS: &[&str] =
    &["step", "prefill_token", "decode_token", "context_token_ns", "context_tokens", "drafts"];
/// Flags of a worker that only `--engine model` reads.
pub(crate) const MODEL_FLAGS: &[&str] = &["dtype", "kv", "cpu", "threads", "speculate"];

/// `hadal worker`.
#[derive(Debug, clap::Args)]
pub(crate) struct WorkerOptions {
    /// model computes; sim takes the time that a model would take, with a checkpoint's tokenizer or without
    #[arg(long, value_name = "ENGINE", default_value = "model")]
    engine: EngineKind,
    /// Checkpoint folder in Hugging Face layout; the bundled sample model when left out
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// Name under which the model is served; the folder's name when left out
    #[arg(long, value_name = "NAME")]
    model_name: Option<String>,
    #[command(flatten)]
    config: hadal_worker::Config,
    #[command(flatten)]
    compute: ModelOptions,
    #[command(flatten)]
    sim: SimConfig,
    #[command(flatten)]
    exposure: ExposureOptions,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

fn shell(exposure: &ExposureOptions, labels: &[(&str, &str)]) -> Result<Shell, Fault> {
    let exposure = exposure.load().or_exit(Exit::Config)?;
    Ok(Shell { tasks: Tasks::new(), exposure, metrics: Metrics::new(labels) })
}

/// Starts a router.
pub(crate) async fn router(options: RouterOptions) -> Result<Running, Fault> {
    let shell = shell(&options.exposure, &[])?;
    let coordinator = options.config.coordinator.clone();
    let tasks = shell.tasks.clone();
    let handle = start_router(options.config, shell).await?;
    let (http, grpc) = (handle.http_address, handle.grpc_address);
    Ok(Running {
        tasks: vec![tasks],
        text: format!("router: HTTP http://{http}, gRPC {grpc}; coordinator {coordinator}"),
        json: json!({"part": "router", "http": http.to_string(), "grpc": grpc.to_string()}),
    })
}

/// Starts the coordinator.
pub(crate) async fn coordinator(options: CoordinatorOptions) -> Result<Running, Fault> {
    let shell = shell(&options.exposure, &[])?;
    let tasks = shell.tasks.clone();
    let handle = start_coordinator(options.config, shell).await?;
    let metrics = handle.metrics_address.map(|a| a.to_string());
    let at = metrics.as_ref().map_or_else(String::new, |m| format!(", metrics http://{m}/metrics"));
    Ok(Running {
        tasks: vec![tasks],
        text: format!("coordinator: gRPC {}{at}", handle.grpc_address),
        json: json!({"part": "coordinator", "grpc": handle.grpc_address.to_string(), "metrics": metrics}),
    })
}

/// Starts a worker.
pub(crate) async fn worker(mut options: WorkerOptions) -> Result<Running, Fault> {
    let id = match &options.config.id {
        Some(id) => id.clone(),
        None => format!("{}-{}", options.config.role, &id::request_id().or_exit(Exit::Os)?[..8]),
    };
    options.config.id = Some(id.clone());
    let shell = shell(&options.exposure, &[("worker", &id)])?;
    // Wrong settings show before a checkpoint is loaded.
    options.config.validate().or_exit(Exit::Config)?;
    let config = options.config.clone();
    let coordinator = config.coordinator.clone();
    // Loading blocks for as long as it takes.
    let engine = tokio::task::spawn_blocking(move || worker_engine(&options)).await.or_exit(Exit::Software)??;
    let model = engine.info().model_name.clone();
    let tasks = shell.tasks.clone();
    let role = config.role;
    let handle = start_worker(config, engine, shell).await?;
    Ok(Running {
        tasks: vec![tasks],
        text: format!("worker {id}: {role}, {model}, gRPC {}; coordinator {coordinator}", handle.grpc_address),
        json: worker_json(role, &handle),
    })
}

fn worker_engine(options: &WorkerOptions) -> Result<Engine, Fault> {
    let folder = options.model.as_deref();
    match options.engine {
        EngineKind::Model => engine::engine(folder, options.model_name.as_deref(), &options.compute),
        EngineKind::Sim => {
            // With the bundled tokenizer, so that text can be sent to it.
            let (files, own_name) = engine::open(folder)?;
            let name = options.model_name.as_deref().unwrap_or(&own_name);
            Ok(Engine::sim(options.sim.clone(), Some(&files), name))
        }
    }
}

/// What a program is told of a worker.
pub(crate) fn worker_json(role: hadal_types::Role, handle: &hadal_worker::Handle) -> Value {
    json!({
        "part": "worker",
        "id": handle.id.to_string(),
        "role": role.to_string(),
        "grpc": handle.grpc_address.to_string(),
        "transfer": handle.transfer_address.map(|a| a.to_string()),
        "metrics": handle.metrics_address.map(|a| a.to_string()),
    })
}

/// Starts a router, with its errors as faults.
pub(crate) async fn start_router(config: hadal_router::Config, shell: Shell) -> Result<hadal_router::Handle, Fault> {
    use hadal_router::StartError;
    hadal_router::start(config, shell).await.map_err(|error| {
        let exit = match &error {
            StartError::Listen(listen) => listen_exit(listen),
            _ => Exit::Config,
        };
        Fault::new(exit, error)
    })
}

/// Starts a coordinator, with its errors as faults.
pub(crate) async fn start_coordinator(
    config: hadal_coordinator::Config,
    shell: Shell,
) -> Result<hadal_coordinator::Handle, Fault> {
    use hadal_coordinator::StartError;
    hadal_coordinator::start(config, shell).await.map_err(|error| {
        let exit = match &error {
            StartError::Listen(listen) => listen_exit(listen),
            _ => Exit::Config,
        };
        Fault::new(exit, error)
    })
}

/// Starts a worker, with its errors as faults.
pub(crate) async fn start_worker(
    config: hadal_worker::Config,
    engine: Engine,
    shell: Shell,
) -> Result<hadal_worker::Handle, Fault> {
    use hadal_worker::StartError;
    hadal_worker::start(config, engine, shell).await.map_err(|error| {
        let exit = match &error {
            StartError::Listen(listen) => listen_exit(listen),
            StartError::Thread(_) | StartError::Random(_) => Exit::Os,
            _ => Exit::Config,
        };
        Fault::new(exit, error)
    })
}
