//! Decode side: one attempt to have a prompt prefilled by another worker. Opens the Prefill call, then the KV
//! connection, and hands pages to the step thread, which grants room as it writes them.
//!
//! ```text
//! Prefill ──► Accepted{address, incarnation} ──► connect, Hello ──► pages … End ──► Ack ──► Finished
//! ```
//! Dropping the future drops the call and the connection, which frees the pages over there.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hadal_proto::cluster as w;
use hadal_proto::cluster::worker_client::WorkerClient;
use hadal_shell::grpc::{ChannelError, MESSAGE_BYTES_MAX, channel, explain};
use hadal_shell::tls::Tls;
use hadal_transfer::{ErrorKind, Fetch, Incoming, Received, TransferError};
use hadal_types::{Incarnation, LeaseId, blocks_for};
use hadal_worker_core::{Event, RequestKey};
use tokio::sync::watch;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::metrics::Direction;
use crate::step::{Context, Ended, Message, Page};

/// Channels kept; a fleet has fewer workers than this.
const CHANNELS_MAX: usize = 4096;

/// Connections to other workers, made when first used and kept.
pub(crate) struct Peers {
    tls: Option<Tls>,
    channels: Mutex<HashMap<String, Channel>>,
}

impl Peers {
    pub(crate) fn new(tls: Option<Tls>) -> Self {
        Self { tls, channels: Mutex::default() }
    }

    fn client(&self, address: &str) -> Result<WorkerClient<Channel>, ChannelError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(address) {
            Some(channel) => channel.clone(),
            None => {
                if channels.len() >= CHANNELS_MAX {
                    channels.clear();
                }
                let new = channel(address, self.tls.as_ref())?;
                channels.insert(address.to_owned(), new.clone());
                new
            }
        };
        let client = WorkerClient::new(channel);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }
}

/// What is to be prefilled, and where.
pub(crate) struct Plan {
    pub(crate) request: RequestKey,
    pub(crate) leg: u32,
    pub(crate) worker: w::WorkerRef,
    pub(crate) context: w::RequestContext,
    pub(crate) tokens: Vec<u32>,
    pub(crate) blocks_held: u32,
    pub(crate) lease: Duration,
    /// Cancelled when nobody wants it any more.
    pub(crate) ends: CancellationToken,
}

