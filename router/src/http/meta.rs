//! What a request's headers say of it.

use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use hadal_router_core::Failure;
use hadal_router_core::openai::Common;
use hadal_types::RequestId;

use crate::service::{Api, RequestMeta, salt};

/// Longest tenant and session.
const NAME_BYTES_MAX: usize = 128;
/// Longest deadline that a client may ask for.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// The id that the client gives, or a new one.
pub(super) fn request_id(headers: &HeaderMap) -> Result<RequestId, Failure> {
    let id = match text(headers, "x-request-id")? {
        "" => hadal_shell::id::request_id().map_err(|e| Failure::internal(e.to_string()))?,
        id => id.to_owned(),
    };
    RequestId::new(id).map_err(|e| Failure::invalid("x-request-id", e.to_string()))
}

/// When it is too late for the request.
pub(super) fn deadline(headers: &HeaderMap) -> Result<Option<Instant>, Failure> {
    let name = "x-hadal-timeout-ms";
    let value = text(headers, name)?;
    if value.is_empty() {
        return Ok(None);
    }
    let timeout = value.parse().ok().map(Duration::from_millis).filter(|t| !t.is_zero() && *t <= TIMEOUT_MAX);
    let Some(timeout) = timeout else {
        let most = TIMEOUT_MAX.as_millis();
        return Err(Failure::invalid(name, format!("{name} must be milliseconds, 1 to {most}; it is {value:?}")));
    };
    Ok(Some(Instant::now() + timeout))
}

/// All of it.
pub(super) fn read(headers: &HeaderMap, id: RequestId, common: &Common) -> Result<RequestMeta, Failure> {
    let tenant = name(headers, "x-tenant")?;
    let session = name(headers, "x-hadal-session")?;
    // OpenAI's field is what its clients set.
    let session = if session.is_empty() { common.session.clone() } else { session };
    Ok(RequestMeta {
        api: Api::Http,
        request_id: id,
        salt: salt(&tenant, &common.cache_salt),
        tenant,
        priority: common.priority,
        session,
        // A broken trace context is ignored, as the standard asks for.
        traceparent: text(headers, "traceparent").unwrap_or_default().chars().take(NAME_BYTES_MAX).collect(),
        deadline: deadline(headers)?,
    })
}

fn name(headers: &HeaderMap, name: &'static str) -> Result<String, Failure> {
    let value = text(headers, name)?;
    if value.len() > NAME_BYTES_MAX {
        let message = format!("{name} must be at most {NAME_BYTES_MAX} bytes; it has {}", value.len());
        return Err(Failure::invalid(name, message));
    }
    Ok(value.to_owned())
}

fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, Failure> {
    let Some(value) = headers.get(name) else { return Ok("") };
    let wrong = |_| Failure::invalid(name, format!("{name} must be visible ASCII characters"));
    value.to_str().map(str::trim).map_err(wrong)
}
