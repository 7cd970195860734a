//! The fleet as the coordinator last described it.
//!
//! One task holds the watch of the coordinator that leads open and opens it again for ever, with backoff; the last view
//! stays in force while there is none. Workers come to a new leader one by one, and until they had time for it, those that
//! the leader before knew are in the view, too. A description that cannot be understood is left out and logged: one bad worker hides nothing
//! but itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hadal_proto::{cluster as w, id16};
use hadal_router_core::Backoff;
use hadal_shell::grpc::explain;
use hadal_shell::leader::{Leader, Target};
use hadal_types::{Fingerprint, Ledger, NumericsClass, Role};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Streaming;
use tracing::{debug, info, warn};

use crate::metrics::Metrics;
use rebuild::Rebuild;

mod rebuild;

/// A file of a model, by its hash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileRef {
    pub(crate) name: String,
    pub(crate) blake3: [u8; 32],
    pub(crate) bytes: u64,
}

/// A worker of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkerView {
    pub(crate) id: String,
    pub(crate) incarnation: u64,
    pub(crate) address: String,
    pub(crate) class: NumericsClass,
    /// Whether it has the model's files as listed.
    pub(crate) has_files: bool,
}

/// A model that some worker serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelView {
    pub(crate) name: String,
    pub(crate) architecture: String,
    pub(crate) fingerprint: Fingerprint,
    /// The smallest of its workers'.
    pub(crate) context_tokens: u32,
    /// Tokens of the longest sequence that some decode worker could hold; 0 while there is none.
    pub(crate) tokens_max: u64,
    /// The classes of its workers, each once.
    pub(crate) classes: Vec<NumericsClass>,
    /// Of the worker with most files, sorted by name.
    pub(crate) files: Vec<FileRef>,
    pub(crate) workers: Vec<WorkerView>,
}

/// The fleet at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) models: BTreeMap<String, ModelView>,
}

/// Whether the coordinator is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// It is.
    Up,
    /// It is not, and why.
    Down(String),
}

/// A cheap handle to the last view.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    view: watch::Receiver<Arc<View>>,
    link: watch::Receiver<Link>,
}

/// What the watching task writes.
pub(crate) struct Watcher {
    leader: Leader,
    view: watch::Sender<Arc<View>>,
    link: watch::Sender<Link>,
    metrics: Metrics,
}

/// A watch that says nothing at first is opened again after this; a live coordinator sends the view at once.
const FIRST_VIEW: Duration = Duration::from_secs(5);
/// How often a lasting absence is logged.
const REMIND: Duration = Duration::from_secs(30);

impl Fleet {
    /// The handle, and what has to be run to keep it true.
    pub(crate) fn new(leader: Leader, metrics: Metrics) -> (Self, Watcher) {
        let (view, view_receiver) = watch::channel(Arc::default());
        let (link, link_receiver) = watch::channel(Link::Down("no answer yet".into()));
        let watcher = Watcher { leader, view, link, metrics };
        (Self { view: view_receiver, link: link_receiver }, watcher)
    }

    /// The last view.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Whether the coordinator is there.
    pub(crate) fn link(&self) -> Link {
        self.link.borrow().clone()
    }

    /// Whatever is in the view now is no change any more.
    pub(crate) fn seen(&mut self) {
        self.view.mark_unchanged();
    }

    /// Resolves when the view may have changed; false when it never will again.
    pub(crate) async fn changed(&mut self) -> bool {
        self.view.changed().await.is_ok()
    }
}

impl Watcher {
    /// Watches for ever.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
        let mut said: Option<Instant> = None;
        let mut rebuild = Rebuild::default();
        loop {
            let (target, mut leader) = (self.leader.target(), self.leader.clone());
            let reason = tokio::select! {
                () = leader.other_than(&target) => {
                    backoff.reset();
                    continue;
                }
                reason = self.watch_once(&target, &mut rebuild, (&mut backoff, &mut said)) => reason,
            };
            if said.is_none_or(|at| at.elapsed() >= REMIND) {
                warn!(coordinator = %self.leader.listed(), %reason, "waiting for the coordinator; trying again");
                said = Some(Instant::now());
            }
            self.link.send_replace(Link::Down(reason));
            self.metrics.coordinator(false);
            tokio::select! {
                () = sleep(backoff.wait()) => {}
                () = leader.other_than(&target) => backoff.reset(),
            }
        }
    }

    /// One watch, to its end. Returns why it ended.
    async fn watch_once(
        &self,
        target: &Target,
        rebuild: &mut Rebuild,
        (backoff, said): (&mut Backoff, &mut Option<Instant>),
    ) -> String {
        let mut client = w::coordinator_client::CoordinatorClient::new(target.channel.clone())
            .max_decoding_message_size(VIEW_BYTES_MAX);
        let opened = timeout(FIRST_VIEW, async {
            let mut views = client.watch(w::WatchRequest {}).await?.into_inner();
            let first = views.message().await?;
            Ok::<_, tonic::Status>((views, first))
        });
        let (mut views, mut next) = match opened.await {
            Ok(Ok((views, first))) => (views, first),
            Ok(Err(status)) => return explain(&status),
            Err(_) => return format!("no answer within {} s", FIRST_VIEW.as_secs()),
        };
        while let Some(view) = next {
            backoff.reset();
            if self.link.send_replace(Link::Up) != Link::Up {
                info!(coordinator = %target.address, term = view.term, "coordinator found");
                self.metrics.coordinator(true);
                *said = None;
            }
            let (whole, until) = rebuild.complete(view, Instant::now());
            self.view.send_replace(Arc::new(View::read(&whole)));
            next = match heard(&mut views, until).await {
                Ok(Some(next)) => next,
                // Those that have not come by now are gone, though the leader has nothing new to say.
                Ok(None) => rebuild.latest(),
                Err(status) => return explain(&status),
            };
        }
        "it ended the watch".into()
    }
}

