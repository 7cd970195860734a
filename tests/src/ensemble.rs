//! A cluster with several coordinators that agree through a real etcd, and clients that ask it all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hadal_proto::cluster::coordinator_client::CoordinatorClient;
use hadal_proto::cluster::{DrainWorkerRequest, LeaderRequest, LeaderView};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::PATIENCE;
use crate::client::{Client, greedy, request, tokens};
use crate::cluster::{BUNDLED, Plan, fleet_until};
use crate::etcd::Etcd;
use crate::history::History;
use crate::process::Process;

/// The running parts. Dropping it kills them.
pub struct Ensemble {
    /// Where they agree.
    pub etcd: Etcd,
    /// By number.
    pub coordinators: Vec<Process>,
    /// Prefill first.
    pub workers: Vec<Process>,
    /// The router.
    pub router: Process,
    plan: Plan,
    logs: TempDir,
}

/// A leader as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub member: usize,
    /// Its term.
    pub term: u64,
}

impl Ensemble {
    /// Starts so many members of etcd and coordinators, and the rest of `plan`.
    ///
    /// # Errors
    /// With the log of the part that failed.
    pub async fn start(plan: Plan, members: usize, coordinators: usize) -> Result<Self> {
        let (logs, etcd) = (TempDir::new()?, Etcd::start(members).await?);
        let mut started = Vec::new();
        for i in 0..coordinators {
            let args = coordinator_args(&plan, "127.0.0.1:0", &etcd);
            started.push(Process::start(logs.path(), &format!("coordinator-{i}"), &args).await?);
        }
        let list = started.iter().map(|c| Ok(c.address("grpc")?.to_string())).collect::<Result<Vec<_>>>()?.join(",");
        let router = Process::start(logs.path(), "router", &plan.router_args(&list)).await?;
        let mut workers = Vec::new();
        for (role, count) in [("prefill", plan.prefill), ("decode", plan.decode)] {
            for i in 0..count {
                let id = format!("{role}-{i}");
                workers.push(Process::start(logs.path(), &id, &plan.worker_args(&list, &id)).await?);
            }
        }
        let ensemble = Self { etcd, coordinators: started, workers, router, plan, logs };
        ensemble.complete(0).await?;
        ensemble.client().await?.until_serving().await?;
        Ok(ensemble)
    }

    /// Waits until somebody leads a term after `after` and has all workers.
    ///
    /// # Errors
    /// When it takes too long.
    pub async fn complete(&self, after: u64) -> Result<Found> {
        let found = self.leader(after).await?;
        let count = self.workers.iter().filter(|worker| worker.runs()).count();
        let all = format!("all workers are with coordinator {}", found.member);
        fleet_until(&self.address(found.member)?, &all, |view| view.workers.len() == count).await?;
        Ok(found)
    }

    /// Waits until somebody leads a term after `after`, by its own word.
    ///
    /// # Errors
    /// When nobody does in time.
    pub async fn leader(&self, after: u64) -> Result<Found> {
        let mut asked = JoinSet::new();
        for (member, coordinator) in self.coordinators.iter().enumerate().filter(|(_, c)| c.runs()) {
            let address = coordinator.address("grpc")?.to_string();
            asked.spawn(
                async move { leads(&address, |view| view.leads && view.term > after).await.map(|v| (member, v)) },
            );
        }
        let first = async {
            while let Some(view) = asked.join_next().await {
                // Those that end meanwhile are not waited for.
                if let Ok(Ok((member, view))) = view {
                    return Ok(Found { member, term: view.term });
                }
            }
            bail!("no coordinator answers")
        };
        timeout(PATIENCE, first).await.with_context(|| format!("nobody leads after term {after}: {}", self.told()))?
    }

    /// Waits until a coordinator says that another one leads.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn follows(&self, member: usize) -> Result<LeaderView> {
        let follows = |view: &LeaderView| !view.leads && !view.address.is_empty();
        timeout(PATIENCE, leads(&self.address(member)?, follows)).await.context("it does not follow")?
    }

    /// Asks a coordinator to drain a worker; the term under which it commanded it.
    ///
    /// # Errors
    /// Its status.
    pub async fn drain(&self, member: usize, worker: &str) -> Result<u64, tonic::Status> {
        let address = self.address(member).map_err(|error| tonic::Status::internal(error.to_string()))?;
        drain(address, worker.to_owned()).await
    }

    /// Where a coordinator listens.
    ///
    /// # Errors
    /// When it did not tell.
    pub fn address(&self, member: usize) -> Result<String> {
        Ok(self.coordinators[member].address("grpc")?.to_string())
    }

    /// Puts a new process in the place of a coordinator that has ended.
    ///
    /// # Errors
    /// With its log.
    pub async fn restart(&mut self, member: usize, name: &str) -> Result<()> {
        let args = coordinator_args(&self.plan, &self.address(member)?, &self.etcd);
        self.coordinators[member] = Process::start(self.logs.path(), name, &args).await?;
        Ok(())
    }

    /// A client of the router.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn client(&self) -> Result<Client> {
        Client::connect(self.router.address("grpc")?).await
    }

    /// Adds what all processes that run have logged to a history, and checks it.
    ///
    /// # Errors
    /// With the violations.
    pub fn check(&self, mut history: History) -> Result<History> {
        for (i, coordinator) in self.coordinators.iter().enumerate() {
            history.coordinator(&format!("coordinator-{i}"), coordinator);
        }
        for worker in &self.workers {
            history.worker(worker.ready["id"].as_str().unwrap_or_default(), worker);
        }
        let violations = history.violations();
        ensure!(violations.is_empty(), "{violations:#?}\n{history:#?}");
        Ok(history)
    }

    fn told(&self) -> String {
        self.coordinators.iter().map(Process::log).collect::<Vec<_>>().join("\n---\n")
    }
}

