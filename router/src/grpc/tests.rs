//! The service over loopback, against a double: events, refusals as statuses, cancellation, health, reflection.

use std::time::Duration;

use hadal_proto::v1::generate_response::Event;
use hadal_proto::v1::hadal_client::HadalClient;
use hadal_proto::v1::{self, generate_request::Prompt};
use hadal_router_core::{FailureKind, FinishReason, Logprob, TokenLogprobs};
use hadal_types::Attention;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::service::double::{Double, Script, delta, finished, usage};

/// For waits that end at once unless something is broken.
const LONG: Duration = Duration::from_secs(30);
const BYTES_MAX: usize = 100_000;

async fn serve(double: &Double) -> (Channel, HealthReporter) {
    let (routes, health) = routes(double.clone(), BYTES_MAX).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = hadal_shell::grpc::channel(&listener.local_addr().unwrap().to_string(), None).unwrap();
    tokio::spawn(hadal_shell::grpc::serve(listener, None, routes, CancellationToken::new()));
    (channel, health)
}

async fn client(double: &Double) -> HadalClient<Channel> {
    HadalClient::new(serve(double).await.0)
}

fn generate(prompt: &str) -> v1::GenerateRequest {
    v1::GenerateRequest { model: "org/tiny".into(), prompt: Some(Prompt::Text(prompt.into())), ..Default::default() }
}

/// All events of a call, or its status.
async fn events(
    client: &mut HadalClient<Channel>,
    request: impl tonic::IntoRequest<v1::GenerateRequest>,
) -> Result<Vec<Event>, tonic::Status> {
    let mut stream = client.generate(request).await?.into_inner();
    let mut events = Vec::new();
    while let Some(message) = timeout(LONG, stream.message()).await.unwrap()? {
        events.push(message.event.unwrap());
    }
    Ok(events)
}

async fn refusal(request: v1::GenerateRequest) -> tonic::Status {
    let double = Double::new(Script::Endless);
    let status = events(&mut client(&double).await, request).await.unwrap_err();
    assert!(double.submissions.lock().unwrap().is_empty());
    assert_eq!(double.refused.lock().unwrap().len(), 1);
    status
}

fn two_words() -> Script {
    let events = [delta(0, "one ", 5), delta(0, "two", 6), finished(0, FinishReason::Stop), usage(3, 2, 1)];
    Script::Events(events.map(Ok).to_vec())
}

#[tokio::test]
async fn an_answer_is_started_deltas_finished_and_usage() {
    let double = Double::new(two_words());
    let request = v1::GenerateRequest {
        options: Some(v1::RequestOptions { request_id: "r1".into(), ..Default::default() }),
        ..generate("hi")
    };
    let events = events(&mut client(&double).await, request).await.unwrap();
    let started = v1::Started { request_id: "r1".into(), model: "org/tiny".into(), prompt_tokens: 3 };
    assert_eq!(events[0], Event::Started(started));
    let text: String =
        events.iter().filter_map(|e| if let Event::Delta(d) = e { Some(d.text.as_str()) } else { None }).collect();
    assert_eq!(text, "one two");
    let end = v1::Finished { choice: 0, reason: v1::FinishReason::Stop.into(), stop: String::new() };
    assert_eq!(events[3], Event::Finished(end));
    let Event::Usage(used) = &events[4] else { panic!("usage is the last") };
    assert_eq!((used.prompt_tokens, used.completion_tokens, used.cached_prompt_tokens), (3, 2, 1));
    assert_eq!(events.len(), 5);
}

