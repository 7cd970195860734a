//! The gRPC server: `hadal.v1`, health and reflection.
//!
//! Metadata read: `x-request-id` (when the request has no id), `x-tenant`, `traceparent`; the deadline is gRPC's own.
//! Streams answer at once with their headers; a failure is the status at the end of the stream. A client that goes away
//! drops its stream, and that cancels the request.

mod meta;
mod outputs;
mod read;
mod status;

use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use hadal_proto::v1::{self, hadal_server};
use hadal_router_core::Failure;
use tonic::service::Routes;
use tonic::{Request, Response};
use tonic_health::server::HealthReporter;

use crate::grpc::meta::Arrived;
use crate::grpc::read::{Answered, Sampled};
use crate::service::{Api, Backend, Output, Readiness};
use crate::tokens;

/// The service's full name, for health and reflection.
const SERVICE: &str = "hadal.v1.Hadal";

/// `hadal.v1` over a backend.
struct Server<B> {
    backend: B,
}

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, tonic::Status>> + Send>>;

/// All services, and what tells clients of their health.
///
/// # Errors
/// When the descriptors that were compiled in cannot be read.
pub(crate) fn routes<B: Backend>(
    backend: B,
    request_bytes_max: usize,
) -> Result<(Routes, HealthReporter), tonic_reflection::server::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(hadal_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(SERVICE)
            .with_service_name("grpc.health.v1.Health")
    };
    let hadal = hadal_server::HadalServer::new(Server { backend }).max_decoding_message_size(request_bytes_max);
    let routes = Routes::new(hadal)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok((routes, health))
}

/// Says whether requests can be answered now.
pub(crate) async fn tell_health(health: &HealthReporter, readiness: &Readiness) {
    use tonic_health::ServingStatus::{NotServing, Serving};
    let status = if *readiness == Readiness::Ready { Serving } else { NotServing };
    health.set_service_status(SERVICE, status).await;
    health.set_service_status("", status).await;
}

/// Ends the streams of clients that watch health.
pub(crate) async fn end_health(health: &mut HealthReporter) {
    for service in [SERVICE, ""] {
        health.clear_service_status(service).await;
    }
}

#[tonic::async_trait]
impl<B: Backend> hadal_server::Hadal for Server<B> {
    type GenerateStream = Events<v1::GenerateResponse>;
    type ChatStream = Events<v1::ChatResponse>;

    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, tonic::Status> {
        let (backend, arrived) = (self.backend.clone(), Arrived::read(request.metadata()));
        let message = request.into_inner();
        let work = async move {
            let arrived = arrived?;
            let prompt = read::prompt(message.prompt)?;
            let sampled = Sampled::read(message.sampling, message.options);
            let model = backend.model(&message.model, arrived.deadline).await?;
            let tokens = tokens::prompt(&model, prompt).await?;
            Ok(Answered { submission: sampled.submission(arrived, &model, tokens)?, model })
        };
        let answer = answer(self.backend.clone(), work);
        Ok(Response::new(Box::pin(answer.map(|event| event.map(outputs::generated)))))
    }

    async fn chat(&self, request: Request<v1::ChatRequest>) -> Result<Response<Self::ChatStream>, tonic::Status> {
        let (backend, arrived) = (self.backend.clone(), Arrived::read(request.metadata()));
        let message = request.into_inner();
        let work = async move {
            let arrived = arrived?;
            let (messages, options) = read::conversation(message.messages, message.thinking)?;
            let sampled = Sampled::read(message.sampling, message.options);
            let model = backend.model(&message.model, arrived.deadline).await?;
            let (_, tokens) = tokens::chat(&model, messages, options).await?;
            Ok(Answered { submission: sampled.submission(arrived, &model, tokens)?, model })
        };
        let answer = answer(self.backend.clone(), work);
        Ok(Response::new(Box::pin(answer.map(|event| event.map(outputs::chatted)))))
    }

    async fn tokenize(
        &self,
        request: Request<v1::TokenizeRequest>,
    ) -> Result<Response<v1::TokenizeResponse>, tonic::Status> {
        let arrived = Arrived::read(request.metadata());
        let told = self.tokenized(arrived, request.into_inner()).await;
        told.map(Response::new).map_err(|failure| {
            self.backend.refused(Api::Grpc, &failure);
            status::of(&failure)
        })
    }

    async fn models(&self, _: Request<v1::ModelsRequest>) -> Result<Response<v1::ModelsResponse>, tonic::Status> {
        let models = self.backend.models().into_iter().map(outputs::model).collect();
        Ok(Response::new(v1::ModelsResponse { models }))
    }
}

impl<B: Backend> Server<B> {
    async fn tokenized(
        &self,
        arrived: Result<Arrived, Failure>,
        message: v1::TokenizeRequest,
    ) -> Result<v1::TokenizeResponse, Failure> {
        use v1::tokenize_request::Input;
        let arrived = arrived?;
        let input = message.input.ok_or_else(|| Failure::invalid("input", "give a text or a conversation"))?;
        let model = self.backend.model(&message.model, arrived.deadline).await?;
        let (text, token_ids) = match input {
            Input::Text(text) => {
                let tokens = tokens::prompt(&model, text.clone().into()).await?;
                (text, tokens)
            }
            Input::Conversation(conversation) => {
                let (messages, options) = read::conversation(conversation.messages, conversation.thinking)?;
                tokens::chat(&model, messages, options).await?
            }
        };
        let tokens = token_ids.iter().map(|&token| model.text.vocabulary().text(token)).collect();
        Ok(v1::TokenizeResponse { token_ids, tokens, text })
    }
}

/// Submits what `work` makes of a request, and gives its events, with the name under which the model was asked for.
fn answer<B: Backend>(
    backend: B,
    work: impl Future<Output = Result<Answered, Failure>> + Send + 'static,
) -> impl Stream<Item = Result<(String, Output), tonic::Status>> + Send {
    let begun = async move {
        let answered = work.await.inspect_err(|failure| backend.refused(Api::Grpc, failure))?;
        let outputs = backend.submit(answered.submission).await?;
        let name = answered.model.info.name.clone();
        Ok::<_, Failure>(complete(outputs).map(move |event| event.map(|output| (name.clone(), output))))
    };
    stream::once(begun).flat_map(|begun| match begun {
        Ok(outputs) => outputs.map(|event| event.map_err(|failure| status::of(&failure))).boxed(),
        Err(failure) => stream::once(async move { Err(status::of(&failure)) }).boxed(),
    })
}

/// The same events; a stream that ends without its usage has broken off, and says so.
fn complete(
    outputs: impl Stream<Item = Result<Output, Failure>> + Send,
) -> impl Stream<Item = Result<Output, Failure>> + Send {
    let last = |event: &Result<Output, Failure>| matches!(event, Err(_) | Ok(Output::Usage { .. }));
    let broken = || Err(Failure::internal("the answer broke off before its end"));
    outputs.map(Some).chain(stream::once(async { None })).scan(false, move |ended, event| {
        let next = match event {
            _ if *ended => None,
            Some(event) => {
                *ended = last(&event);
                Some(event)
            }
            None => Some(broken()),
        };
        std::future::ready(next)
    })
}

#[cfg(test)]
mod tests;
