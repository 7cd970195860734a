//! etcd, version 3.4 or later: `PREFIX/leader` under a lease, over the part of its API in `etcd/rpc.proto`.
//!
//! Every call goes to the member that answered last, and on to the next when that one is away, has no leader or takes
//! too long. A call that changes the store may then have been made twice; all of them bear that.

pub(crate) mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hadal_coordinator_core::{Leader, Seen, StoreLease};
use hadal_shell::grpc::{self, ChannelError, explain};
use hadal_shell::tls::Tls;
use hadal_types::Term;
use serde_json::Value;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::{Campaign, ClusterStore, StoreError, Watch};
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;

/// The messages.
#[allow(missing_docs, unreachable_pub, clippy::all)] // generated from etcd/rpc.proto, where they are described
pub(crate) mod pb {
    tonic::include_proto!("etcdserverpb");
}

/// How long one member may take to answer. A round of etcd's own takes some milliseconds.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(1);

struct Shared {
    members: Vec<Channel>,
    /// The member that is asked first.
    first: AtomicUsize,
    key: String,
}

/// The store; a cheap handle.
#[derive(Clone)]
pub(crate) struct Etcd(Arc<Shared>);

impl Etcd {
    /// A client of these members; connects when first used.
    pub(crate) fn new(members: &[String], prefix: &str, tls: Option<&Tls>) -> Result<Self, ChannelError> {
        let members = members.iter().map(|member| grpc::channel(member, tls)).collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Shared { members, first: AtomicUsize::new(0), key: format!("{prefix}/leader") })))
    }

    /// Asks one member after another.
    pub(crate) async fn ask<T, F>(&self, call: impl Fn(Channel) -> F + Send + Sync) -> Result<T, StoreError>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
        T: Send,
    {
        let Shared { members, first, .. } = &*self.0;
        let mut reason = String::new();
        for _ in 0..members.len() {
            let member = first.load(Ordering::Relaxed);
            match tokio::time::timeout(MEMBER_TIMEOUT, call(members[member].clone())).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => match status.code() {
                    Code::NotFound => return Err(StoreError::LeaseGone),
                    Code::InvalidArgument
                    | Code::PermissionDenied
                    | Code::Unauthenticated
                    | Code::FailedPrecondition
                    | Code::Unimplemented => return Err(StoreError::Refused(explain(&status))),
                    _ => reason = explain(&status),
                },
                Err(_) => reason = format!("no answer within {} ms", MEMBER_TIMEOUT.as_millis()),
            }
            // Another task may have moved on already; then the next turn asks that one.
            let next = (member + 1) % members.len();
            let _ = first.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
        }
        Err(StoreError::Unavailable(reason))
    }

    pub(crate) async fn transact(&self, transaction: pb::TxnRequest) -> Result<pb::TxnResponse, StoreError> {
        self.ask(|member| {
            let transaction = transaction.clone();
            async move { KvClient::new(member).txn(transaction).await }
        })
        .await
    }

    /// If the key was created at `revision` (0 for no key) `then`, and else tells what it is.
    fn if_created_at(&self, revision: u64, then: pb::request_op::Request) -> pb::TxnRequest {
        let compare = pb::Compare {
            result: pb::compare::CompareResult::Equal.into(),
            target: pb::compare::CompareTarget::Create.into(),
            key: self.key(),
            target_union: Some(pb::compare::TargetUnion::CreateRevision(revision.cast_signed())),
        };
        let range = pb::request_op::Request::RequestRange(pb::RangeRequest { key: self.key() });
        pb::TxnRequest {
            compare: vec![compare],
            success: vec![pb::RequestOp { request: Some(then) }],
            failure: vec![pb::RequestOp { request: Some(range) }],
        }
    }

    async fn range(&self) -> Result<Seen, StoreError> {
        let range = self.ask(|member| {
            let request = pb::RangeRequest { key: self.key() };
            async move { KvClient::new(member).range(request).await }
        });
        let range = range.await?;
        self.seen(range.header, range.kvs.first())
    }

    fn key(&self) -> Vec<u8> {
        self.0.key.clone().into_bytes()
    }

    /// What the key is, at the revision of the answer that tells of it.
    fn seen(&self, header: Option<pb::ResponseHeader>, kv: Option<&pb::KeyValue>) -> Result<Seen, StoreError> {
        let leader = kv.map(|kv| self.leader(kv)).transpose()?;
        Ok(Seen { revision: revision(header)?, leader })
    }

    fn leader(&self, kv: &pb::KeyValue) -> Result<Leader, StoreError> {
        let foreign = |problem: String| StoreError::Foreign { key: self.0.key.clone(), problem };
        let value: Value = serde_json::from_slice(&kv.value).map_err(|error| foreign(error.to_string()))?;
        let address =
            value["hadal"]["coordinator"].as_str().ok_or_else(|| foreign("it names no coordinator".into()))?;
        if kv.lease == 0 {
            return Err(foreign("it has no lease, so that it would stay for ever".into()));
        }
        Ok(Leader {
            address: address.to_owned(),
            term: Term(kv.create_revision.cast_unsigned()),
            lease: StoreLease(kv.lease),
        })
    }
}

