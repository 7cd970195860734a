//! Why a request has no answer, and how HTTP says so. The status, type and code of every kind are in this file only;
//! the gRPC server has its own table.

use std::time::Duration;

use serde_json::{Value, json};

/// What went wrong, by what the client should do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The request is malformed or out of range: change it.
    Invalid,
    /// A parameter that exists elsewhere and not here: leave it out.
    Unsupported,
    /// Prompt and `max_tokens` do not fit the model's context or any worker's memory.
    TooLong,
    /// No such model.
    UnknownModel,
    /// No such page.
    NotFound,
    /// The page exists; the method does not.
    MethodNotAllowed,
    /// The body is larger than the server reads.
    BodyTooLarge,
    /// The body is declared as something other than plain JSON.
    MediaType,
    /// A request of this id is running.
    Duplicate,
    /// Too much is waiting: try again later.
    Overloaded,
    /// Nothing can serve it now: try again later.
    Unavailable,
    /// The request's deadline passed, or cannot be met.
    Deadline,
    /// The client went away or took it back.
    Cancelled,
    /// The model's arithmetic gave no number for this request.
    Numerics,
    /// A fault of ours.
    Internal,
}

impl FailureKind {
    /// Every kind.
    pub const ALL: &[FailureKind] = &[
        FailureKind::Invalid,
        FailureKind::Unsupported,
        FailureKind::TooLong,
        FailureKind::UnknownModel,
        FailureKind::NotFound,
        FailureKind::MethodNotAllowed,
        FailureKind::BodyTooLarge,
        FailureKind::MediaType,
        FailureKind::Duplicate,
        FailureKind::Overloaded,
        FailureKind::Unavailable,
        FailureKind::Deadline,
        FailureKind::Cancelled,
        FailureKind::Numerics,
        FailureKind::Internal,
    ];

    /// Status, `type` and `code` of the OpenAI error body; the code is also the label in metrics and logs.
    fn row(self) -> (u16, &'static str, &'static str) {
        const REQUEST: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        match self {
            FailureKind::Invalid => (400, REQUEST, "invalid_value"),
            FailureKind::Unsupported => (400, REQUEST, "unsupported_parameter"),
            FailureKind::TooLong => (400, REQUEST, "context_length_exceeded"),
            FailureKind::UnknownModel => (404, REQUEST, "model_not_found"),
            FailureKind::NotFound => (404, REQUEST, "unknown_url"),
            FailureKind::MethodNotAllowed => (405, REQUEST, "method_not_allowed"),
            FailureKind::BodyTooLarge => (413, REQUEST, "body_too_large"),
            FailureKind::MediaType => (415, REQUEST, "unsupported_media_type"),
            FailureKind::Duplicate => (409, REQUEST, "duplicate_request_id"),
            FailureKind::Overloaded => (429, "rate_limit_error", "overloaded"),
            FailureKind::Unavailable => (503, SERVER, "unavailable"),
            FailureKind::Deadline => (504, "timeout_error", "deadline_exceeded"),
            // 499 is what proxies log for a client that closed its connection; it has no registered number.
            FailureKind::Cancelled => (499, REQUEST, "cancelled"),
            FailureKind::Numerics => (500, SERVER, "numerics"),
            FailureKind::Internal => (500, SERVER, "internal"),
        }
    }

    /// HTTP status.
    pub fn http_status(self) -> u16 {
        self.row().0
    }

    /// A short stable name, for error bodies, metrics and logs.
    pub fn code(self) -> &'static str {
        self.row().2
    }
}

/// A request's end without an answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What went wrong.
    pub kind: FailureKind,
    /// What is wrong and what to do, for whoever sent the request.
    pub message: String,
    /// The parameter at fault, as the client wrote it.
    pub param: Option<String>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure without a parameter.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), param: None, retry_after: None }
    }

    /// A parameter that must be changed.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureKind::Invalid, message).with_param(param)
    }

    /// A fault of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Internal, message)
    }

    /// Names the parameter at fault.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The body of OpenAI's API.
    pub fn body(&self) -> Value {
        let (_, kind, code) = self.kind.row();
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": code}})
    }

    /// `Retry-After`, in whole seconds, at least one; of every 429 and 503, as these are worth another try.
    pub fn retry_after_s(&self) -> Option<u64> {
        let again = matches!(self.kind, FailureKind::Overloaded | FailureKind::Unavailable);
        let after = self.retry_after.or(again.then_some(Duration::from_secs(1)))?;
        Some(after.as_millis().div_ceil(1000).clamp(1, 3600) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_status_and_its_own_code() {
        let mut codes: Vec<_> = FailureKind::ALL.iter().map(|k| k.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), FailureKind::ALL.len());
        assert!(FailureKind::ALL.iter().all(|k| (400..600).contains(&k.http_status())));
    }

    #[test]
    fn body_has_the_shape_of_openai() {
        let body = Failure::invalid("top_p", "top_p must be above 0").body();
        let expected = r#"{"error":{"message":"top_p must be above 0","type":"invalid_request_error","param":"top_p","code":"invalid_value"}}"#;
        assert_eq!(body.to_string(), expected);
    }

    #[test]
    fn retry_after_is_whole_seconds_and_never_none_where_another_try_helps() {
        let busy = Failure::new(FailureKind::Overloaded, "x");
        assert_eq!(busy.retry_after_s(), Some(1));
        assert_eq!(busy.with_retry_after(Duration::from_millis(1200)).retry_after_s(), Some(2));
        assert_eq!(Failure::internal("x").retry_after_s(), None);
    }
}
