//! Connections to workers, one for each life of a worker, opened when first used.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hadal_proto::cluster::worker_client::WorkerClient;
use hadal_shell::tls::Tls;
use tonic::transport::Channel;

/// What names a connection: a worker that comes back under the same address is another one.
type Key = (String, u64);

/// The connections. A cheap handle.
#[derive(Clone)]
pub(crate) struct Workers {
    tls: Option<Tls>,
    channels: Arc<Mutex<HashMap<Key, Channel>>>,
}

/// Connections kept, the fleet's growth aside. An evicted one is opened again when needed.
const KEPT: usize = 4096;

/// An event of a worker is small: a delta with its log-probabilities.
const EVENT_BYTES_MAX: usize = 4 << 20;

impl Workers {
    pub(crate) fn new(tls: Option<Tls>) -> Self {
        Self { tls, channels: Arc::default() }
    }

    /// A client of the worker at this address in this life.
    pub(crate) fn client(
        &self,
        address: &str,
        incarnation: u64,
    ) -> Result<WorkerClient<Channel>, hadal_shell::grpc::ChannelError> {
        let key = (address.to_owned(), incarnation);
        let known = self.lock().get(&key).cloned();
        let channel = match known {
            Some(channel) => channel,
            None => self.open(key)?,
        };
        Ok(WorkerClient::new(channel).max_decoding_message_size(EVENT_BYTES_MAX))
    }

    fn open(&self, key: Key) -> Result<Channel, hadal_shell::grpc::ChannelError> {
        let channel = hadal_shell::grpc::channel(&key.0, self.tls.as_ref())?;
        let mut channels = self.lock();
        // Whoever has the address now is in another life; its former connection is of no use.
        channels.retain(|(address, _), _| *address != key.0);
        if channels.len() >= KEPT {
            channels.clear();
        }
        channels.insert(key, channel.clone());
        Ok(channel)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Channel>> {
        // The map is whole after every statement, so that a poisoned lock hides nothing.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
