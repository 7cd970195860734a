//! The served models' texts: files fetched by hash from any worker that has them, checked, kept, and made into
//! tokenizers off the async threads.
//!
//! One task, the librarian, follows the fleet view and fills a shelf that requests read. A model whose files cannot be
//! had or read stays off the shelf with the reason beside it, and is tried again after a while, or when its workers
//! change: the view changes with every heartbeat, and a tokenizer takes a second to build.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hadal_router_core::{Backoff, Failure, FailureKind, ModelText};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

use crate::config::{Aliases, Limits};
use crate::fleet::{FileRef, Fleet, Link, ModelView, View};
use crate::metrics::Metrics;
use crate::models::fetch::{FetchError, Fetcher};
use crate::service::{ModelInfo, ServedModel};
use crate::workers::Workers;

mod fetch;

/// Waits before a model that could not be loaded is tried again.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(10);

/// A model whose text is at hand.
#[derive(Clone)]
struct Loaded {
    files: Vec<FileRef>,
    text: Arc<ModelText>,
    vocab_size: u32,
    created: u64,
}

/// What is at hand, and why the rest is not; by the fleet's names.
#[derive(Clone, Default)]
struct Shelf {
    loaded: BTreeMap<String, Loaded>,
    problems: BTreeMap<String, String>,
}

/// The models as requests see them. A cheap handle.
#[derive(Clone)]
pub(crate) struct Models {
    fleet: Fleet,
    shelf: watch::Receiver<Arc<Shelf>>,
    aliases: Arc<Aliases>,
    waiting: Arc<Semaphore>,
    wait: Duration,
    metrics: Metrics,
}

/// Fills the shelf.
pub(crate) struct Librarian {
    fleet: Fleet,
    fetcher: Fetcher,
    kept: HashMap<[u8; 32], Vec<u8>>,
    failed: HashMap<String, Failed>,
    shelf: watch::Sender<Arc<Shelf>>,
}

/// A model that could not be loaded: as it was, and when it is tried again if it stays so.
struct Failed {
    model: ModelView,
    again: Instant,
    backoff: Backoff,
}