#[tokio::test]
async fn what_metadata_and_message_say_reaches_the_dispatch() {
    let double = Double::new(two_words());
    let sampling = v1::SamplingOptions {
        max_tokens: Some(4),
        temperature: Some(0.0),
        seed: Some(9),
        stop: vec!["x".into()],
        n: Some(2),
        logit_bias: [(7, 1.5)].into(),
        logprobs: Some(0),
        choice_overlap: true,
        ..Default::default()
    };
    let options = v1::RequestOptions {
        cache_salt: "s".into(),
        priority: 3,
        session: "k".into(),
        tenant: "claimed".into(),
        attention: v1::Attention::Dense.into(),
        ..Default::default()
    };
    let message = v1::GenerateRequest {
        prompt: Some(Prompt::TokenIds(v1::TokenIds { ids: vec![7, 8] })),
        sampling: Some(sampling),
        options: Some(options),
        ..generate("")
    };
    let mut request = tonic::Request::new(message);
    for (name, value) in [("x-request-id", "r9"), ("x-tenant", "t"), ("traceparent", "00-trace")] {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    request.set_timeout(Duration::from_secs(1000));
    events(&mut client(&double).await, request).await.unwrap();
    let submission = double.submission();
    let context = &submission.context;
    assert_eq!((context.request_id.as_str(), context.tenant.as_str()), ("r9", "t"));
    assert_eq!((context.priority, context.session.as_str(), context.traceparent.as_str()), (3, "k", "00-trace"));
    assert_eq!((context.api, &context.salt), (Api::Grpc, &crate::salt("t", "s")));
    assert_eq!((context.attention, submission.params.choice_overlap), (Attention::Dense, true));
    assert!(context.deadline.is_some());
    assert_eq!(submission.prompt, [7, 8]);
    assert_eq!((submission.n, submission.max_tokens, submission.seed), (2, Some(4), Some(9)));
    assert_eq!((submission.params.temperature, &submission.params.logit_bias), (0.0, &vec![(7, 1.5)]));
    assert_eq!(submission.stop, ["x"]);
}

#[tokio::test]
async fn forced_tokens_reach_the_dispatch_and_what_a_row_chose_the_client() {
    let mut scored = delta(0, "one", 5);
    let Output::Delta(text) = &mut scored else { unreachable!() };
    let token = Logprob { token_id: 5, logprob: -0.5, bytes: b"one".to_vec() };
    text.logprobs.push(TokenLogprobs { token, top: Vec::new(), text_offset: 0, choice_overlap: Some(0.75) });
    let double =
        Double::new(Script::Events([scored, finished(0, FinishReason::Stop), usage(3, 1, 0)].map(Ok).to_vec()));
    let sampling = v1::SamplingOptions { forced_tokens: vec![5, 5, 6], ..Default::default() };
    let request = v1::GenerateRequest { sampling: Some(sampling), ..generate("hi") };
    let events = events(&mut client(&double).await, request).await.unwrap();
    let submission = double.submission();
    assert_eq!(submission.params.forced, [5, 5, 6]);
    assert_eq!((submission.context.attention, submission.params.choice_overlap), (Attention::Sparse, false));
    let Event::Delta(told) = &events[1] else { panic!("a delta follows the start") };
    assert_eq!(told.logprobs[0].choice_overlap, Some(0.75));
}

#[tokio::test]
async fn a_conversation_is_rendered_by_the_template() {
    let double = Double::new(two_words());
    let message = v1::Message { role: "user".into(), content: "hi".into() };
    let request = v1::ChatRequest { model: "org/tiny".into(), messages: vec![message], ..Default::default() };
    let mut stream = client(&double).await.chat(request).await.unwrap().into_inner();
    let mut events = 0;
    while let Some(message) = timeout(LONG, stream.message()).await.unwrap().unwrap() {
        assert!(message.event.is_some());
        events += 1;
    }
    assert_eq!(events, 5);
    // The template's own beginning-of-sequence token, once.
    assert_eq!(double.submission().prompt, [0, 500, 74, 75, 501, 496]);
}

#[tokio::test]
async fn requests_out_of_order_are_refused_with_the_field() {
    let sampling = v1::SamplingOptions { temperature: Some(-1.0), ..Default::default() };
    let options = v1::RequestOptions { request_id: "a b".into(), ..Default::default() };
    let attention = v1::RequestOptions { attention: 2, ..Default::default() };
    let cases = [
        (v1::GenerateRequest { prompt: None, ..generate("") }, Code::InvalidArgument, "prompt"),
        (v1::GenerateRequest { sampling: Some(sampling), ..generate("hi") }, Code::InvalidArgument, "temperature"),
        (v1::GenerateRequest { options: Some(options), ..generate("hi") }, Code::InvalidArgument, "request_id"),
        (v1::GenerateRequest { options: Some(attention), ..generate("hi") }, Code::InvalidArgument, "attention"),
        (v1::GenerateRequest { model: "none".into(), ..generate("hi") }, Code::NotFound, "model"),
        (generate(&"word ".repeat(10_000)), Code::InvalidArgument, "prompt"),
    ];
    for (request, code, param) in cases {
        let status = refusal(request).await;
        assert_eq!((status.code(), status.metadata().get("hadal-param").unwrap().to_str().unwrap()), (code, param));
    }
}

#[tokio::test]
async fn a_message_over_the_bound_is_refused_and_the_next_one_is_served() {
    let double = Double::new(two_words());
    let mut client = client(&double).await;
    let status = events(&mut client, generate(&"x".repeat(BYTES_MAX))).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    events(&mut client, generate("hi")).await.unwrap();
}

#[tokio::test]
async fn failures_are_statuses_before_and_after_the_first_token() {
    let failure = Failure::new(FailureKind::Overloaded, "full").with_retry_after(Duration::from_millis(700));
    let late = Script::Events(vec![Ok(delta(0, "one", 5)), Err(failure.clone())]);
    for script in [Script::Refuse(failure), late] {
        let status = events(&mut client(&Double::new(script)).await, generate("hi")).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "full"));
        assert_eq!(status.metadata().get("retry-after-ms").unwrap(), "700");
    }
}

