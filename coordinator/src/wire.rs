//! Messages of `hadal.cluster.v1` to and from the core's types.

use std::time::Duration;

use hadal_coordinator_core::{
    Answer, Heartbeat, Leg, PlaceRequest, Placement, Refusal, RefusalKind, SnapshotBlock, SnapshotChunk, WorkerInfo,
    WorkerView,
};
use hadal_proto::cluster as w;
use hadal_proto::{Malformed, PROTOCOL_VERSION, hashes_from_bytes, id16};
use hadal_types::{
    CacheEvent, Fingerprint, Geometry, Incarnation, LeaseId, Ledger, NumericsClass, Priority, RequestId, Role, WorkerId,
};

/// The version before ours; 0 is none, but a peer that says nothing.
const OLDEST_VERSION: u32 = if PROTOCOL_VERSION > 1 { PROTOCOL_VERSION - 1 } else { 1 };

fn malformed(field: &'static str, problem: impl ToString) -> Malformed {
    Malformed { field, problem: problem.to_string() }
}

/// Why a worker that registers is not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error(
        "worker {worker} speaks version {theirs} of the protocol, this coordinator speaks {PROTOCOL_VERSION} and \
         accepts {OLDEST_VERSION} to {PROTOCOL_VERSION}; run releases that are at most one apart"
    )]
    Version { worker: String, theirs: u32 },
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// What a worker says of itself.
pub(crate) fn worker(register: &w::Register) -> Result<WorkerInfo, Unfit> {
    let theirs = register.protocol_version;
    if !(OLDEST_VERSION..=PROTOCOL_VERSION).contains(&theirs) {
        return Err(Unfit::Version { worker: register.worker_id.clone(), theirs });
    }
    let geometry = register.geometry.as_ref().ok_or_else(|| malformed("geometry", "it is missing"))?;
    Ok(WorkerInfo {
        id: WorkerId(register.worker_id.clone()),
        incarnation: Incarnation(register.incarnation),
        role: register.role.parse::<Role>().map_err(|e| malformed("role", e))?,
        model: register.model_name.clone(),
        fingerprint: Fingerprint(id16("fingerprint", &register.fingerprint)?),
        class: NumericsClass(id16("numerics_class", &register.numerics_class)?),
        geometry: Geometry::try_from(geometry)?,
        address: register.grpc_address.clone(),
        context_tokens: register.context_tokens,
        ledger: ledger(register.ledger.as_ref())?,
    })
}

fn ledger(ledger: Option<&w::Ledger>) -> Result<Ledger, Malformed> {
    ledger.ok_or_else(|| malformed("ledger", "it is missing"))?.try_into()
}

pub(crate) fn heartbeat(heartbeat: w::Heartbeat) -> Result<Heartbeat, Malformed> {
    let requests = heartbeat.request_ids.into_iter().map(RequestId::new).collect::<Result<_, _>>();
    Ok(Heartbeat {
        sequence: heartbeat.sequence,
        ledger: ledger(heartbeat.ledger.as_ref())?,
        requests: requests.map_err(|e| malformed("request_ids", e))?,
        draining: heartbeat.draining,
        prefill_tokens_queued: heartbeat.prefill_tokens_queued,
    })
}

pub(crate) fn events(message: &w::CacheEvents) -> Result<Vec<CacheEvent>, Malformed> {
    message.events.iter().map(|event| event.read(message.incarnation)).collect()
}

pub(crate) fn snapshot(message: &w::CacheSnapshot) -> Result<SnapshotChunk, Malformed> {
    let block = |block: &w::cache_snapshot::Block| {
        // A block in a snapshot reads as an event would.
        let (hash, parts, tier) = (block.hash.clone(), block.parts, block.tier);
        let event = w::CacheEvent { hash, parts, tier, ..w::CacheEvent::default() }.read(message.incarnation)?;
        Ok(SnapshotBlock { hash: event.hash, parts: event.parts, tier: event.tier })
    };
    Ok(SnapshotChunk {
        incarnation: Incarnation(message.incarnation),
        sequence: message.sequence,
        blocks: message.blocks.iter().map(block).collect::<Result<_, Malformed>>()?,
        first: message.first,
        last: message.last,
    })
}

