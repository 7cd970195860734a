//! `/v1/completions` and `/v1/chat/completions`: a body to submissions, and their outputs to an answer.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request};
use axum::response::Response;
use hadal_router_core::Failure;
use hadal_router_core::openai::{Answer, ChatRequest, Chunks, Common, CompletionRequest, Endpoint, Head};
use hadal_types::RequestId;

use super::streams::Streams;
use super::{App, body, events, meta, respond, tokens};
use crate::service::{Api, Backend, Output, ServedModel, Submission};

/// Choices of all prompts of one request at most.
const CHOICES_MAX: u32 = 128;

/// `POST /v1/completions`
pub(super) async fn completions<B: Backend>(
    State(app): State<App<B>>,
    Extension(id): Extension<RequestId>,
    request: Request<Body>,
) -> Response {
    let headers = request.headers().clone();
    let work = async {
        let CompletionRequest { common, prompts } =
            CompletionRequest::parse(&body::read(request, app.options).await?)?;
        let model = app.backend.model(&common.model, meta::deadline(&headers)?).await?;
        let mut encoded = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            encoded.push(tokens::prompt(&model, prompt).await?);
        }
        plan(&headers, id, Endpoint::Completion, common, model, encoded)
    };
    finish(&app.backend, work.await).await
}

/// `POST /v1/chat/completions`
pub(super) async fn chat<B: Backend>(
    State(app): State<App<B>>,
    Extension(id): Extension<RequestId>,
    request: Request<Body>,
) -> Response {
    let headers = request.headers().clone();
    let work = async {
        let ChatRequest { common, messages, mut chat } = ChatRequest::parse(&body::read(request, app.options).await?)?;
        let model = app.backend.model(&common.model, meta::deadline(&headers)?).await?;
        chat.unix_time_s = unix_time_s();
        let (_, encoded) = tokens::chat(&model, messages, chat).await?;
        plan(&headers, id, Endpoint::Chat, common, model, vec![encoded])
    };
    finish(&app.backend, work.await).await
}