/// Asks a coordinator to drain a worker.
///
/// # Errors
/// Its status.
pub async fn drain(coordinator: String, worker: String) -> Result<u64, tonic::Status> {
    let mut client = CoordinatorClient::new(connect(&coordinator).await?);
    let answer = client.drain_worker(DrainWorkerRequest { worker_id: worker }).await?;
    Ok(answer.into_inner().term)
}

async fn connect(address: &str) -> Result<Channel, tonic::Status> {
    let endpoint = Channel::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|error| tonic::Status::internal(error.to_string()))?;
    endpoint.connect().await.map_err(|error| tonic::Status::unavailable(error.to_string()))
}

async fn leads(address: &str, wanted: impl Fn(&LeaderView) -> bool) -> Result<LeaderView> {
    let mut client = CoordinatorClient::new(connect(address).await?);
    let mut views = client.leader(LeaderRequest {}).await?.into_inner();
    while let Some(view) = views.message().await? {
        if wanted(&view) {
            return Ok(view);
        }
    }
    bail!("{address} ended its view")
}

fn coordinator_args(plan: &Plan, address: &str, etcd: &Etcd) -> Vec<String> {
    let mut args = plan.coordinator_args(address);
    args.extend(["--store".to_owned(), etcd.store()]);
    args
}

/// Clients that ask one request after another.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: watch::Receiver<usize>,
    clients: JoinSet<Result<Duration>>,
    started: Arc<AtomicUsize>,
}

impl Load {
    /// Starts so many clients.
    ///
    /// # Errors
    /// When the router cannot be reached.
    pub async fn start(ensemble: &Ensemble, clients: u32) -> Result<Self> {
        let (stop, started) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (told, done) = watch::channel(0);
        let told = Arc::new(told);
        let mut all = JoinSet::new();
        for number in 0..clients {
            let (stop, told, started) = (stop.clone(), told.clone(), started.clone());
            let mut client = ensemble.client().await?;
            all.spawn(async move {
                let mut longest = Duration::ZERO;
                while !stop.load(Ordering::Relaxed) {
                    let seed = started.fetch_add(1, Ordering::Relaxed) as u32;
                    let prompt = tokens(seed % 50, 30 + seed % 150);
                    let began = Instant::now();
                    let answer = client.generate(request(BUNDLED, &prompt, greedy(20))).await;
                    let answer = answer.with_context(|| format!("request {seed} of client {number}"))?;
                    ensure!(answer.tokens().len() == 20, "request {seed} has {} tokens", answer.tokens().len());
                    longest = longest.max(began.elapsed());
                    told.send_modify(|done| *done += 1);
                }
                Ok(longest)
            });
        }
        Ok(Self { stop, done, clients: all, started })
    }

    /// Waits until so many requests more have been answered.
    ///
    /// # Errors
    /// When a client has failed, or it takes too long.
    pub async fn answered(&mut self, more: usize) -> Result<()> {
        let until = *self.done.borrow() + more;
        let waited = timeout(PATIENCE, async {
            tokio::select! {
                reached = self.done.wait_for(|done| *done >= until) => reached.map(drop).context("all clients have failed"),
                Some(ended) = self.clients.join_next() => bail!("a request failed: {:?}", ended?),
            }
        });
        waited.await.context("requests are not answered any more")?
    }

    /// Ends the clients: how many requests were answered, and the longest.
    ///
    /// # Errors
    /// With the first request that failed.
    pub async fn end(mut self) -> Result<(usize, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut longest = Duration::ZERO;
        let ended = async {
            while let Some(client) = self.clients.join_next().await {
                longest = longest.max(client??);
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, ended).await.context("a request takes too long")??;
        Ok((self.started.load(Ordering::Relaxed), longest))
    }
}
