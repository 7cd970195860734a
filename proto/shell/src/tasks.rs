//! The tasks of a part: spawned under a name, asked to drain, joined with a deadline.
//!
//! ```text
//! running ──drain()──► draining ──all work ended, or the deadline──► stopped
//! ```
//! *Work* ends by itself some time after `drain_token()` is cancelled, and `join` waits for it. A *service* (metrics,
//! heartbeats) goes on while work drains and is dropped at the end. At the deadline work is dropped too, and named.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Instrument;

/// How long dropped tasks and threads may take to be gone.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Tasks that did not end within the deadline and were dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("still running when the time to drain was over: {}", counted(.names))]
pub struct Unfinished {
    /// Their names.
    pub names: Vec<&'static str>,
}

/// Equal names once, with their count.
fn counted(names: &[&str]) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    let told = counts.into_iter().map(|(name, n)| if n == 1 { name.to_owned() } else { format!("{name} ({n})") });
    told.collect::<Vec<_>>().join(", ")
}

/// A part's tasks. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Tasks(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    drain: CancellationToken,
    stop: CancellationToken,
    work: TaskTracker,
    services: TaskTracker,
    running: Mutex<BTreeMap<u64, &'static str>>,
    next: AtomicU64,
    failure: OnceLock<String>,
}

/// Removes a name when its task ends, however it ends.
struct Running {
    inner: Arc<Inner>,
    key: u64,
    _token: TaskTrackerToken,
}

impl Running {
    fn new(inner: &Arc<Inner>, tracker: &TaskTracker, name: &'static str) -> Self {
        let key = inner.next.fetch_add(1, Ordering::Relaxed);
        inner.running.lock().unwrap_or_else(PoisonError::into_inner).insert(key, name);
        Self { inner: Arc::clone(inner), key, _token: tracker.token() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns work: it must end soon after [`Tasks::drain_token`] is cancelled. Must run inside a tokio runtime.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.launch(name, &self.0.work, work);
    }

    /// Spawns what serves while work drains (metrics, heartbeats): dropped when all work has ended.
    pub fn spawn_service(&self, name: &'static str, service: impl Future<Output = ()> + Send + 'static) {
        self.launch(name, &self.0.services, service);
    }

    fn launch(&self, name: &'static str, tracker: &TaskTracker, task: impl Future<Output = ()> + Send + 'static) {
        let running = Running::new(&self.0, tracker, name);
        let stop = self.0.stop.clone();
        let span = tracing::debug_span!("task", name);
        let watched = async move {
            let _running = running;
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                ended = AssertUnwindSafe(task).catch_unwind() => if ended.is_err() {
                    tracing::error!(task = name, "a task panicked: please report it with the lines above");
                },
            }
        };
        tokio::spawn(watched.instrument(span));
    }

    /// Runs `body` on its own thread, as work: it must end soon after [`Tasks::drain_token`] is cancelled, and at once
    /// after [`Tasks::stop_token`] is, since a thread cannot be dropped. A part cannot go on without its threads: a panic
    /// of one is a failure of the part.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn spawn_thread(&self, name: &'static str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let running = Running::new(&self.0, &self.0.work, name);
        let tasks = self.clone();
        let thread = move || {
            let _running = running;
            if std::panic::catch_unwind(AssertUnwindSafe(body)).is_err() {
                tasks.fail(format!("thread {name} panicked: please report it with the lines above"));
            }
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(thread).map(drop)
    }

    /// The part cannot go on (a listener failed, say): drains it, and makes its process end with an error.
    pub fn fail(&self, why: impl Into<String>) {
        let why = why.into();
        tracing::error!(%why, "this part cannot go on");
        // The first failure is the cause; later ones tend to be consequences.
        let _ = self.0.failure.set(why);
        self.drain();
    }

    /// Why the part could not go on, if so.
    pub fn failure(&self) -> Option<&str> {
        self.0.failure.get().map(String::as_str)
    }

    /// Asks all work to end: nothing new, what runs may finish.
    pub fn drain(&self) {
        self.0.drain.cancel();
    }

    /// Cancelled when draining begins.
    pub fn drain_token(&self) -> CancellationToken {
        self.0.drain.clone()
    }

    /// Cancelled when everything must end now.
    pub fn stop_token(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// Ends everything now, also what would not be dropped until a deadline.
    pub fn stop(&self) {
        self.0.drain.cancel();
        self.0.stop.cancel();
    }

    /// Drains, waits for all work until the deadline, then drops what is left, and the services.
    ///
    /// # Errors
    /// Names the work that had not ended.
    pub async fn join(&self, deadline: Duration) -> Result<(), Unfinished> {
        self.drain();
        self.0.work.close();
        self.0.services.close();
        let ended = tokio::time::timeout(deadline, self.0.work.wait()).await.is_ok();
        let names = if ended { Vec::new() } else { self.running() };
        self.stop();
        let gone = async {
            self.0.work.wait().await;
            self.0.services.wait().await;
        };
        if tokio::time::timeout(STOP_TIMEOUT, gone).await.is_err() {
            tracing::error!(tasks = ?self.running(), "tasks did not stop when told to");
        }
        if ended { Ok(()) } else { Err(Unfinished { names }) }
    }

    fn running(&self) -> Vec<&'static str> {
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.values().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn join_waits_for_work_that_drains_and_drops_services() {
        let tasks = Tasks::new();
        let drain = tasks.drain_token();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        tasks.spawn("work", async move {
            drain.cancelled().await;
            let _ = sender.send(7);
        });
        tasks.spawn_service("service", std::future::pending());
        assert_eq!(tasks.join(LONG).await, Ok(()));
        assert_eq!(receiver.await, Ok(7));
    }

    #[tokio::test]
    async fn work_that_does_not_end_is_named_and_dropped() {
        let tasks = Tasks::new();
        tasks.spawn("stuck", std::future::pending());
        let unfinished = tasks.join(Duration::ZERO).await.unwrap_err();
        assert_eq!(unfinished.names, ["stuck"]);
        let unfinished = Unfinished { names: vec!["stuck", "steps", "stuck"] };
        assert!(unfinished.to_string().ends_with(": steps, stuck (2)"), "{unfinished}");
        assert!(tasks.running().is_empty());
    }

    #[tokio::test]
    async fn a_panicking_task_does_not_hold_up_the_end() {
        let tasks = Tasks::new();
        tasks.spawn("wrong", async { panic!("on purpose") });
        assert_eq!(tasks.join(LONG).await, Ok(()));
    }

    #[tokio::test]
    async fn a_failure_drains_and_the_first_one_is_kept() {
        let tasks = Tasks::new();
        tasks.spawn_thread("steps", || panic!("on purpose")).unwrap();
        tasks.drain_token().cancelled().await;
        tasks.fail("later");
        assert!(tasks.failure().unwrap().starts_with("thread steps panicked"));
    }

    #[tokio::test]
    async fn a_thread_is_joined() {
        let tasks = Tasks::new();
        let (sender, receiver) = std::sync::mpsc::sync_channel::<()>(1);
        let stop = tasks.drain_token();
        tasks
            .spawn_thread("steps", move || {
                let _ = receiver.recv();
                assert!(stop.is_cancelled());
            })
            .unwrap();
        tasks.drain();
        drop(sender);
        assert_eq!(tasks.join(LONG).await, Ok(()));
    }
}