/// A request to be placed; `now` is the instant on the core's clock at which it arrived.
pub(crate) fn place(request: w::PlaceRequest, now: Duration) -> Result<PlaceRequest, Malformed> {
    let context = request.context.ok_or_else(|| malformed("context", "it is missing"))?;
    let chain = |chain: &w::BlockChain| {
        let class = NumericsClass(id16("numerics_class", &chain.numerics_class)?);
        Ok((class, hashes_from_bytes(&chain.hashes)?))
    };
    let class = match request.numerics_class.as_slice() {
        [] => None,
        class => Some(NumericsClass(id16("numerics_class", class)?)),
    };
    Ok(PlaceRequest {
        request: RequestId::new(context.request_id).map_err(|e| malformed("request_id", e))?,
        model: request.model,
        chains: request.chains.iter().map(chain).collect::<Result<_, Malformed>>()?,
        prompt_tokens: request.prompt_tokens,
        max_tokens: request.max_tokens,
        priority: Priority(context.priority),
        tenant: context.tenant,
        deadline: (context.deadline_ms > 0).then(|| now.saturating_add(Duration::from_millis(context.deadline_ms))),
        exclude: request.exclude.into_iter().map(WorkerId).collect(),
        class,
        session: request.session,
        attempt: request.attempt,
    })
}

pub(crate) fn response(answer: Answer, lease: LeaseId) -> w::PlaceResponse {
    let answer = match answer {
        Answer::Placed(placement) => w::place_response::Answer::Placement(placed(placement, lease)),
        Answer::Refused(refusal) => w::place_response::Answer::Refusal(refused(refusal)),
    };
    w::PlaceResponse { answer: Some(answer) }
}

fn placed(placement: Placement, lease: LeaseId) -> w::Placement {
    let reference = |leg: &Leg| w::WorkerRef {
        id: leg.worker.0.clone(),
        incarnation: leg.incarnation.0,
        grpc_address: leg.address.clone(),
    };
    w::Placement {
        decode: Some(reference(&placement.decode)),
        prefill: placement.prefill.as_ref().map(reference),
        decode_cached_tokens: placement.decode.cached_tokens,
        prefill_cached_tokens: placement.prefill.as_ref().map_or(0, |leg| leg.cached_tokens),
        lease_id: lease.0.to_le_bytes().to_vec(),
        lease_ms: millis(placement.lease),
        queued_us: u64::try_from(placement.queued.as_micros()).unwrap_or(u64::MAX),
    }
}

pub(crate) fn refused(refusal: Refusal) -> w::Refusal {
    use w::refusal::Kind;
    let kind = match refusal.kind {
        RefusalKind::UnknownModel => Kind::UnknownModel,
        RefusalKind::TooLong => Kind::TooLong,
        RefusalKind::Overloaded => Kind::Overloaded,
        RefusalKind::Deadline => Kind::Deadline,
        RefusalKind::NoWorker => Kind::NoWorker,
        RefusalKind::Invalid => Kind::Invalid,
    };
    w::Refusal { kind: kind.into(), message: refusal.message, retry_after_ms: refusal.retry_after.map_or(0, millis) }
}

/// A worker as watchers see it.
pub(crate) fn fleet_worker(view: WorkerView<'_>, register: &w::Register) -> w::FleetWorker {
    w::FleetWorker {
        id: register.worker_id.clone(),
        incarnation: register.incarnation,
        role: register.role.clone(),
        model_name: register.model_name.clone(),
        architecture: register.architecture.clone(),
        fingerprint: register.fingerprint.clone(),
        numerics_class: register.numerics_class.clone(),
        grpc_address: register.grpc_address.clone(),
        context_tokens: register.context_tokens,
        ledger: Some(view.ledger.into()),
        draining: view.draining,
        files: register.files.clone(),
        requests: u32::try_from(view.requests).unwrap_or(u32::MAX),
    }
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
