//! The store of a coordinator without standbys. It obeys the same contract as etcd's; its state ends with the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hadal_coordinator_core::{Leader, Seen, StoreLease};
use hadal_types::Term;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Campaign, ClusterStore, StoreError, Watch};

#[derive(Debug, Default)]
struct State {
    revision: u64,
    leases_given: i64,
    leader: Option<Leader>,
    leases: BTreeMap<StoreLease, (Instant, Duration)>,
}

impl State {
    /// Ends the leases that are over, and the key with its own.
    fn sweep(&mut self) {
        let now = Instant::now();
        self.leases.retain(|_, (until, _)| *until > now);
        if self.leader.as_ref().is_some_and(|leader| !self.leases.contains_key(&leader.lease)) {
            self.remove();
        }
    }

    fn remove(&mut self) {
        self.revision += 1;
        self.leader = None;
    }

    fn seen(&self) -> Seen {
        Seen { revision: self.revision, leader: self.leader.clone() }
    }
}

/// What watchers are told.
#[derive(Clone, Debug)]
struct Told {
    seen: Seen,
    /// When the next lease ends.
    look_at: Option<Instant>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    told: watch::Sender<Told>,
}

/// The store; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Memory(Arc<Shared>);

impl Memory {
    pub(crate) fn new() -> Self {
        let seen = Seen { revision: 0, leader: None };
        let told = watch::channel(Told { seen, look_at: None }).0;
        Self(Arc::new(Shared { state: Mutex::default(), told }))
    }

    /// One step of the store, after what time has ended.
    fn step<T>(&self, step: impl FnOnce(&mut State) -> T) -> T {
        // Watchers are told when the key has changed; a renewed lease is no news, but moves when they look again.
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.sweep();
        let result = step(&mut state);
        self.0
            .told
            .send_replace(Told { seen: state.seen(), look_at: state.leases.values().map(|(until, _)| *until).min() });
        result
    }
}

#[tonic::async_trait]
impl ClusterStore for Memory {
    async fn grant(&self, ttl: Duration) -> Result<(StoreLease, Duration), StoreError> {
        Ok(self.step(|state| {
            state.leases_given += 1;
            let lease = StoreLease(state.leases_given);
            state.leases.insert(lease, (Instant::now() + ttl, ttl));
            (lease, ttl)
        }))
    }

    async fn renew(&self, lease: StoreLease) -> Result<Duration, StoreError> {
        self.step(|state| {
            let (until, ttl) = state.leases.get_mut(&lease).ok_or(StoreError::LeaseGone)?;
            *until = Instant::now() + *ttl;
            Ok(*ttl)
        })
    }

    async fn revoke(&self, lease: StoreLease) -> Result<(), StoreError> {
        self.step(|state| {
            state.leases.remove(&lease);
            state.sweep();
        });
        Ok(())
    }

    async fn campaign(&self, lease: StoreLease, address: &str) -> Result<Campaign, StoreError> {
        self.step(|state| {
            if !state.leases.contains_key(&lease) {
                return Err(StoreError::LeaseGone);
            }
            match &state.leader {
                Some(leader) if leader.lease == lease => Ok(Campaign::Won(leader.term)),
                Some(_) => Ok(Campaign::Held(state.seen())),
                None => {
                    state.revision += 1;
                    let term = Term(state.revision);
                    state.leader = Some(Leader { address: address.to_owned(), term, lease });
                    Ok(Campaign::Won(term))
                }
            }
        })
    }

    async fn unseat(&self, term: Term) -> Result<Seen, StoreError> {
        Ok(self.step(|state| {
            if state.leader.as_ref().is_some_and(|leader| leader.term == term) {
                state.remove();
            }
            state.seen()
        }))
    }

    async fn watch(&self) -> Result<Box<dyn Watch>, StoreError> {
        Ok(Box::new(Changes { store: self.clone(), told: self.0.told.subscribe(), last: None }))
    }
}

struct Changes {
    store: Memory,
    told: watch::Receiver<Told>,
    last: Option<Seen>,
}

#[tonic::async_trait]
impl Watch for Changes {
    async fn next(&mut self) -> Result<Seen, StoreError> {
        loop {
            let Told { seen, look_at } = self.told.borrow_and_update().clone();
            if self.last.as_ref() != Some(&seen) {
                self.last = Some(seen.clone());
                return Ok(seen);
            }
            let ended = async {
                match look_at {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.told.changed() => {
                    changed.map_err(|_| StoreError::Unavailable("it has ended".into()))?;
                }
                () = ended => self.store.step(|_| ()),
            }
        }
    }
}
