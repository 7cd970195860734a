//! What a request's headers say of it.

use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use hadal_router_core::Failure;
use hadal_router_core::openai::Common;
use hadal_types::{Attention, RequestId};

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

/// The id of one of several prompts: the first one's is the request's.
pub(super) fn of_prompt(id: &RequestId, index: usize) -> Result<RequestId, Failure> {
    if index == 0 {
        return Ok(id.clone());
    }
    let wrong = |_| Failure::invalid("x-request-id", "x-request-id is too long for a request of several prompts");
    RequestId::new(format!("{id}.{index}")).map_err(wrong)
}

/// What the headers say, read when they arrive, so that the time of the body counts.
pub(super) struct Arrived {
    /// When it is too late.
    pub(super) deadline: Option<Instant>,
    id: RequestId,
    tenant: String,
    session: String,
    traceparent: String,
}

impl Arrived {
    /// Reads them.
    pub(super) fn read(headers: &HeaderMap, id: RequestId) -> Result<Self, Failure> {
        Ok(Self {
            deadline: deadline(headers)?,
            id,
            tenant: name(headers, "x-tenant")?,
            session: name(headers, "x-hadal-session")?,
            // A broken trace context is ignored, as the standard asks for.
            traceparent: name(headers, "traceparent").unwrap_or_default(),
        })
    }

    /// With what the body says.
    pub(super) fn meta(self, common: &Common) -> RequestMeta {
        // OpenAI's clients know the field of the body.
        let session = if self.session.is_empty() { common.session.clone() } else { self.session };
        RequestMeta {
            api: Api::Http,
            request_id: self.id,
            salt: salt(&self.tenant, &common.cache_salt),
            attention: Attention::default(),
            tenant: self.tenant,
            priority: common.priority,
            session,
            traceparent: self.traceparent,
            deadline: self.deadline,
        }
    }
}

fn deadline(headers: &HeaderMap) -> Result<Option<Instant>, Failure> {
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