/// The next view, or none when `until` has come before.
async fn heard(
    views: &mut Streaming<w::FleetView>,
    until: Option<Instant>,
) -> Result<Option<Option<w::FleetView>>, tonic::Status> {
    match until {
        None => views.message().await.map(Some),
        Some(until) => tokio::select! {
            next = views.message() => next.map(Some),
            () = sleep_until(until) => Ok(None),
        },
    }
}

/// A view of thousands of workers fits; a stray server's answer does not fill the memory.
const VIEW_BYTES_MAX: usize = 64 << 20;

impl View {
    /// The view in a message. Of several checkpoints under one name the one with most workers is taken; workers of
    /// another would refuse its requests.
    pub(crate) fn read(view: &w::FleetView) -> Self {
        let mut by_model: BTreeMap<&str, BTreeMap<Fingerprint, Vec<&w::FleetWorker>>> = BTreeMap::new();
        for worker in &view.workers {
            match id16("fingerprint", &worker.fingerprint) {
                Ok(id) if !worker.model_name.is_empty() => {
                    let models = by_model.entry(&worker.model_name).or_default();
                    models.entry(Fingerprint(id)).or_default().push(worker);
                }
                Ok(_) => debug!(worker = %worker.id, "worker without a model's name left out"),
                Err(error) => warn!(worker = %worker.id, %error, "worker left out of the view"),
            }
        }
        let model = |(name, checkpoints): (&str, BTreeMap<Fingerprint, Vec<&w::FleetWorker>>)| {
            let (fingerprint, workers) = checkpoints.into_iter().max_by_key(|(_, workers)| workers.len())?;
            Some((name.to_owned(), ModelView::read(name, fingerprint, &workers)?))
        };
        Self { models: by_model.into_iter().filter_map(model).collect() }
    }
}

impl ModelView {
    fn read(name: &str, fingerprint: Fingerprint, workers: &[&w::FleetWorker]) -> Option<Self> {
        let first = workers.iter().rev().max_by_key(|worker| worker.files.len())?;
        let listed = files(first);
        let view = |worker: &&w::FleetWorker| {
            Some(WorkerView {
                id: worker.id.clone(),
                incarnation: worker.incarnation,
                address: worker.grpc_address.clone(),
                class: NumericsClass(id16("numerics class", &worker.numerics_class).ok()?),
                has_files: files(worker) == listed,
            })
        };
        let views: Vec<WorkerView> = workers.iter().filter_map(view).collect();
        let mut classes: Vec<NumericsClass> = views.iter().map(|worker| worker.class).collect();
        classes.sort_unstable();
        classes.dedup();
        Some(Self {
            name: name.to_owned(),
            architecture: first.architecture.clone(),
            fingerprint,
            context_tokens: workers.iter().map(|worker| worker.context_tokens).min()?,
            tokens_max: workers.iter().filter_map(|worker| tokens_max(worker)).max().unwrap_or(0),
            classes,
            files: listed,
            workers: views,
        })
    }

    /// The class of a worker in one of its lives, if it is in the view.
    pub(crate) fn class_of(&self, id: &str, incarnation: u64) -> Option<NumericsClass> {
        self.workers.iter().find(|w| w.id == id && w.incarnation == incarnation).map(|w| w.class)
    }
}

/// What a worker could hold of one request, if it may own requests.
fn tokens_max(worker: &w::FleetWorker) -> Option<u64> {
    let role: Role = worker.role.parse().ok()?;
    let ledger = Ledger::try_from(worker.ledger.as_ref()?).ok()?;
    role.decodes().then(|| ledger.tokens_max())
}

fn files(worker: &w::FleetWorker) -> Vec<FileRef> {
    let read = |file: &w::ModelFile| {
        let blake3 = file.blake3.as_slice().try_into().ok()?;
        Some(FileRef { name: file.name.clone(), blake3, bytes: file.bytes })
    };
    let mut files: Vec<FileRef> = worker.files.iter().filter_map(read).collect();
    files.sort_unstable();
    files
}

#[cfg(test)]
mod tests;
