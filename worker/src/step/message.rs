//! How everybody else speaks to the step thread: messages over a bounded queue, and cancellations, which never wait.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use hadal_proto::cluster as w;
use hadal_transfer::Block;
use hadal_types::Incarnation;
use hadal_worker_core::{CacheSnapshot, Event, Generate, Prefill, RequestKey};
use tokio::sync::{mpsc, oneshot, watch};

use crate::output::Outlet;

/// What the step thread is told.
pub(crate) enum Message {
    /// A request to own.
    Generate(Box<NewGenerate>),
    /// A prompt to compute for another worker.
    Prefill(Box<NewPrefill>),
    /// An event that needs nothing but the core.
    Event(Event),
    /// The leg of a request failed.
    LegFailed {
        /// The owner's request.
        request: RequestKey,
        /// The attempt.
        leg: u32,
        /// Whether the same worker could be asked again.
        retryable: bool,
        /// The kind, for metrics.
        reason: &'static str,
    },
    /// A page to write.
    Page(Page),
    /// All cached blocks are wanted.
    Snapshot(oneshot::Sender<CacheSnapshot>),
    /// Nothing new from now on.
    Drain,
}

/// A request to own.
pub(crate) struct NewGenerate {
    pub(crate) request: Generate,
    pub(crate) prefill: Option<w::WorkerRef>,
    pub(crate) context: w::RequestContext,
    pub(crate) outlet: Outlet<w::GenerateEvent>,
}

/// A prompt to compute for another worker.
pub(crate) struct NewPrefill {
    pub(crate) request: Prefill,
    pub(crate) receiver: Incarnation,
    pub(crate) outlet: Outlet<w::PrefillEvent>,
}

/// A page that arrived.
pub(crate) struct Page {
    pub(crate) request: RequestKey,
    pub(crate) leg: u32,
    pub(crate) block: Block,
    /// Bytes that left the queue, of this leg.
    pub(crate) taken: Arc<watch::Sender<u64>>,
}

/// A handle to the step thread. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Steps {
    inbox: mpsc::Sender<Message>,
    shared: Arc<Wake>,
}

struct Wake {
    thread: OnceLock<Thread>,
    /// At most one entry for each request that lives.
    cancelled: Mutex<Vec<RequestKey>>,
    epoch: Instant,
}

/// The step thread has ended.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the worker is ending")]
pub(crate) struct Ended;

impl Steps {
    /// A handle, and the queue that the step thread reads.
    pub(crate) fn new(capacity: usize) -> (Self, mpsc::Receiver<Message>) {
        let (inbox, messages) = mpsc::channel(capacity);
        let wake = Wake { thread: OnceLock::new(), cancelled: Mutex::default(), epoch: Instant::now() };
        (Self { inbox, shared: Arc::new(wake) }, messages)
    }

    /// A handle without a thread.
    #[cfg(test)]
    pub(crate) fn detached() -> (Self, mpsc::Receiver<Message>) {
        Self::new(16)
    }

    /// To be called on the step thread, before it first waits.
    pub(crate) fn attach_thread(&self) {
        // It is set once: there is one step thread.
        let _ = self.shared.thread.set(std::thread::current());
    }

    /// Wakes the step thread if it waits.
    pub(crate) fn wake(&self) {
        if let Some(thread) = self.shared.thread.get() {
            thread.unpark();
        }
    }

    /// Sends a message as soon as the queue has room.
    pub(crate) async fn send(&self, message: Message) -> Result<(), Ended> {
        self.inbox.send(message).await.map_err(|_| Ended)?;
        self.wake();
        Ok(())
    }

    /// Cancels a request that lives.
    pub(crate) fn cancel(&self, key: RequestKey) {
        self.shared.cancelled.lock().unwrap_or_else(PoisonError::into_inner).push(key);
        self.wake();
    }

    /// The requests to cancel.
    pub(crate) fn take_cancelled(&self) -> Vec<RequestKey> {
        std::mem::take(&mut *self.shared.cancelled.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The core's clock.
    pub(crate) fn now(&self) -> Duration {
        self.shared.epoch.elapsed()
    }

    /// An instant of the core's clock, so many milliseconds ahead; none for 0.
    pub(crate) fn deadline(&self, ms: u64) -> Option<Duration> {
        (ms > 0).then(|| self.now().saturating_add(Duration::from_millis(ms)))
    }
}