fn revision(header: Option<pb::ResponseHeader>) -> Result<u64, StoreError> {
    let header = header.ok_or_else(|| StoreError::Refused("an answer without a header; is this etcd?".into()))?;
    Ok(header.revision.cast_unsigned())
}

/// The value of the leader's key.
fn value(address: &str) -> Vec<u8> {
    serde_json::json!({"hadal": {"coordinator": address}}).to_string().into_bytes()
}

/// What the alternative of a transaction found.
fn found(answer: &pb::TxnResponse) -> Option<&pb::KeyValue> {
    answer.responses.iter().find_map(|op| match &op.response {
        Some(pb::response_op::Response::ResponseRange(range)) => range.kvs.first(),
        _ => None,
    })
}

#[tonic::async_trait]
impl ClusterStore for Etcd {
    async fn grant(&self, ttl: Duration) -> Result<(StoreLease, Duration), StoreError> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let granted = self.ask(|member| async move {
            LeaseClient::new(member).lease_grant(pb::LeaseGrantRequest { ttl: seconds, id: 0 }).await
        });
        let granted = granted.await?;
        if !granted.error.is_empty() {
            return Err(StoreError::Refused(granted.error));
        }
        Ok((StoreLease(granted.id), Duration::from_secs(granted.ttl.cast_unsigned())))
    }

    async fn renew(&self, lease: StoreLease) -> Result<Duration, StoreError> {
        let renewed = self.ask(|member| async move {
            let request = tokio_stream::once(pb::LeaseKeepAliveRequest { id: lease.0 });
            let mut answers = LeaseClient::new(member).lease_keep_alive(request).await?.into_inner();
            let answer = answers.message().await?;
            answer.map(Response::new).ok_or_else(|| Status::unavailable("the stream ended without an answer"))
        });
        match renewed.await?.ttl {
            ttl if ttl > 0 => Ok(Duration::from_secs(ttl.cast_unsigned())),
            _ => Err(StoreError::LeaseGone),
        }
    }

    async fn revoke(&self, lease: StoreLease) -> Result<(), StoreError> {
        let revoked = self.ask(|member| async move {
            LeaseClient::new(member).lease_revoke(pb::LeaseRevokeRequest { id: lease.0 }).await
        });
        match revoked.await {
            Ok(_) | Err(StoreError::LeaseGone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn campaign(&self, lease: StoreLease, address: &str) -> Result<Campaign, StoreError> {
        let put = pb::PutRequest { key: self.key(), value: value(address), lease: lease.0 };
        let put = pb::request_op::Request::RequestPut(put);
        let answer = self.transact(self.if_created_at(0, put)).await?;
        if answer.succeeded {
            return Ok(Campaign::Won(Term(revision(answer.header)?)));
        }
        let seen = self.seen(answer.header, found(&answer))?;
        match &seen.leader {
            Some(leader) if leader.lease == lease => Ok(Campaign::Won(leader.term)),
            _ => Ok(Campaign::Held(seen)),
        }
    }

    async fn unseat(&self, term: Term) -> Result<Seen, StoreError> {
        let delete = pb::request_op::Request::RequestDeleteRange(pb::DeleteRangeRequest { key: self.key() });
        let answer = self.transact(self.if_created_at(term.0, delete)).await?;
        self.seen(answer.header, found(&answer))
    }

    async fn watch(&self) -> Result<Box<dyn Watch>, StoreError> {
        Ok(Box::new(watch::Changes::open(self.clone()).await?))
    }
}