/// Why a leg failed.
#[derive(Debug, thiserror::Error)]
enum LegError {
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the prefill worker cannot be reached: {}", explain(.0))]
    Call(#[from] tonic::Status),
    #[error("the prefill worker refuses: {}", .0.message)]
    Refused(w::Error),
    #[error("the prefill worker {0}")]
    Protocol(&'static str),
    #[error("the prefill worker takes longer than {0:?} (--peer-timeout) to accept")]
    Slow(Duration),
    #[error(transparent)]
    Random(#[from] hadal_shell::id::NoRandom),
    #[error(transparent)]
    Ended(#[from] Ended),
}

impl LegError {
    fn name(&self) -> &'static str {
        match self {
            LegError::Transfer(error) => error.kind().name(),
            LegError::Channel(_) | LegError::Call(_) => "unreachable",
            LegError::Refused(_) => "refused",
            LegError::Protocol(_) => "protocol",
            LegError::Slow(_) => "timeout",
            LegError::Random(_) | LegError::Ended(_) => "internal",
        }
    }

    /// Whether the same worker could do better the next time.
    fn retryable(&self) -> bool {
        match self {
            // A difference of releases or settings stays.
            LegError::Transfer(error) => !matches!(error.kind(), ErrorKind::Version | ErrorKind::Layout),
            LegError::Protocol(_) => true,
            // Both ends notice a broken connection; which one says so first must not decide.
            LegError::Refused(error) => error.kind() == w::error::Kind::Prefill,
            _ => false,
        }
    }
}

/// Runs a leg to its end and reports a failure to the step thread.
pub(crate) async fn run(context: Arc<Context>, plan: Plan) {
    let began = Instant::now();
    let ends = plan.ends.clone();
    let id = plan.context.request_id.clone();
    let (request, leg) = (plan.request, plan.leg);
    let fetched = tokio::select! {
        biased;
        () = ends.cancelled() => return,
        fetched = fetch(&context, plan) => fetched,
    };
    match fetched {
        Ok(fetched) => {
            context.counters.transfer_ended(Direction::Received, "ok");
            context.counters.transfer_time(began.elapsed().as_secs_f64());
            finish(&context, (request, leg), fetched).await;
        }
        Err(error) => {
            let (reason, retryable) = (error.name(), error.retryable());
            tracing::warn!(request_id = %id, leg, %error, reason, "prefill elsewhere failed");
            context.counters.transfer_ended(Direction::Received, reason);
            // When the step thread has ended there is nothing to retry for.
            let _ = context.steps.send(Message::LegFailed { request, leg, retryable, reason }).await;
        }
    }
}

/// Both ends of a leg whose pages have all arrived.
struct Fetched {
    events: Streaming<w::PrefillEvent>,
    incoming: Box<dyn Incoming>,
    until: tokio::time::Instant,
}

/// Parts from the sender. That the request may be over before this is takes nothing away: a call dropped now would look
/// like a failure over there.
async fn finish(context: &Context, (request, leg): (RequestKey, u32), fetched: Fetched) {
    let Fetched { mut events, incoming, until } = fetched;
    let ended = Message::Event(Event::PrefillEnded { request, leg });
    // Without a step thread nobody waits for the pages; without an acknowledgement the sender counts the fault.
    let (_, acknowledged) = tokio::join!(context.steps.send(ended), incoming.ack());
    if let Err(error) = acknowledged {
        tracing::debug!(%error, "the end of a transfer could not be acknowledged");
        return;
    }
    // The sender's word that it freed its pages. Without it they are free when the call is dropped.
    let patience = tokio::time::Instant::now() + context.limits.peer_timeout;
    let _ = timeout_at(until.min(patience), next(&mut events)).await;
}

async fn fetch(context: &Context, plan: Plan) -> Result<Fetched, LegError> {
    let until = tokio::time::Instant::now() + plan.lease;
    let lease = hadal_shell::id::lease_id()?;
    let (request, leg) = (plan.request, plan.leg);
    let blocks = plan.blocks_held..blocks_for(plan.tokens.len() as u64) as u32;
    let mut client = context.peers.client(&plan.worker.grpc_address)?;
    let call = client.prefill(wire_request(context, plan, lease));
    let timeout = context.limits.peer_timeout;
    let answer = tokio::time::timeout_at(until.min(tokio::time::Instant::now() + timeout), async {
        let mut events = call.await?.into_inner();
        let first = next(&mut events).await?;
        Ok::<_, LegError>((events, first))
    });
    let (mut events, first) = answer.await.map_err(|_| LegError::Slow(timeout))??;
    let w::prefill_event::Event::Accepted(accepted) = first else {
        return Err(LegError::Protocol("says something before it accepts"));
    };
    let cached_tokens = accepted.cached_tokens;
    context.steps.send(Message::Event(Event::PrefillAccepted { request, leg, cached_tokens })).await?;
    let fetch = Fetch {
        address: accepted.transfer_address,
        lease,
        sender: Incarnation(accepted.incarnation),
        blocks,
        window_bytes: context.limits.window_bytes,
        deadline: until,
    };
    let incoming = unless_ended(&mut events, async { Ok(context.connector.fetch(fetch).await?) }).await?;
    let incoming = receive(context, (request, leg), incoming, &mut events).await?;
    Ok(Fetched { events, incoming, until })
}

fn wire_request(context: &Context, plan: Plan, lease: LeaseId) -> w::PrefillRequest {
    w::PrefillRequest {
        context: Some(plan.context),
        fingerprint: context.info.fingerprint.0.to_vec(),
        numerics_class: context.info.class.0.to_vec(),
        layout: context.info.geometry.layout.clone(),
        tokens: plan.tokens,
        blocks_held: plan.blocks_held,
        lease_id: lease.0.to_le_bytes().to_vec(),
        lease_ms: plan.lease.as_millis().max(1) as u64,
        receiver_incarnation: context.incarnation.0,
        incarnation: plan.worker.incarnation,
    }
}

/// The next event of the call; errors and the end are failures.
async fn next(events: &mut Streaming<w::PrefillEvent>) -> Result<w::prefill_event::Event, LegError> {
    match events.message().await?.and_then(|e| e.event) {
        Some(w::prefill_event::Event::Error(error)) => Err(LegError::Refused(error)),
        Some(event) => Ok(event),
        None => Err(LegError::Protocol("ended its stream")),
    }
}

/// Does `what`, unless the call ends first.
async fn unless_ended<T>(
    events: &mut Streaming<w::PrefillEvent>,
    what: impl Future<Output = Result<T, LegError>>,
) -> Result<T, LegError> {
    tokio::select! {
        biased;
        done = what => done,
        event = next(events) => match event {
            Ok(_) => Err(LegError::Protocol("finished before its pages arrived")),
            Err(error) => Err(error),
        },
    }
}

/// Hands pages to the step thread until the end, and room back to the sender. The connection comes back.
async fn receive(
    context: &Context,
    (request, leg): (RequestKey, u32),
    mut incoming: Box<dyn Incoming>,
    events: &mut Streaming<w::PrefillEvent>,
) -> Result<Box<dyn Incoming>, LegError> {
    let (taken, mut taken_bytes) = watch::channel(0_u64);
    let taken = Arc::new(taken);
    let mut granted = 0;
    loop {
        let received = tokio::select! {
            biased;
            // The step thread has written pages: the sender may send as many bytes more.
            Ok(()) = taken_bytes.changed() => {
                let total = *taken_bytes.borrow_and_update();
                incoming.grant(total - granted).await?;
                granted = total;
                continue;
            }
            received = incoming.next() => received?,
            event = next(events) => match event {
                Ok(_) => return Err(LegError::Protocol("finished before its pages arrived")),
                Err(error) => return Err(error),
            },
        };
        match received {
            Received::Block(block) => {
                let page = Page { request, leg, block, taken: Arc::clone(&taken) };
                context.steps.send(Message::Page(page)).await?;
            }
            Received::End => return Ok(incoming),
        }
    }
}

#[cfg(test)]
mod tests {
    use w::error::Kind;

    use super::*;

    #[test]
    fn a_broken_connection_is_worth_a_retry_whoever_tells_of_it_and_a_refusal_is_not() {
        let told = |kind: Kind| LegError::Refused(w::Error { kind: kind.into(), ..Default::default() });
        assert!(told(Kind::Prefill).retryable());
        assert!(LegError::from(TransferError::ShortRead("cut".into())).retryable());
        for kind in [Kind::Busy, Kind::Mismatch, Kind::Draining, Kind::Invalid, Kind::Deadline, Kind::Internal] {
            assert!(!told(kind).retryable(), "{kind:?}");
        }
    }
}