/// Why a model has no text.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Text(#[from] hadal_router_core::ModelTextError),
    #[error("config.json: {0}")]
    Config(String),
    #[error("the tokenizer could not be built: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Models {
    /// The handle, and what has to be run to fill the shelf. `waiting` bounds the requests that wait.
    pub(crate) fn new(
        fleet: Fleet,
        workers: Workers,
        aliases: Aliases,
        limits: &Limits,
        (waiting, metrics): (Arc<Semaphore>, Metrics),
    ) -> (Self, Librarian) {
        let (sender, shelf) = watch::channel(Arc::default());
        let fetcher = Fetcher { workers, patience: limits.worker };
        let (kept, failed) = (HashMap::new(), HashMap::new());
        let librarian = Librarian { fleet: fleet.clone(), fetcher, kept, failed, shelf: sender };
        let aliases = Arc::new(aliases);
        (Self { fleet, shelf, aliases, waiting, wait: limits.wait, metrics }, librarian)
    }

    /// All models that can be asked for now, under the names that clients use.
    pub(crate) fn list(&self) -> Vec<ModelInfo> {
        let (view, shelf) = (self.fleet.view(), self.shelf.borrow().clone());
        let alone = view.models.len() == 1;
        let infos = view.models.values().filter(|model| model.tokens_max > 0).filter_map(|model| {
            let loaded = shelf.loaded.get(&model.name)?;
            let names = self.aliases.names(&model.name, alone);
            Some(names.into_iter().map(move |name| info(name, model, loaded.created)).collect::<Vec<_>>())
        });
        infos.flatten().collect()
    }

    /// Why no model can be asked for; none when one can.
    pub(crate) fn obstacle(&self) -> Option<String> {
        if !self.list().is_empty() {
            return None;
        }
        let view = self.fleet.view();
        let problems = self.shelf.borrow().problems.values().next().cloned();
        Some(match problems {
            _ if view.models.is_empty() => match self.fleet.link() {
                Link::Down(reason) => no_coordinator(&reason),
                Link::Up => "no worker is registered yet".into(),
            },
            Some(problem) => problem,
            None if view.models.values().all(|model| model.tokens_max == 0) => {
                "no decode worker is registered yet".into()
            }
            None => "the tokenizer is being fetched from a worker".into(),
        })
    }

    /// The model that a client names. Waits for it, within bounds, where it may yet come.
    pub(crate) async fn get(
        &self,
        name: &str,
        deadline: Option<std::time::Instant>,
    ) -> Result<Arc<ServedModel>, Failure> {
        if let Some(found) = self.find(name)? {
            return Ok(found);
        }
        let Ok(_permit) = self.waiting.try_acquire() else {
            let message = "too many requests wait for a worker already; try again later";
            return Err(Failure::new(FailureKind::Overloaded, message).with_retry_after(Duration::from_secs(5)));
        };
        let _counted = self.metrics.waiting();
        let patience = Instant::now() + self.wait;
        let deadline = deadline.map(Instant::from_std).filter(|&deadline| deadline < patience);
        let waited = timeout_at(deadline.unwrap_or(patience), self.await_model(name)).await;
        waited.unwrap_or_else(|_| {
            let kind = if deadline.is_some() { FailureKind::Deadline } else { FailureKind::Unavailable };
            let why = self.obstacle().unwrap_or_else(|| "it is not served".into());
            Err(Failure::new(kind, format!("model {name:?} cannot be used yet: {why}")))
        })
    }

    async fn await_model(&self, name: &str) -> Result<Arc<ServedModel>, Failure> {
        let (mut fleet, mut shelf) = (self.fleet.clone(), self.shelf.clone());
        loop {
            fleet.seen();
            shelf.mark_unchanged();
            if let Some(found) = self.find(name)? {
                return Ok(found);
            }
            let changed = tokio::select! {
                changed = fleet.changed() => changed,
                changed = shelf.changed() => changed.is_ok(),
            };
            if !changed {
                return Err(Failure::new(FailureKind::Unavailable, "this router is stopping; ask another one"));
            }
        }
    }

    /// The model now; none when it is worth waiting for.
    fn find(&self, name: &str) -> Result<Option<Arc<ServedModel>>, Failure> {
        let view = self.fleet.view();
        let Some(fleet_name) = self.aliases.resolve(name, view.models.keys().map(String::as_str)) else {
            return if view.models.is_empty() { Ok(None) } else { Err(self.unknown(name, &view)) };
        };
        let shelf = self.shelf.borrow().clone();
        let Some(model) = view.models.get(fleet_name) else { return Ok(None) };
        let loaded = shelf.loaded.get(fleet_name).filter(|loaded| loaded.files == model.files);
        if let (None, Some(problem)) = (loaded, shelf.problems.get(fleet_name)) {
            let message = format!("model {name:?} cannot be served: {problem}");
            return Err(Failure::new(FailureKind::Unavailable, message).with_retry_after(Duration::from_secs(5)));
        }
        let served = loaded.filter(|_| model.tokens_max > 0).map(|loaded| ServedModel {
            info: info(name.to_owned(), model, loaded.created),
            fleet_name: fleet_name.to_owned(),
            text: loaded.text.clone(),
            vocab_size: loaded.vocab_size,
        });
        Ok(served.map(Arc::new))
    }

    fn unknown(&self, name: &str, view: &View) -> Failure {
        let alone = view.models.len() == 1;
        let names: Vec<String> = view.models.keys().flat_map(|model| self.aliases.names(model, alone)).collect();
        let message = format!("there is no model {name:?} here; served are: {}", names.join(", "));
        Failure::new(FailureKind::UnknownModel, message).with_param("model")
    }
}

fn info(name: String, model: &ModelView, created: u64) -> ModelInfo {
    ModelInfo {
        name,
        architecture: model.architecture.clone(),
        fingerprint: model.fingerprint,
        context_tokens: model.context_tokens,
        workers: model.workers.len() as u32,
        created,
    }
}