#[tokio::test]
async fn a_stream_without_its_end_has_broken_off() {
    let double = Double::new(Script::Events(vec![Ok(delta(0, "one", 5))]));
    let status = events(&mut client(&double).await, generate("hi")).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
}

#[tokio::test]
async fn a_dropped_call_cancels_the_request() {
    let double = Double::new(Script::Endless);
    let mut cancelled = double.cancelled.subscribe();
    let mut stream = client(&double).await.generate(generate("hi")).await.unwrap().into_inner();
    timeout(LONG, stream.message()).await.unwrap().unwrap();
    drop(stream);
    timeout(LONG, cancelled.wait_for(|&count| count == 1)).await.unwrap().unwrap();
}

#[tokio::test]
async fn texts_and_conversations_are_tokenised() {
    use v1::tokenize_request::Input;
    let double = Double::new(two_words());
    let mut client = client(&double).await;
    let mut tokenize = async |input| {
        let request = v1::TokenizeRequest { model: "org/tiny".into(), input };
        client.tokenize(request).await
    };
    let text = tokenize(Some(Input::Text("hi".into()))).await.unwrap().into_inner();
    assert_eq!((text.text.as_str(), text.tokens.concat().ends_with("hi")), ("hi", true));
    let message = v1::Message { role: "user".into(), content: "hi".into() };
    let conversation = v1::Conversation { messages: vec![message], thinking: false };
    let chat = tokenize(Some(Input::Conversation(conversation))).await.unwrap().into_inner();
    assert_eq!(chat.token_ids, [0, 500, 74, 75, 501, 496]);
    assert_eq!(chat.tokens.concat(), chat.text);
    assert_eq!(tokenize(None).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn models_are_listed() {
    let models = client(&Double::new(two_words())).await.models(v1::ModelsRequest {}).await.unwrap().into_inner();
    let model = &models.models[0];
    assert_eq!((model.name.as_str(), model.context_tokens, model.workers), ("org/tiny", 64, 1));
    assert_eq!(model.fingerprint, "01".repeat(16));
}

#[tokio::test]
async fn health_follows_readiness_and_its_watchers_end() {
    let (channel, mut reporter) = serve(&Double::new(two_words())).await;
    let mut health = HealthClient::new(channel);
    let request = |service: &str| tonic_health::pb::HealthCheckRequest { service: service.into() };
    tell_health(&reporter, &Readiness::Ready).await;
    for service in [SERVICE, ""] {
        let status = health.check(request(service)).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving);
    }
    let mut watch = health.watch(request(SERVICE)).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    tell_health(&reporter, &Readiness::Draining).await;
    assert_eq!(timeout(LONG, watch.message()).await.unwrap().unwrap().unwrap().status(), ServingStatus::NotServing);
    end_health(&mut reporter).await;
    assert!(timeout(LONG, watch.message()).await.unwrap().unwrap().is_none());
}

#[tokio::test]
async fn reflection_shows_the_public_service_and_no_other() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let (channel, _) = serve(&Double::new(two_words())).await;
    let mut client = ServerReflectionClient::new(channel);
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let requests = stream::iter([ServerReflectionRequest { host: String::new(), message_request }]);
    let answer = client.server_reflection_info(requests).await.unwrap().into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("no list") };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["grpc.health.v1.Health", SERVICE]);
}
