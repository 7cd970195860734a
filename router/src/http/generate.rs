//! `/v1/completions` and `/v1/chat/completions`: a body to submissions, and their outputs to an answer.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use hadal_router_core::Failure;
use hadal_router_core::openai::{Answer, ChatRequest, Chunks, Common, CompletionRequest, Endpoint, Head};
use hadal_types::RequestId;

use super::meta::{self, Arrived};
use super::streams::Streams;
use super::{App, body, events, respond, unix_time_s};
use crate::service::{Api, Backend, Output, ServedModel, Submission};
use crate::tokens;

/// Choices of all prompts of one request at most.
const CHOICES_MAX: u32 = 128;

/// `POST /v1/completions`
pub(super) async fn completions<B: Backend>(
    State(app): State<App<B>>,
    Extension(id): Extension<RequestId>,
    request: Request<Body>,
) -> Response {
    let work = async {
        let arrived = Arrived::read(request.headers(), id)?;
        let CompletionRequest { common, prompts } = CompletionRequest::parse(&body::read(request, app.options).await?)?;
        let model = app.backend.model(&common.model, arrived.deadline).await?;
        let mut encoded = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            encoded.push(tokens::prompt(&model, prompt).await?);
        }
        Planned::new(Endpoint::Completion, arrived, common, model, encoded)
    };
    answer(&app, work.await).await
}

/// `POST /v1/chat/completions`
pub(super) async fn chat<B: Backend>(
    State(app): State<App<B>>,
    Extension(id): Extension<RequestId>,
    request: Request<Body>,
) -> Response {
    let work = async {
        let arrived = Arrived::read(request.headers(), id)?;
        let ChatRequest { common, messages, mut chat } = ChatRequest::parse(&body::read(request, app.options).await?)?;
        let model = app.backend.model(&common.model, arrived.deadline).await?;
        chat.unix_time_s = unix_time_s();
        let (_, encoded) = tokens::chat(&model, messages, chat).await?;
        Planned::new(Endpoint::Chat, arrived, common, model, vec![encoded])
    };
    answer(&app, work.await).await
}

/// What is to be done for a request that is in order.
struct Planned {
    head: Head,
    stream: bool,
    include_usage: bool,
    choices: u32,
    submissions: Vec<Submission>,
}

impl Planned {
    fn new(
        endpoint: Endpoint,
        arrived: Arrived,
        common: Common,
        model: Arc<ServedModel>,
        prompts: Vec<Vec<u32>>,
    ) -> Result<Self, Failure> {
        let resolved = common.sampling.resolve(model.text.defaults(), model.vocab_size)?;
        let choices = resolved.n * prompts.len() as u32;
        if choices > CHOICES_MAX {
            let message = format!("n times the prompts is {choices}; at most {CHOICES_MAX} are allowed");
            return Err(Failure::invalid("n", message));
        }
        let meta = arrived.meta(&common);
        let head = Head {
            endpoint,
            request_id: meta.request_id.to_string(),
            created: unix_time_s(),
            model: model.info.name.clone(),
            return_token_ids: common.return_token_ids,
            logprobs: resolved.params.logprobs.is_some(),
        };
        let mut submissions = Vec::with_capacity(prompts.len());
        for (index, prompt) in prompts.into_iter().enumerate() {
            let mut context = meta.clone();
            context.request_id = meta::of_prompt(&meta.request_id, index)?;
            submissions.push(Submission {
                model: Arc::clone(&model),
                prompt,
                params: resolved.params.clone(),
                max_tokens: resolved.max_tokens,
                seed: resolved.seed,
                n: resolved.n,
                stop: resolved.stop.clone(),
                context,
            });
        }
        let (stream, include_usage) = (common.stream, common.include_usage);
        Ok(Self { head, stream, include_usage, choices, submissions })
    }
}

/// Submits what is planned. The first event decides the status: until a worker has accepted the request, a failure has
/// its own.
async fn answer<B: Backend>(app: &App<B>, planned: Result<Planned, Failure>) -> Response {
    let planned = match planned {
        Ok(planned) => planned,
        Err(failure) => {
            app.backend.refused(Api::Http, &failure);
            return respond::failure(&failure);
        }
    };
    let mut streams = Streams::submit(&app.backend, planned.submissions);
    let first = match streams.next().await {
        Some(Ok(first)) => first,
        Some(Err(failure)) => return respond::failure(&failure),
        None => return respond::failure(&Failure::internal("the request has no prompt")),
    };
    if planned.stream {
        let chunks = Chunks::new(planned.head, planned.include_usage);
        return events::respond(chunks, first, streams, planned.choices, app.options.keep_alive);
    }
    match collect(Answer::new(planned.head, planned.choices), first, streams).await {
        Ok(text) => respond::json(text),
        Err(failure) => respond::failure(&failure),
    }
}

/// A whole answer's body.
async fn collect(mut answer: Answer, first: Output, mut streams: Streams) -> Result<String, Failure> {
    let mut next = Some(Ok(first));
    while let Some(output) = next {
        match output? {
            Output::Started { .. } => {}
            Output::Delta(delta) => answer.on_delta(delta),
            Output::Finished { choice, reason, .. } => answer.on_finished(choice, reason),
            Output::Usage { usage, .. } => return Ok(answer.body(usage)),
        }
        next = streams.next().await;
    }
    Err(Failure::internal("the answer broke off before its end"))
}
