//! Asking the coordinator where a choice goes.
//!
//! The coordinator queues; the router waits only while the coordinator itself cannot be reached or does not lead, a bounded
//! number of requests for a bounded time. When another coordinator leads, it is asked at once, also in the place of one
//! that has not answered.

use std::time::{Duration, Instant};

use hadal_proto::cluster::coordinator_client::CoordinatorClient;
use hadal_proto::{cluster as w, hashes_to_bytes};
use hadal_router_core::{Attempts, Backoff, Failure, FailureKind};
use hadal_shell::grpc::{MESSAGE_BYTES_MAX, explain};
use hadal_types::{Attention, ChainHash, NumericsClass};
use tokio::sync::SemaphorePermit;
use tokio::time::sleep;
use tonic::Code;
use tracing::debug;

use crate::dispatch::Dispatch;
use crate::dispatch::request::Request;
use crate::metrics::Counted;

/// A request's wait for the coordinator: its place among those that may, until when, and the next try.
struct Wait<'a> {
    _permit: SemaphorePermit<'a>,
    _counted: Counted,
    until: Instant,
    backoff: Backoff,
}

/// A placement of choice `index`, with `output` tokens given so far.
pub(crate) async fn place(
    dispatch: &Dispatch,
    request: &Request,
    index: u32,
    attempts: &Attempts,
    output: &[u32],
) -> Result<w::Placement, Failure> {
    let mut message = message(request, index, attempts, output);
    let mut wait: Option<Wait<'_>> = None;
    let began = Instant::now();
    loop {
        message.context = Some(context(request, index));
        let (target, mut leader) = (dispatch.leader.target(), dispatch.leader.clone());
        let mut coordinator =
            CoordinatorClient::new(target.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let asked = tokio::select! {
            asked = coordinator.place(message.clone()) => asked,
            // It hangs, or knows not yet that it was deposed; what it may have kept free ends with its leadership.
            () = leader.other_than(&target) => continue,
        };
        let status = match asked {
            Ok(answer) => {
                dispatch.metrics.placed(request.model(), began.elapsed());
                return read(answer.into_inner());
            }
            Err(status) => status,
        };
        let reason = refused(&status)?;
        debug!(request_id = %request.submission.context.request_id, %reason, "the coordinator cannot be asked");
        let wait = match &mut wait {
            Some(wait) => wait,
            None => wait.insert(begin(dispatch, &reason)?),
        };
        if Instant::now() >= wait.until {
            return Err(away(&reason));
        }
        tokio::select! {
            () = sleep(wait.backoff.wait()) => {}
            () = leader.other_than(&target) => {}
        }
    }
}

fn begin<'a>(dispatch: &'a Dispatch, reason: &str) -> Result<Wait<'a>, Failure> {
    let Ok(permit) = dispatch.waiting.try_acquire() else { return Err(away(reason)) };
    Ok(Wait {
        _permit: permit,
        _counted: dispatch.metrics.waiting(),
        until: Instant::now() + dispatch.limits.wait,
        backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
    })
}

fn away(reason: &str) -> Failure {
    let message = format!("the coordinator cannot be reached, so that nothing can be placed: {reason}");
    Failure::new(FailureKind::Unavailable, message).with_retry_after(Duration::from_secs(5))
}

/// Whether a failed call is worth another one: the reason; or the end.
fn refused(status: &tonic::Status) -> Result<String, Failure> {
    let reason = explain(status);
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange => Err(Failure::new(FailureKind::Invalid, reason)),
        Code::DeadlineExceeded => Err(Failure::new(FailureKind::Deadline, reason)),
        Code::ResourceExhausted => Err(Failure::new(FailureKind::Overloaded, reason)),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::Aborted => Ok(reason),
        code => Err(Failure::internal(format!("the coordinator refused to place the request ({code:?}): {reason}"))),
    }
}

fn read(answer: w::PlaceResponse) -> Result<w::Placement, Failure> {
    match answer.answer {
        Some(w::place_response::Answer::Placement(placement)) => Ok(placement),
        Some(w::place_response::Answer::Refusal(refusal)) => Err(refusal_failure(&refusal)),
        None => Err(Failure::internal("the coordinator's answer is empty; are router and coordinator of one release?")),
    }
}

fn refusal_failure(refusal: &w::Refusal) -> Failure {
    use w::refusal::Kind;
    let kind = match refusal.kind() {
        Kind::UnknownModel => FailureKind::UnknownModel,
        Kind::TooLong => FailureKind::TooLong,
        Kind::Overloaded => FailureKind::Overloaded,
        Kind::Deadline => FailureKind::Deadline,
        Kind::NoWorker => FailureKind::Unavailable,
        Kind::Invalid => FailureKind::Invalid,
        Kind::Unspecified => FailureKind::Internal,
    };
    let failure = Failure::new(kind, refusal.message.clone());
    if refusal.retry_after_ms == 0 {
        return failure;
    }
    failure.with_retry_after(Duration::from_millis(refusal.retry_after_ms))
}

fn message(request: &Request, index: u32, attempts: &Attempts, output: &[u32]) -> w::PlaceRequest {
    let block_chain = |(class, hashes): &(NumericsClass, Vec<ChainHash>)| w::BlockChain {
        numerics_class: class.0.to_vec(),
        hashes: hashes_to_bytes(hashes),
    };
    let chains = match attempts.class() {
        None => request.chains.iter().map(block_chain).collect(),
        // Blocks of the output may be cached, too: whoever decoded them kept them.
        Some(class) => {
            let tokens = [request.submission.prompt.as_slice(), output].concat();
            vec![block_chain(&(class, request.submission.root(class).chain(&tokens)))]
        }
    };
    w::PlaceRequest {
        context: Some(context(request, index)),
        model: request.model().to_owned(),
        chains,
        prompt_tokens: (request.submission.prompt.len() + output.len()) as u32,
        max_tokens: request.params.max_tokens.saturating_sub(output.len() as u32),
        exclude: attempts.exclude().iter().map(|worker| worker.0.clone()).collect(),
        session: request.submission.context.session.clone(),
        attempt: attempts.made(),
        numerics_class: attempts.class().map(|class| class.0.to_vec()).unwrap_or_default(),
    }
}

/// What a choice's requests to coordinator and workers carry.
pub(crate) fn context(request: &Request, index: u32) -> w::RequestContext {
    let meta = &request.submission.context;
    let left = request.deadline.saturating_duration_since(Instant::now());
    w::RequestContext {
        request_id: meta.request_id.choice(index).to_string(),
        traceparent: meta.traceparent.clone(),
        tenant: meta.tenant.clone(),
        salt: meta.salt.clone(),
        priority: meta.priority,
        // 0 would mean that there is none.
        deadline_ms: (left.as_millis() as u64).max(1),
        dense: meta.attention == Attention::Dense,
    }
}
