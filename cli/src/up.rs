//! `hadal up`: a whole cluster in one process. Its parts are started by the same functions as separate processes and
//! talk over loopback; only the workers' weights and threads are shared.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hadal_router::Readiness;
use hadal_shell::Shell;
use hadal_shell::exit::Exit;
use hadal_shell::metrics::Metrics;
use hadal_shell::net::Exposure;
use hadal_shell::tasks::Tasks;
use hadal_shell::units;
use hadal_types::Role;
use serde_json::{Value, json};

use crate::engine::{self, ModelOptions};
use crate::fault::{Fault, OrExit};
use crate::parts;
use crate::progress::Progress;
use crate::run::{RunOptions, Running};

pub(crate) const HELP: &str = "\
Examples:
  hadal up                                     the bundled sample model, small and trained
  hadal up ~/models/DeepSeek-V3.2-Exp          a checkpoint in Hugging Face layout
  hadal up --dtype f32 --kv f32                exact arithmetic
  hadal up --http 127.0.0.1:0 --grpc 127.0.0.1:0 --json    any free ports, told as JSON

It prints where it listens and commands to paste when it is ready. Ctrl-C ends it.";

/// How long registered parts may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_INTERVAL: Duration = Duration::from_millis(10);

/// Memory for the cache of each worker.
const KV_MEMORY: u64 = 256 << 20;
/// The same with the bundled model: a whole context of it and more, and little enough for any laptop.
const KV_MEMORY_BUNDLED: u64 = 32 << 20;

/// `hadal up`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Checkpoint folder in Hugging Face layout; the bundled sample model when left out
    #[arg(value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Prefill workers; with none, decode workers compute prompts, too
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=64))]
    prefill: u32,
    /// Decode workers
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    decode: u32,
    /// Where OpenAI's HTTP API is served, and /health, /ready and /metrics beside it
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8000")]
    http: String,
    /// Where gRPC hadal.v1 is served
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8001")]
    grpc: String,
    /// Another name for the model, in place of its folder's name; may be repeated
    #[arg(long, value_name = "NAME", value_parser = name)]
    served_model_name: Vec<String>,
    /// Memory for the cache of each worker; 256MiB when left out, or 32MiB with the bundled model
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    kv_memory: Option<u64>,
    #[command(flatten)]
    compute: ModelOptions,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

impl Options {
    /// Roles and names of the workers.
    fn workers(&self) -> Vec<(Role, String)> {
        let of = |role: Role, count: u32| (0..count).map(move |i| (role, format!("{role}-{i}")));
        of(Role::Prefill, self.prefill).chain(of(Role::Decode, self.decode)).collect()
    }

    fn worker(&self, role: Role, id: &str, coordinator: SocketAddr) -> hadal_worker::Config {
        hadal_worker::Config {
            role,
            id: Some(id.to_owned()),
            coordinator: coordinator.to_string(),
            kv_memory: self.kv_memory.unwrap_or(if self.model.is_some() { KV_MEMORY } else { KV_MEMORY_BUNDLED }),
            ..hadal_worker::Config::default()
        }
    }
}

/// Loopback only: nothing but this process speaks to the parts.
fn shell(metrics: Metrics) -> Shell {
    Shell { tasks: Tasks::new(), exposure: Exposure::default(), metrics }
}

/// Starts the cluster and waits until it takes requests.
pub(crate) async fn run(options: Options) -> Result<Running, Fault> {
    let workers = options.workers();
    let metrics: Vec<_> = workers.iter().map(|(_, id)| Metrics::new(&[("worker", id)])).collect();
    let coordinator_shell = shell(Metrics::new(&[]));
    let all = metrics.iter().cloned().chain([coordinator_shell.metrics.clone()]);
    let router_shell = shell(Metrics::new(&[]).beside(all));
    let mut tasks = vec![router_shell.tasks.clone()];

    let coordinator_tasks = coordinator_shell.tasks.clone();
    let config = hadal_coordinator::Config { grpc: "127.0.0.1:0".into(), ..hadal_coordinator::Config::default() };
    let coordinator = parts::start_coordinator(config, coordinator_shell).await?.grpc_address;
    // Before the checkpoint, so that a port in use shows at once.
    let config = hadal_router::Config {
        coordinator: coordinator.to_string(),
        http: options.http.clone(),
        grpc: options.grpc.clone(),
        served_model_name: options.served_model_name.clone(),
        ..hadal_router::Config::default()
    };
    let router = parts::start_router(config, router_shell).await?;

    let loading = options.clone();
    let load = move || engine::engine(loading.model.as_deref(), None, &loading.compute);
    let engine = tokio::task::spawn_blocking(load).await.or_exit(Exit::Software)??;
    let mut told = Vec::new();
    for ((role, id), metrics) in workers.iter().zip(metrics) {
        let shell = shell(metrics);
        tasks.push(shell.tasks.clone());
        let config = options.worker(*role, id, coordinator);
        told.push(parts::worker_json(*role, &parts::start_worker(config, engine.clone(), shell).await?));
    }
    tasks.push(coordinator_tasks);
    ready(&router).await?;

    let model = options.served_model_name.first().unwrap_or(&engine.info().model_name).clone();
    let kind = format!("{}, {} and {}", engine.info().architecture, options.compute.dtype, options.compute.kv);
    let running = Listening { model, kind, http: router.http_address, grpc: router.grpc_address };
    Ok(Running { tasks, text: running.text(&options), json: running.json(coordinator, told) })
}

