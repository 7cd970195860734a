//! From the wire to the core: who a request is for, and whether it can be read at all. Lengths, ids and memory are the
//! core's to judge.

use hadal_proto::cluster as w;
use hadal_proto::{Malformed, id16};
use hadal_types::{Attention, Incarnation, LeaseId, RequestId, Role, SamplingParams};
use hadal_worker_core::{Failure, Generate, Prefill};

use crate::errors::{invalid, mismatch};
use crate::output::Outlet;
use crate::step::{Context, Message, NewGenerate, NewPrefill};

/// Reads a request to own. On failure its outlet comes back, to say why.
pub(super) fn generate(
    context: &Context,
    role: Role,
    request: w::GenerateRequest,
    outlet: Outlet<w::GenerateEvent>,
) -> Result<Message, (Outlet<w::GenerateEvent>, Failure)> {
    match read_generate(context, role, &request) {
        Ok(core) => {
            let new = NewGenerate {
                request: Generate { tokens: request.tokens, ..core },
                prefill: request.prefill,
                context: request.context.unwrap_or_default(),
                outlet,
            };
            Ok(Message::Generate(Box::new(new)))
        }
        Err(failure) => Err((outlet, failure)),
    }
}

fn read_generate(context: &Context, role: Role, request: &w::GenerateRequest) -> Result<Generate, Failure> {
    if !role.decodes() {
        return Err(mismatch("this worker prefills for others and owns no request (--role prefill)"));
    }
    check_model(context, &request.fingerprint, &request.numerics_class)?;
    check_life(context, request.incarnation)?;
    let head = head(context, request.context.as_ref())?;
    let sampling = request.sampling.as_ref().ok_or_else(|| invalid("sampling is missing"))?;
    Ok(Generate {
        id: head.id,
        tokens: Vec::new(),
        prompt_tokens: request.prompt_tokens,
        sampling: SamplingParams::try_from(sampling).map_err(malformed)?,
        salt: head.salt,
        attention: head.attention,
        deadline: head.deadline,
        prefill: request.prefill.is_some(),
    })
}

/// Reads a prompt to prefill. On failure its outlet comes back, to say why.
pub(super) fn prefill(
    context: &Context,
    role: Role,
    request: w::PrefillRequest,
    outlet: Outlet<w::PrefillEvent>,
) -> Result<Message, (Outlet<w::PrefillEvent>, Failure)> {
    match read_prefill(context, role, &request) {
        Ok(core) => {
            let new = NewPrefill {
                request: Prefill { tokens: request.tokens, ..core },
                receiver: Incarnation(request.receiver_incarnation),
                outlet,
            };
            Ok(Message::Prefill(Box::new(new)))
        }
        Err(failure) => Err((outlet, failure)),
    }
}

fn read_prefill(context: &Context, role: Role, request: &w::PrefillRequest) -> Result<Prefill, Failure> {
    if !role.prefills() {
        return Err(mismatch("this worker owns requests and prefills none for others (--role decode)"));
    }
    check_model(context, &request.fingerprint, &request.numerics_class)?;
    let ours = &context.info.geometry.layout;
    if request.layout != *ours {
        return Err(mismatch(format!("cache layout {} here, {} asked for", ours, request.layout)));
    }
    check_life(context, request.incarnation)?;
    let head = head(context, request.context.as_ref())?;
    let lease = id16("lease_id", &request.lease_id).map_err(malformed)?;
    // A peer does not decide for how long it may hold this worker's pages.
    let longest = context.limits.prefill_lease.as_millis() as u64;
    let lease_until = context.steps.deadline(request.lease_ms.min(longest));
    let lease_until = lease_until.ok_or_else(|| invalid("lease_ms must be above 0"))?;
    Ok(Prefill {
        id: head.id,
        lease: LeaseId(u128::from_le_bytes(lease)),
        tokens: Vec::new(),
        blocks_held: request.blocks_held,
        salt: head.salt,
        attention: head.attention,
        deadline: head.deadline,
        lease_until,
    })
}

struct Head {
    id: RequestId,
    salt: Vec<u8>,
    attention: Attention,
    deadline: Option<std::time::Duration>,
}

fn head(context: &Context, request: Option<&w::RequestContext>) -> Result<Head, Failure> {
    let request = request.ok_or_else(|| invalid("context is missing"))?;
    let id = RequestId::new(request.request_id.as_str()).map_err(|e| invalid(e.to_string()))?;
    let deadline = context.steps.deadline(request.deadline_ms);
    Ok(Head { id, salt: request.salt.clone(), attention: request.attention(), deadline })
}

fn check_model(context: &Context, fingerprint: &[u8], class: &[u8]) -> Result<(), Failure> {
    let info = &context.info;
    if fingerprint != info.fingerprint.0 {
        return Err(mismatch(format!(
            "this worker serves model {} ({}), not the one asked for",
            info.model_name, info.fingerprint
        )));
    }
    if class != info.class.0 {
        return Err(mismatch(format!("numerics class {} here, another was asked for", info.class)));
    }
    Ok(())
}

/// The coordinator counted on what another life had cached, and awaits the request's name from that one.
fn check_life(context: &Context, incarnation: u64) -> Result<(), Failure> {
    if [0, context.incarnation.0].contains(&incarnation) {
        return Ok(());
    }
    Err(mismatch("this worker has restarted since it was placed; place the request again"))
}

fn malformed(error: Malformed) -> Failure {
    invalid(error.to_string())
}
