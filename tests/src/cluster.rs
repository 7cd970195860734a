//! A cluster of separate processes on loopback.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hadal_proto::cluster::coordinator_client::CoordinatorClient;
use hadal_proto::cluster::{FleetView, FleetWorker, WatchRequest};
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::client::Client;
use crate::process::Process;
use crate::{PATIENCE, http};

/// Name of the model that a worker without `--model` serves.
pub const BUNDLED: &str = "hadal-sample";

/// What to start.
#[derive(Clone)]
pub struct Plan {
    /// Prefill workers.
    pub prefill: usize,
    /// Decode workers.
    pub decode: usize,
    /// Flags of every worker (`--model`, `--kv`, `--engine sim`, ...).
    pub worker: Vec<String>,
    /// Flags of the coordinator.
    pub coordinator: Vec<String>,
    /// Flags of the router.
    pub router: Vec<String>,
    /// Flags of every part (TLS).
    pub all: Vec<String>,
}

/// The words of a command line.
pub fn flags(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

impl Plan {
    /// Two prefill and two decode workers that compute `model` exactly.
    pub fn exact(model: &Path) -> Self {
        let mut plan = Self::of(2, 2, "--dtype f32 --kv f32 --threads 1");
        plan.worker.extend(["--model".to_owned(), model.display().to_string()]);
        plan
    }

    /// Two prefill and two decode workers that take the time of steps on paper: no tokens to compare with others',
    /// but steps as long as a test needs them.
    pub fn sim(step: &str) -> Self {
        Self::sim_prefilling(step, "0s")
    }

    /// The same, with steps that take longer for each token of a prompt.
    pub fn sim_prefilling(step: &str, token: &str) -> Self {
        let line = "--engine sim --sim-decode-token 0s --chunk-tokens 64 --step-tokens 256 --requests-max 64";
        Self::of(2, 2, &format!("{line} --sim-step {step} --sim-prefill-token {token}"))
    }

    /// A coordinator's command line.
    pub fn coordinator_args(&self, address: &str) -> Vec<String> {
        let mut args = flags("coordinator --heartbeat 50ms --metrics 127.0.0.1:0 --grpc");
        args.push(address.to_owned());
        args.extend(self.coordinator.iter().chain(&self.all).cloned());
        args
    }

    /// A router's command line.
    pub fn router_args(&self, coordinator: &str) -> Vec<String> {
        let mut args = flags("router --http 127.0.0.1:0 --grpc 127.0.0.1:0 --coordinator");
        args.push(coordinator.to_owned());
        args.extend(self.router.iter().chain(&self.all).cloned());
        args
    }

    /// The command line of a worker whose role is in its name.
    pub fn worker_args(&self, coordinator: &str, id: &str) -> Vec<String> {
        let role = id.split('-').next().unwrap_or(id);
        let mut args = flags("worker --metrics 127.0.0.1:0 --coordinator");
        args.push(coordinator.to_owned());
        args.extend(["--role", role, "--id", id].map(str::to_owned));
        args.extend(self.worker.iter().chain(&self.all).cloned());
        args
    }

    /// So many workers with these flags.
    pub fn of(prefill: usize, decode: usize, worker: &str) -> Self {
        Self { prefill, decode, worker: flags(worker), coordinator: vec![], router: vec![], all: vec![] }
    }
}

/// A running cluster. Dropping it kills its processes.
pub struct Cluster {
    /// The coordinator.
    pub coordinator: Process,
    /// The workers, prefill first.
    pub workers: Vec<Process>,
    /// The router.
    pub router: Process,
    plan: Plan,
    logs: TempDir,
}

impl Cluster {
    /// Starts all parts and waits until the router takes requests and all workers are registered.
    ///
    /// # Errors
    /// With the log of the part that failed.
    pub async fn start(plan: Plan) -> Result<Self> {
        let logs = TempDir::new()?;
        let coordinator = Process::start(logs.path(), "coordinator", &plan.coordinator_args("127.0.0.1:0")).await?;
        let args = plan.router_args(&coordinator.address("grpc")?.to_string());
        let router = Process::start(logs.path(), "router", &args).await?;
        let mut cluster = Self { coordinator, workers: Vec::new(), router, plan, logs };
        let of = |role: &str, count: usize| (0..count).map(|i| format!("{role}-{i}")).collect::<Vec<_>>();
        for id in of("prefill", cluster.plan.prefill).into_iter().chain(of("decode", cluster.plan.decode)) {
            let worker = cluster.worker(&id).await?;
            cluster.workers.push(worker);
        }
        if cluster.plan.all.is_empty() {
            let count = cluster.workers.len();
            cluster.fleet_until("all workers are registered", |v| v.workers.len() == count).await?;
        }
        cluster.client().await?.until_serving().await?;
        Ok(cluster)
    }

    /// Starts one worker more, or one that was lost again; its role is in its name.
    ///
    /// # Errors
    /// With its log.
    pub async fn worker(&self, id: &str) -> Result<Process> {
        let args = self.plan.worker_args(&self.coordinator.address("grpc")?.to_string(), id);
        Process::start(self.logs.path(), id, &args).await
    }

    /// Puts a new coordinator in the place of one that has ended, under the same address.
    ///
    /// # Errors
    /// With its log.
    pub async fn restart_coordinator(&mut self) -> Result<()> {
        let address = self.coordinator.address("grpc")?.to_string();
        let args = self.plan.coordinator_args(&address);
        self.coordinator = Process::start(self.logs.path(), "coordinator-again", &args).await?;
        Ok(())
    }

    /// The worker of that name.
    pub fn named(&mut self, id: &str) -> Option<&mut Process> {
        self.workers.iter_mut().find(|w| w.ready["id"] == id)
    }

    /// A client of its router.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn client(&self) -> Result<Client> {
        Client::connect(self.router.address("grpc")?).await
    }

    /// Follows the coordinator's view of the fleet until `done`.
    ///
    /// # Errors
    /// With the last view when it takes too long.
    pub async fn fleet_until(&self, what: &str, done: impl Fn(&FleetView) -> bool) -> Result<FleetView> {
        fleet_until(&self.coordinator.address("grpc")?.to_string(), what, done).await
    }

    /// The worker of a role that has most requests, when one has any.
    ///
    /// # Errors
    /// When none has one in time.
    pub async fn busiest(&self, role: &str) -> Result<String> {
        let of_role =
            |view: &FleetView| view.workers.iter().filter(|w| w.role == role).max_by_key(|w| w.requests).cloned();
        let busy = |view: &FleetView| of_role(view).is_some_and(|w| w.requests > 0);
        let view = self.fleet_until(&format!("a {role} worker has a request"), busy).await?;
        Ok(of_role(&view).context("there was one")?.id)
    }

    /// Waits until no worker has a request and every page is free or cached.
    ///
    /// # Errors
    /// With the last ledgers when pages stay taken.
    pub async fn pages_back(&self) -> Result<FleetView> {
        // The coordinator's view may be from before the requests; what the workers show is not.
        for worker in self.workers.iter().filter(|w| w.runs()) {
            let pages = &[r#"state="used""#];
            http::until_metric(worker.address("metrics")?, "hadal_worker_pages", pages, |used| used == 0.0).await?;
        }
        self.fleet_until("every page is back", |view| !view.workers.is_empty() && view.workers.iter().all(idle)).await
    }

    /// Where the processes write their logs.
    pub fn logs(&self) -> PathBuf {
        self.logs.path().to_owned()
    }
}

/// Whether a worker has no request and every page of it is free or cached.
pub fn idle(worker: &FleetWorker) -> bool {
    let parts = worker.ledger.as_ref().map(|l| l.parts.as_slice()).unwrap_or_default();
    worker.requests == 0 && parts.iter().all(|p| p.pages_free + p.pages_cached == p.pages_total)
}

/// Follows a coordinator's view of the fleet until `done`.
///
/// # Errors
/// With the last view when it takes too long.
pub async fn fleet_until(coordinator: &str, what: &str, done: impl Fn(&FleetView) -> bool) -> Result<FleetView> {
    let channel = Channel::from_shared(format!("http://{coordinator}"))?.connect().await?;
    fleet_until_over(channel, what, done).await
}

/// The same over a connection of the test's own.
///
/// # Errors
/// With the last view when it takes too long.
pub async fn fleet_until_over(channel: Channel, what: &str, done: impl Fn(&FleetView) -> bool) -> Result<FleetView> {
    let mut client = CoordinatorClient::new(channel);
    let mut views = client.watch(WatchRequest {}).await?.into_inner();
    let mut last = None;
    let follow = async {
        while let Some(view) = views.message().await? {
            if done(&view) {
                return anyhow::Ok(view);
            }
            last = Some(view);
        }
        anyhow::bail!("the coordinator ended its view")
    };
    let followed = timeout(PATIENCE, follow).await;
    followed.with_context(|| format!("waited in vain until {what}; the fleet: {last:#?}"))?
}