/// A name, which a router would take apart at `=`: there is one model here.
fn name(name: &str) -> Result<String, String> {
    match name.contains('=') {
        true => Err("write the new name alone; there is one model here".to_owned()),
        false => Ok(name.to_owned()),
    }
}

async fn ready(router: &hadal_router::Handle) -> Result<(), Fault> {
    let (begun, progress) = (Instant::now(), Progress::new());
    loop {
        let waiting = match router.readiness() {
            Readiness::Ready => return Ok(()),
            Readiness::Waiting(why) => why,
            Readiness::Draining => "draining".to_owned(),
        };
        if begun.elapsed() > READY_TIMEOUT {
            return Err(Fault::say(Exit::Software, format!("the cluster did not become ready: {waiting}")));
        }
        progress.show(|| format!("starting: {waiting}"));
        tokio::time::sleep(READY_INTERVAL).await;
    }
}

/// How another terminal calls this program. Called without a folder it was found in PATH, and will be again; a path may
/// depend on the working folder, so it is told in full.
fn program(called: &Path, full: Option<PathBuf>) -> String {
    if called.components().count() < 2 {
        return called.display().to_string();
    }
    let path = full.unwrap_or_else(|| called.to_path_buf()).display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+".contains(c);
    if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

struct Listening {
    model: String,
    kind: String,
    http: SocketAddr,
    grpc: SocketAddr,
}

/// An address that a client on this machine can dial.
fn dial(address: SocketAddr) -> SocketAddr {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    address
}

impl Listening {
    fn text(&self, options: &Options) -> String {
        let (model, kind) = (&self.model, &self.kind);
        let (http, grpc) = (dial(self.http), dial(self.grpc));
        let (prefill, decode) = (options.prefill, options.decode);
        let called = std::env::args_os().next().map_or_else(|| "hadal".into(), PathBuf::from);
        let program = program(&called, std::env::current_exe().ok());
        format!(
            "\
hadal serves {model} ({kind}) on {prefill} prefill and {decode} decode workers.

  HTTP  http://{http}  OpenAI's API; /metrics, /health and /ready beside it
  gRPC  {grpc}         hadal.v1, with reflection

Try it from another terminal:

  curl http://{http}/v1/completions -H 'Content-Type: application/json' \\
    -d '{{\"model\": \"{model}\", \"prompt\": \"Once upon a time\", \"max_tokens\": 32}}'

  grpcurl -plaintext -d '{{\"model\": \"{model}\", \"text\": \"Once upon a time\", \"sampling\": {{\"max_tokens\": 32}}}}' \\
    {grpc} hadal.v1.Hadal/Generate

  {program} chat --grpc {grpc}

Ctrl-C ends it."
        )
    }

    fn json(&self, coordinator: SocketAddr, workers: Vec<Value>) -> Value {
        json!({
            "part": "up",
            "model": self.model,
            "http": self.http.to_string(),
            "grpc": self.grpc.to_string(),
            "coordinator": coordinator.to_string(),
            "workers": workers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_terminal_can_paste_the_program() {
        let full = |path: &str| Some(PathBuf::from(path));
        assert_eq!(program(Path::new("hadal"), full("/usr/bin/hadal")), "hadal");
        assert_eq!(
            program(Path::new("target/release/hadal"), full("/src/target/release/hadal")),
            "/src/target/release/hadal"
        );
        assert_eq!(program(Path::new("./hadal"), None), "./hadal");
        assert_eq!(program(Path::new("./hadal"), full("/my files/it's")), r"'/my files/it'\''s'");
    }
}
