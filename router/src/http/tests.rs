//! The server against a double: bytes of answers, refusals, cancellation, bounds.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode};
use futures_util::StreamExt;
use hadal_router_core::FinishReason;
use hadal_shell::http::serve;
use hadal_shell::metrics::Metrics;
use hadal_shell::tasks::Tasks;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tower::ServiceExt;

use super::*;
use crate::service::double::{BUFFER, Double, Script, delta, finished, usage};

const BODY_MAX: usize = 1 << 20;
/// For waits that end at once unless something is broken.
const LONG: Duration = Duration::from_secs(20);

fn app(double: &Double) -> Router {
    let status = Status::new(Metrics::new(&[]), || Err("no worker".to_owned()));
    routes(double.clone(), Options::new(BODY_MAX), status)
}

fn post_to(path: &str, body: impl Into<Body>) -> Request<Body> {
    let builder = Request::post(path).header("content-type", "application/json").header("x-request-id", "r1");
    builder.body(body.into()).unwrap()
}

async fn send(double: &Double, request: Request<Body>) -> (Response, String) {
    let response = app(double).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 64 << 20).await.unwrap();
    (Response::from_parts(parts, Body::empty()), String::from_utf8(bytes.to_vec()).unwrap())
}

async fn post(double: &Double, path: &str, body: Value) -> (StatusCode, String) {
    let (response, text) = send(double, post_to(path, body.to_string())).await;
    (response.status(), text)
}

/// `created` is the time, and not of interest.
fn timeless(text: &str) -> String {
    let mut out = String::new();
    for (i, part) in text.split("\"created\":").enumerate() {
        let part = if i == 0 { part } else { part.trim_start_matches(|c: char| c.is_ascii_digit()) };
        out.push_str(part);
    }
    out
}

fn error(text: &str) -> (String, Value, String) {
    let error = serde_json::from_str::<Value>(text).unwrap()["error"].clone();
    let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    assert!(!text("message").is_empty() && !text("type").is_empty());
    (text("code"), error["param"].clone(), text("message"))
}

fn two_words() -> Script {
    let events = [delta(0, "one ", 5), delta(0, "two", 6), finished(0, FinishReason::Stop), usage(3, 2, 1)];
    Script::Events(events.map(Ok).to_vec())
}

#[tokio::test]
async fn a_completion_is_one_object() {
    let double = Double::new(two_words());
    let body = json!({"model": "org/tiny", "prompt": "hi", "return_token_ids": true});
    let (status, text) = post(&double, "/v1/completions", body).await;
    let expected = concat!(
        r#"{"id":"cmpl-r1","object":"text_completion",,"model":"org/tiny","choices":[{"index":0,"text":"one two","#,
        r#""logprobs":null,"finish_reason":"stop","token_ids":[5,6]}],"usage":{"prompt_tokens":3,"completion_tokens":2,"#,
        r#""total_tokens":5,"prompt_tokens_details":{"cached_tokens":1}}}"#,
    );
    assert_eq!((status, timeless(&text).as_str()), (StatusCode::OK, expected));
}

