//! The watch of the leader's key: what it is, then its changes from the next revision on. When etcd has forgotten that
//! revision (compaction), what the key is now is all there is to know, and the watch goes on from there.

use hadal_coordinator_core::Seen;
use hadal_shell::grpc::explain;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Streaming};

use super::pb::event::EventType;
use super::pb::watch_client::WatchClient;
use super::pb::watch_request::RequestUnion;
use super::{Etcd, pb};
use crate::store::{StoreError, Watch};

pub(crate) struct Changes {
    store: Etcd,
    /// Told before any change.
    now: Option<Seen>,
    changes: Streaming<pb::WatchResponse>,
    /// The stream of requests ends the watch when it is dropped.
    _requests: mpsc::Sender<pb::WatchRequest>,
}

impl Changes {
    pub(crate) async fn open(store: Etcd) -> Result<Self, StoreError> {
        let now = store.range().await?;
        Self::after(store, now).await
    }

    /// The changes after what was seen.
    pub(crate) async fn after(store: Etcd, now: Seen) -> Result<Self, StoreError> {
        let create = pb::WatchCreateRequest { key: store.key(), start_revision: now.revision.cast_signed() + 1 };
        let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let (requests, changes) = store
            .ask(|member| {
                let create = create.clone();
                async move {
                    let (requests, stream) = mpsc::channel(1);
                    // The channel is empty, so that there is room.
                    let _ = requests.send(create).await;
                    let mut request = Request::new(ReceiverStream::new(stream));
                    // A member that has lost the others ends the watch, where it would else be silent.
                    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
                    let changes = WatchClient::new(member).watch(request).await?;
                    Ok(changes.map(|changes| (requests, changes)))
                }
            })
            .await?;
        Ok(Self { store, now: Some(now), changes, _requests: requests })
    }
}

#[tonic::async_trait]
impl Watch for Changes {
    async fn next(&mut self) -> Result<Seen, StoreError> {
        if let Some(now) = self.now.take() {
            return Ok(now);
        }
        loop {
            let message = self.changes.message().await.map_err(|s| StoreError::Unavailable(explain(&s)))?;
            let message = message.ok_or_else(|| StoreError::Unavailable("it ended the watch".into()))?;
            if message.canceled && message.compact_revision > 0 {
                *self = Self::open(self.store.clone()).await?;
                return self.now.take().ok_or_else(|| StoreError::Unavailable("it says nothing".into()));
            }
            if message.canceled {
                return Err(StoreError::Unavailable(format!("it ended the watch: {}", message.cancel_reason)));
            }
            let Some(pb::Event { r#type, kv: Some(kv) }) = message.events.last() else { continue };
            let kept = (*r#type == i32::from(EventType::Put)).then_some(kv);
            // The header tells the store's newest revision, at which this may not be true any more.
            let revision = kv.mod_revision.cast_unsigned();
            return Ok(Seen { revision, leader: kept.map(|kv| self.store.leader(kv)).transpose()? });
        }
    }
}
