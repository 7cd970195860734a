//! The HTTP server: OpenAI's API, and `/health`, `/ready` and `/metrics` beside it.
//!
//! | path | |
//! | --- | --- |
//! | `POST /v1/completions`, `POST /v1/chat/completions` | tokens, whole or as server-sent events |
//! | `GET /v1/models`, `GET /v1/models/{model}` | what is served |
//! | `POST /tokenize` | the token ids of a text or a conversation |
//! | `GET /health`, `/ready`, `/metrics` | for operators |
//!
//! Headers read: `x-request-id` (1 to 128 visible ASCII characters; drawn when absent, and always sent back),
//! `x-hadal-timeout-ms` (the request's deadline, from its arrival), `x-tenant`, `x-hadal-session`, `traceparent`.
//! Body fields beside OpenAI's: `cache_salt`, `priority` (larger first), `return_token_ids`, `ignore_eos`, `top_k`,
//! `min_p`, `min_tokens`, `repetition_penalty`, `stop_token_ids`, `chat_template_kwargs`.
//!
//! Every error is JSON in OpenAI's shape. A failure before the first token has its own status; one after it is the last
//! event of the stream, without `[DONE]`. A client that goes away drops its handler, and that drops its
//! [`OutputStream`](crate::OutputStream) and cancels the request. A client that reads slowly stops the reading of
//! that stream, which is bounded.

mod body;
mod events;
mod generate;
mod info;
mod meta;
mod respond;
mod streams;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Router, middleware};
use hadal_router_core::{Failure, FailureKind};
use hadal_shell::metrics::Status;

use crate::service::Backend;

/// Less than the 30 s or more that proxies wait.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Bounds of the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Bytes of a request's body at most.
    pub(crate) body_bytes_max: usize,
    /// Longest wait for a request's body.
    pub(crate) body_timeout: Duration,
    /// Silence in a stream after which a comment is sent.
    pub(crate) keep_alive: Duration,
}

impl Options {
    /// With the default times.
    pub(crate) fn new(body_bytes_max: usize) -> Self {
        Self { body_bytes_max, body_timeout: Duration::from_secs(60), keep_alive: KEEP_ALIVE }
    }
}

#[derive(Clone)]
struct App<B> {
    backend: B,
    options: Options,
}

/// All routes. `status` says what `/ready` and `/metrics` show.
pub(crate) fn routes<B: Backend>(backend: B, options: Options, status: Status) -> Router {
    Router::new()
        .route("/v1/completions", post(generate::completions::<B>))
        .route("/v1/chat/completions", post(generate::chat::<B>))
        .route("/v1/models", get(info::models::<B>))
        .route("/v1/models/{*model}", get(info::model::<B>))
        .route("/tokenize", post(info::tokenize::<B>))
        .with_state(App { backend, options })
        .merge(hadal_shell::metrics::routes(status))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(identify))
}

/// Gives each request its id, and each response the same.
async fn identify(mut request: Request, next: Next) -> Response {
    let id = match meta::request_id(request.headers()) {
        Ok(id) => id,
        Err(failure) => return respond::failure(&failure),
    };
    request.extensions_mut().insert(id.clone());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    tracing::debug!(request_id = %id, %method, path, status = response.status().as_u16(), "answered");
    respond::add_header(&mut response, "x-request-id", id.as_str());
    response
}

/// Seconds since the epoch; 0 before it.
fn unix_time_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

async fn unknown(request: Request) -> Response {
    let message = format!("no page {}; OpenAI's API is under /v1", request.uri().path());
    respond::failure(&Failure::new(FailureKind::NotFound, message))
}

async fn wrong_method(request: Request) -> Response {
    let message = format!("{} does not take {}", request.uri().path(), request.method());
    respond::failure(&Failure::new(FailureKind::MethodNotAllowed, message))
}

#[cfg(test)]
mod tests;
