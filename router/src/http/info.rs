//! What is served, and the token ids of texts.

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Request;
use axum::response::Response;
use hadal_router_core::openai::{TokenizeInput, TokenizeRequest};
use hadal_router_core::{Failure, FailureKind};
use hadal_types::RequestId;
use serde_json::{Value, json};

use super::meta::Arrived;
use super::{App, body, respond, unix_time_s};
use crate::service::{Backend, ModelInfo};
use crate::tokens;

/// `GET /v1/models`
pub(super) async fn models<B: Backend>(State(app): State<App<B>>) -> Response {
    let data: Vec<Value> = app.backend.models().iter().map(shape).collect();
    respond::json(json!({"object": "list", "data": data}).to_string())
}

/// `GET /v1/models/{model}`; names may have slashes.
pub(super) async fn model<B: Backend>(State(app): State<App<B>>, Path(name): Path<String>) -> Response {
    let models = app.backend.models();
    match models.iter().find(|model| model.name == name) {
        Some(model) => respond::json(shape(model).to_string()),
        None => {
            let message = format!("no model {name:?} is served; GET /v1/models lists those that are");
            respond::failure(&Failure::new(FailureKind::UnknownModel, message).with_param("model"))
        }
    }
}

fn shape(model: &ModelInfo) -> Value {
    json!({
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "hadal",
        "max_model_len": model.context_tokens,
        "architecture": model.architecture,
        "fingerprint": model.fingerprint.to_string(),
    })
}

/// `POST /tokenize`: `prompt`, or `messages` as the model's chat template renders them.
pub(super) async fn tokenize<B: Backend>(
    State(app): State<App<B>>,
    Extension(id): Extension<RequestId>,
    request: Request<Body>,
) -> Response {
    match token_ids(&app, id, request).await {
        Ok(answer) => respond::json(answer.to_string()),
        Err(failure) => respond::failure(&failure),
    }
}

async fn token_ids<B: Backend>(app: &App<B>, id: RequestId, request: Request<Body>) -> Result<Value, Failure> {
    let arrived = Arrived::read(request.headers(), id)?;
    let TokenizeRequest { model, input } = TokenizeRequest::parse(&body::read(request, app.options).await?)?;
    let model = app.backend.model(&model, arrived.deadline).await?;
    let (text, tokens) = match input {
        TokenizeInput::Text { text, special } => {
            let tokens = if special {
                tokens::prompt(&model, text.clone().into()).await?
            } else {
                tokens::plain(&model, text.clone()).await?
            };
            (text, tokens)
        }
        TokenizeInput::Chat { messages, mut options } => {
            options.unix_time_s = unix_time_s();
            tokens::chat(&model, messages, options).await?
        }
    };
    let texts: Vec<String> = tokens.iter().map(|&token| model.text.vocabulary().text(token)).collect();
    let context = model.info.context_tokens;
    Ok(json!({"count": tokens.len(), "max_model_len": context, "tokens": tokens, "token_strs": texts, "text": text}))
}