#[tokio::test]
async fn a_chat_stream_names_the_role_first_and_ends_with_usage_and_done() {
    let double = Double::new(two_words());
    let body = json!({"model": "org/tiny", "messages": [{"role": "user", "content": "hi"}], "stream": true,
        "stream_options": {"include_usage": true}});
    let (response, text) = send(&double, post_to("/v1/chat/completions", body.to_string())).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(response.headers()["x-request-id"], "r1");
    let start = r#"data: {"id":"chatcmpl-r1","object":"chat.completion.chunk",,"model":"org/tiny","choices":["#;
    let piece = |delta: &str, reason: &str| {
        format!(r#"{start}{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}}}],"usage":null}}"#)
            + "\n\n"
    };
    let used =
        r#"{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":1}}"#;
    let expected = [
        piece(r#"{"role":"assistant","content":""}"#, "null"),
        piece(r#"{"content":"one "}"#, "null"),
        piece(r#"{"content":"two"}"#, "null"),
        piece("{}", r#""stop""#),
        format!("{start}],\"usage\":{used}}}\n\n"),
        "data: [DONE]\n\n".to_owned(),
    ];
    assert_eq!(timeless(&text), expected.concat());
    // The template's own beginning-of-sequence token, once.
    assert_eq!(double.submission().prompt, [0, 500, 74, 75, 501, 496]);
}

#[tokio::test]
async fn several_prompts_are_numbered_through_and_their_usage_is_added() {
    let events = [
        delta(1, "b", 6),
        delta(0, "a", 5),
        finished(0, FinishReason::Stop),
        finished(1, FinishReason::Length),
        usage(3, 2, 1),
    ];
    let double = Double::new(Script::Events(events.map(Ok).to_vec()));
    let body = json!({"model": "org/tiny", "prompt": [[7], [8, 9]], "n": 2});
    let (_, text) = post(&double, "/v1/completions", body).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    let texts: Vec<_> = answer["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["a", "b", "a", "b"]);
    assert_eq!(answer["choices"][3]["index"], 3);
    assert_eq!(answer["usage"]["completion_tokens"], 4);
    let submissions = double.submissions.lock().unwrap();
    let mut prompts: Vec<_> =
        submissions.iter().map(|s| (s.context.request_id.to_string(), s.prompt.clone())).collect();
    prompts.sort();
    assert_eq!(prompts, [("r1".to_owned(), vec![7]), ("r1.1".to_owned(), vec![8, 9])]);
}

#[tokio::test]
async fn what_headers_and_body_say_reaches_the_dispatch() {
    let double = Double::new(two_words());
    let body = json!({"model": "org/tiny", "prompt": "hi", "max_tokens": 4, "stop": ["x"], "seed": 9, "n": 2,
        "cache_salt": "s", "priority": 3, "prompt_cache_key": "k", "temperature": 0});
    let request = Request::post("/v1/completions")
        .header("x-tenant", "acme")
        .header("x-hadal-timeout-ms", "60000")
        .header("traceparent", "00-a-b-01")
        .body(Body::from(body.to_string()))
        .unwrap();
    let before = Instant::now();
    let (response, _) = send(&double, request).await;
    assert_eq!(response.status(), StatusCode::OK);
    let submission = double.submission();
    assert_eq!(submission.prompt[0], 0, "a raw prompt gets the beginning-of-sequence token");
    assert_eq!((submission.max_tokens, submission.seed, submission.n), (Some(4), Some(9), 2));
    assert_eq!((submission.params.temperature, submission.params.top_p), (0.0, 0.95));
    assert_eq!(submission.params.stop_token_ids, [1]);
    let context = submission.context;
    assert_eq!(context.salt, crate::salt("acme", "s"));
    assert_eq!((context.priority, context.session.as_str(), context.traceparent.as_str()), (3, "k", "00-a-b-01"));
    assert!(context.deadline.unwrap() >= before + Duration::from_secs(60));
    assert_eq!(response.headers()["x-request-id"], context.request_id.as_str());
}

#[tokio::test]
async fn a_failure_before_the_answer_has_its_own_status() {
    let failure = Failure::new(FailureKind::Overloaded, "the queue is full").with_retry_after(Duration::from_secs(7));
    for stream in [false, true] {
        let double = Double::new(Script::Refuse(failure.clone()));
        let body = json!({"model": "org/tiny", "prompt": "hi", "stream": stream}).to_string();
        let (response, text) = send(&double, post_to("/v1/completions", body)).await;
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()["retry-after"], "7");
        assert_eq!(error(&text), ("overloaded".into(), Value::Null, "the queue is full".into()));
    }
}

#[tokio::test]
async fn a_failure_inside_a_stream_is_its_last_event() {
    let events = vec![Ok(delta(0, "one", 5)), Err(Failure::internal("worker lost"))];
    let double = Double::new(Script::Events(events));
    let body = json!({"model": "org/tiny", "prompt": "hi", "stream": true});
    let (status, text) = post(&double, "/v1/completions", body.clone()).await;
    assert_eq!(status, StatusCode::OK);
    let last = r#"data: {"error":{"message":"worker lost","type":"server_error","param":null,"code":"internal"}}"#;
    assert!(text.ends_with(&format!("{last}\n\n")) && !text.contains("[DONE]"), "{text}");

    // An answer that only stops is no whole one either.
    let double = Double::new(Script::Events(vec![Ok(delta(0, "one", 5))]));
    let (_, text) = post(&double, "/v1/completions", body).await;
    assert!(text.contains("broke off") && !text.contains("[DONE]"), "{text}");
    let (status, _) = post(&double, "/v1/completions", json!({"model": "org/tiny", "prompt": "hi"})).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn bad_requests_are_named_and_never_submitted() {
    let double = Double::new(two_words());
    let cases = [
        ("/v1/completions", "{\"model\": ", 400, "invalid_value", Value::Null),
        ("/v1/completions", "", 400, "invalid_value", Value::Null),
        ("/v1/completions", r#"{"model": "org/tiny", "prompt": ""}"#, 400, "invalid_value", json!("prompt")),
        (
            "/v1/completions",
            r#"{"model": "org/tiny", "prompt": "a", "top_p": 0}"#,
            400,
            "invalid_value",
            json!("top_p"),
        ),
        ("/v1/completions", r#"{"model": "no", "prompt": "a"}"#, 404, "model_not_found", json!("model")),
        (
            "/v1/completions",
            r#"{"model": "org/tiny", "prompt": "a", "best_of": 2}"#,
            400,
            "unsupported_parameter",
            json!("best_of"),
        ),
        ("/v1/chat/completions", r#"{"model": "org/tiny", "messages": []}"#, 400, "invalid_value", json!("messages")),
        ("/v1/nothing", "{}", 404, "unknown_url", Value::Null),
        ("/v1/models", "{}", 405, "method_not_allowed", Value::Null),
        ("/metrics", "{}", 405, "method_not_allowed", Value::Null),
    ];
    for (path, body, status, code, param) in cases {
        let (response, text) = send(&double, post_to(path, body)).await;
        let (got, at, _) = error(&text);
        assert_eq!((response.status().as_u16(), got.as_str(), at), (status, code, param), "{path} {body}");
        assert_eq!(response.headers()["x-request-id"], "r1");
    }
    assert!(double.submissions.lock().unwrap().is_empty());
    assert_eq!(double.refused.lock().unwrap().len(), 7);
}

#[tokio::test]
async fn headers_that_are_no_use_are_named() {
    let double = Double::new(two_words());
    let cases = [
        ("x-request-id", "a b", 400, json!("x-request-id")),
        ("x-hadal-timeout-ms", "soon", 400, json!("x-hadal-timeout-ms")),
        ("x-hadal-timeout-ms", "0", 400, json!("x-hadal-timeout-ms")),
        ("content-type", "text/plain", 415, Value::Null),
        ("content-encoding", "gzip", 415, Value::Null),
    ];
    for (name, value, status, param) in cases {
        let body = json!({"model": "org/tiny", "prompt": "hi"}).to_string();
        let request = Request::post("/v1/completions").header(name, value).body(Body::from(body)).unwrap();
        let (response, text) = send(&double, request).await;
        assert_eq!((response.status().as_u16(), error(&text).1), (status, param), "{name}: {value}");
    }
}

#[tokio::test]
async fn a_body_that_curl_declares_as_a_form_is_read_unless_a_web_page_sends_it() {
    let double = Double::new(two_words());
    for (kind, origin, status) in [
        (Some("application/x-www-form-urlencoded"), None, 200),
        (None, None, 200),
        (Some("application/x-www-form-urlencoded"), Some("https://example.org"), 415),
        (None, Some("https://example.org"), 415),
        (Some("application/json"), Some("https://example.org"), 200),
    ] {
        let headers = [("content-type", kind), ("origin", origin)].into_iter().filter_map(|(k, v)| Some((k, v?)));
        let request = headers.fold(Request::post("/v1/completions"), |request, (k, v)| request.header(k, v));
        let body = json!({"model": "org/tiny", "prompt": "hi"}).to_string();
        let (response, _) = send(&double, request.body(Body::from(body)).unwrap()).await;
        assert_eq!(response.status().as_u16(), status, "{kind:?} {origin:?}");
    }
}

#[tokio::test]
async fn prompts_that_cannot_fit_are_refused_before_they_are_tokenised() {
    let double = Double::new(two_words());
    let body = json!({"model": "org/tiny", "prompt": "a".repeat(100_000)});
    let (status, text) = post(&double, "/v1/completions", body).await;
    let (code, param, message) = error(&text);
    assert_eq!((status.as_u16(), code.as_str(), param), (400, "context_length_exceeded", json!("prompt")));
    assert!(message.contains("context is 64 tokens"), "{message}");
}

#[tokio::test]
async fn a_body_of_ten_megabytes_gets_a_clear_answer() {
    let double = Double::new(two_words());
    let chunks =
        futures_util::stream::iter((0..160).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 64 << 10]))));
    let (response, text) = send(&double, post_to("/v1/completions", Body::from_stream(chunks))).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let (code, _, message) = error(&text);
    assert!(code == "body_too_large" && message.contains("1048576 bytes"), "{message}");
}

#[tokio::test]
async fn a_client_that_asks_before_it_sends_is_answered_without_its_body() {
    let double = Double::new(two_words());
    let request = Request::post("/v1/completions")
        .header("expect", "100-continue")
        .header("content-length", "10000000")
        .body(Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>()))
        .unwrap();
    let (response, _) = timeout(LONG, send(&double, request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn models_are_listed_and_found_by_name() {
    let double = Double::new(two_words());
    let get = |path: &str| Request::get(path).body(Body::empty()).unwrap();
    let (_, text) = send(&double, get("/v1/models")).await;
    let expected = concat!(
        r#"{"id":"org/tiny","object":"model","created":7,"owned_by":"hadal","max_model_len":64,"#,
        r#""architecture":"deepseek_v32","fingerprint":"01010101010101010101010101010101"}"#,
    );
    assert_eq!(text, format!(r#"{{"object":"list","data":[{expected}]}}"#));
    assert_eq!(send(&double, get("/v1/models/org/tiny")).await.1, expected);
    let (response, text) = send(&double, get("/v1/models/other")).await;
    assert_eq!((response.status().as_u16(), error(&text).0.as_str()), (404, "model_not_found"));
}

#[tokio::test]
async fn tokens_of_texts_and_conversations() {
    let double = Double::new(two_words());
    let tokens = async |body: Value| {
        let (_, text) = post(&double, "/tokenize", body).await;
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let prompt = tokens(json!({"model": "org/tiny", "prompt": "hi"})).await;
    assert_eq!((&prompt["tokens"], &prompt["count"]), (&json!([0, 74, 75]), &json!(3)));
    assert_eq!(prompt["token_strs"][1], "h");
    let plain = tokens(json!({"model": "org/tiny", "prompt": "hi", "add_special_tokens": false})).await;
    assert_eq!(plain["tokens"], json!([74, 75]));
    let chat = tokens(json!({"model": "org/tiny", "messages": [{"role": "user", "content": "hi"}]})).await;
    assert_eq!(chat["tokens"], json!([0, 500, 74, 75, 501, 496]));
}

#[tokio::test]
async fn operators_see_health_readiness_and_metrics() {
    let double = Double::new(two_words());
    let status = async |path: &str| send(&double, Request::get(path).body(Body::empty()).unwrap()).await;
    assert_eq!(status("/health").await.0.status(), StatusCode::OK);
    let (response, text) = status("/ready").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.contains("no worker"));
    assert_eq!(status("/metrics").await.0.status(), StatusCode::OK);
}

const ENDLESS: &str = r#"{"model": "org/tiny", "prompt": "hi", "stream": true}"#;

#[tokio::test]
async fn a_slow_reader_stops_the_answer_and_not_the_memory() {
    let double = Double::new(Script::Endless);
    let response = app(&double).oneshot(post_to("/v1/completions", ENDLESS)).await.unwrap();
    let mut body = response.into_body().into_data_stream();
    for read in 1..=20 {
        body.next().await.unwrap().unwrap();
        // One thread runs all tasks, so after this the sender has gone as far as it can.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let ahead = double.sent.load(Ordering::SeqCst) - read;
        assert!(ahead <= BUFFER + 2, "{ahead} events ahead");
    }
}

#[tokio::test]
async fn comments_fill_a_long_wait() {
    let double = Double::new(Script::Silent);
    let status = Status::new(Metrics::new(&[]), || Ok(()));
    let options = Options { keep_alive: Duration::from_millis(1), ..Options::new(BODY_MAX) };
    let response = routes(double, options, status).oneshot(post_to("/v1/completions", ENDLESS)).await.unwrap();
    let mut body = response.into_body().into_data_stream();
    for _ in 0..3 {
        let piece = timeout(LONG, body.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(&piece[..], b": waiting\n\n");
    }
}

#[tokio::test]
async fn an_answer_that_is_dropped_is_cancelled() {
    let double = Double::new(Script::Endless);
    let mut cancelled = double.cancelled.subscribe();
    let response = app(&double).oneshot(post_to("/v1/completions", ENDLESS)).await.unwrap();
    drop(response);
    timeout(LONG, cancelled.wait_for(|n| *n == 1)).await.unwrap().unwrap();
}

async fn listen(double: &Double, tasks: &Tasks) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    serve(tasks, listener, app(double));
    address
}

async fn request_over(address: std::net::SocketAddr, body: &str) -> TcpStream {
    let mut client = TcpStream::connect(address).await.unwrap();
    let head = format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    client.write_all((head + body).as_bytes()).await.unwrap();
    client
}

#[tokio::test]
async fn a_client_that_disappears_cancels_its_request_streaming_or_not() {
    let double = Double::new(Script::Endless);
    let tasks = Tasks::new();
    let address = listen(&double, &tasks).await;
    let mut cancelled = double.cancelled.subscribe();

    let mut client = request_over(address, ENDLESS).await;
    let mut some = [0; 256];
    timeout(LONG, client.read_exact(&mut some)).await.unwrap().unwrap();
    assert!(some.starts_with(b"HTTP/1.1 200 OK"));
    drop(client);
    timeout(LONG, cancelled.wait_for(|n| *n == 1)).await.unwrap().unwrap();

    let client = request_over(address, r#"{"model": "org/tiny", "prompt": "hi"}"#).await;
    while double.submissions.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    drop(client);
    timeout(LONG, cancelled.wait_for(|n| *n == 2)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_drain_lets_running_answers_end() {
    // More than the sockets hold, so that the answer is under way when the drain begins.
    let words = (0..60_000).map(|i| Ok(delta(0, "word ", i)));
    let end = [finished(0, FinishReason::Length), usage(3, 60_000, 0)].map(Ok);
    let double = Double::new(Script::Events(words.chain(end).collect()));
    let tasks = Tasks::new();
    let address = listen(&double, &tasks).await;
    let mut client = request_over(address, ENDLESS).await;
    let mut first = [0; 1];
    timeout(LONG, client.read_exact(&mut first)).await.unwrap().unwrap();
    tasks.drain();
    let mut rest = String::new();
    timeout(LONG, client.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest.matches("\"word \"").count(), 60_000);
    assert!(rest.contains("data: [DONE]"));
    tasks.join(LONG).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