impl Librarian {
    /// Follows the fleet for as long as it is watched.
    pub(crate) async fn run(mut self) {
        loop {
            self.fleet.seen();
            let view = self.fleet.view();
            self.fill(&view).await;
            let again = self.failed.values().map(|failed| failed.again).min();
            let pause = async {
                match again {
                    Some(again) => sleep_until(again).await,
                    None => std::future::pending().await,
                }
            };
            let goes_on = tokio::select! {
                changed = self.fleet.changed() => changed,
                () = pause => true,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Loads what is missing.
    async fn fill(&mut self, view: &View) {
        for model in view.models.values() {
            let known = self.shelf.borrow().loaded.get(&model.name).is_some_and(|loaded| loaded.files == model.files);
            let failed = self.failed.get(&model.name);
            if known {
                self.failed.remove(&model.name);
            } else if failed.is_none_or(|failed| failed.model != *model || failed.again <= Instant::now()) {
                let result = self.load(model).await;
                self.note(model, result.is_ok());
                self.put(model, result);
            }
        }
        let named = |file: &[u8; 32]| view.models.values().any(|model| model.files.iter().any(|f| f.blake3 == *file));
        self.kept.retain(|hash, _| named(hash));
        self.failed.retain(|name, _| view.models.contains_key(name));
        self.shelf.send_modify(|shelf| {
            let shelf = Arc::make_mut(shelf);
            shelf.problems.retain(|name, _| view.models.contains_key(name));
            shelf.loaded.retain(|name, _| view.models.contains_key(name));
        });
    }

    fn note(&mut self, model: &ModelView, loaded: bool) {
        let former = self.failed.remove(&model.name);
        if loaded {
            return;
        }
        let mut backoff = former.map_or_else(|| Backoff::new(RETRY_FIRST, RETRY_MOST), |failed| failed.backoff);
        let again = Instant::now() + backoff.wait();
        self.failed.insert(model.name.clone(), Failed { model: model.clone(), again, backoff });
    }

    fn put(&self, model: &ModelView, result: Result<Loaded, LoadError>) {
        self.shelf.send_modify(|shelf| {
            let shelf = Arc::make_mut(shelf);
            match result {
                Ok(loaded) => {
                    info!(model = %model.name, fingerprint = %model.fingerprint, "model ready");
                    shelf.problems.remove(&model.name);
                    shelf.loaded.insert(model.name.clone(), loaded);
                }
                Err(error) => {
                    let problem = error.to_string();
                    if shelf.problems.get(&model.name) != Some(&problem) {
                        warn!(model = %model.name, %problem, "model not ready; trying again");
                    }
                    shelf.problems.insert(model.name.clone(), problem);
                }
            }
        });
    }

    async fn load(&mut self, model: &ModelView) -> Result<Loaded, LoadError> {
        let mut files = BTreeMap::new();
        for file in model.files.iter().filter(|file| ModelText::FILES.contains(&file.name.as_str())) {
            let bytes = match self.kept.get(&file.blake3) {
                Some(bytes) => bytes.clone(),
                None => self.fetcher.fetch(model, file).await?,
            };
            self.kept.insert(file.blake3, bytes.clone());
            files.insert(file.name.clone(), bytes);
        }
        let vocab_size = vocab_size(files.get("config.json")).map_err(LoadError::Config)?;
        // A tokenizer of a hundred thousand tokens takes a second to build.
        let text = tokio::task::spawn_blocking(move || ModelText::from_files(&files)).await??;
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        Ok(Loaded { files: model.files.clone(), text: Arc::new(text), vocab_size, created })
    }
}

/// What clients and operators are told while the coordinator is away.
pub(crate) fn no_coordinator(reason: &str) -> String {
    format!("the coordinator cannot be reached: {reason}")
}

fn vocab_size(config: Option<&Vec<u8>>) -> Result<u32, String> {
    let config = config.ok_or("no worker has it")?;
    let config: serde_json::Value = serde_json::from_slice(config).map_err(|error| error.to_string())?;
    let size = config.get("vocab_size").and_then(serde_json::Value::as_u64).and_then(|size| u32::try_from(size).ok());
    size.filter(|&size| size > 0).ok_or_else(|| "vocab_size is missing or is no number of tokens".into())
}

#[cfg(test)]
mod tests {
    use hadal_shell::Shell;
    use hadal_types::Fingerprint;

    use super::*;
    use crate::config::Config;

    fn librarian() -> Librarian {
        let (shell, config) = (Shell::local(), Config::default());
        let leader =
            hadal_shell::leader::Leader::find(&config.coordinator, None, &hadal_shell::tasks::Tasks::new()).unwrap();
        let metrics = Metrics::new(&shell.metrics).unwrap();
        let (fleet, _) = Fleet::new(leader, metrics.clone());
        let shared = (Arc::new(Semaphore::new(1)), metrics);
        Models::new(fleet, Workers::new(None), Aliases::default(), &config.limits().unwrap(), shared).1
    }

    /// A model that cannot be loaded, since no worker has files of it.
    fn view(context_tokens: u32) -> View {
        let model = ModelView {
            name: "m".into(),
            architecture: String::new(),
            fingerprint: Fingerprint([1; 16]),
            context_tokens,
            tokens_max: 1,
            classes: Vec::new(),
            files: Vec::new(),
            workers: Vec::new(),
        };
        View { models: BTreeMap::from([("m".into(), model)]) }
    }

    #[tokio::test]
    async fn what_cannot_be_loaded_is_not_tried_again_with_every_view() {
        let mut librarian = librarian();
        librarian.fill(&view(1)).await;
        let again = librarian.failed["m"].again;
        for _ in 0..3 {
            librarian.fill(&view(1)).await;
            assert_eq!(librarian.failed["m"].again, again);
        }
        librarian.fill(&view(2)).await;
        assert!(librarian.failed["m"].again > again, "a model that has changed is tried at once");
        librarian.fill(&View::default()).await;
        assert!(librarian.failed.is_empty());
    }
}
