//! Requests as clients send them, refusals by name, and answers byte by byte.

use serde_json::json;

use super::*;
use crate::choice::{FinishReason, Logprob, TextDelta, TokenLogprobs, Usage};
use crate::failure::{Failure, FailureKind};
use crate::template::ChatMessage;

fn completion(body: serde_json::Value) -> Result<CompletionRequest, Failure> {
    CompletionRequest::parse(body.to_string().as_bytes())
}

fn chat(body: serde_json::Value) -> Result<ChatRequest, Failure> {
    ChatRequest::parse(body.to_string().as_bytes())
}

#[test]
fn a_prompt_is_text_or_tokens_or_several() {
    let prompts = |p: serde_json::Value| completion(json!({"model": "m", "prompt": p})).unwrap().prompts;
    let text = |s: &str| Prompt::Text(s.into());
    assert_eq!(prompts(json!("a")), [text("a")]);
    assert_eq!(prompts(json!(["a", "b"])), [text("a"), text("b")]);
    assert_eq!(prompts(json!([1, 2])), [Prompt::Tokens(vec![1, 2])]);
    assert_eq!(prompts(json!([[1], [2, 3]])), [Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]);
}

#[test]
fn prompts_that_are_none_are_refused() {
    let no =
        [json!(""), json!([]), json!([[]]), json!(["a", ""]), json!(1), json!([1, "a"]), json!([-1]), json!([1.5])];
    for prompt in
        no.into_iter().chain([json!([4294967296u64]), json!({"a": 1}), json!(null), json!([true]), json!([["a"]])])
    {
        let failure = completion(json!({"model": "m", "prompt": prompt})).unwrap_err();
        assert_eq!(failure.param.as_deref(), Some("prompt"), "{prompt}: {failure}");
        assert!(failure.message.starts_with("prompt "), "{failure}");
    }
}

#[test]
fn everything_that_clients_set_is_read() {
    let request = completion(json!({
        "model": "m", "prompt": "p", "max_tokens": 5, "temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "seed": -1,
        "stop": "x", "logprobs": 2, "n": 2, "stream": true, "stream_options": {"include_usage": true, "x": 1},
        "ignore_eos": true, "return_token_ids": true, "presence_penalty": 1, "frequency_penalty": -1.5,
        "repetition_penalty": 1.1, "logit_bias": {"7": -100}, "min_tokens": 2, "stop_token_ids": [4], "cache_salt": "s",
        "priority": -2, "prompt_cache_key": "k", "user": "ignored", "best_of": 1, "echo": false, "suffix": null,
    }))
    .unwrap();
    let common = request.common;
    assert!(common.stream && common.include_usage && common.return_token_ids && common.sampling.ignore_eos);
    assert_eq!((common.cache_salt.as_str(), common.priority, common.session.as_str()), ("s", -2, "k"));
    let sampling = common.sampling;
    assert_eq!((sampling.max_tokens, sampling.temperature, sampling.seed), (Some(5), Some(0.0), Some(u64::MAX)));
    assert_eq!((sampling.top_k, sampling.logprobs, sampling.n), (Some(3), Some(2), Some(2)));
    assert_eq!((sampling.stop, sampling.logit_bias), (vec!["x".to_owned()], vec![(7, -100.0)]));
    assert_eq!((sampling.min_tokens, sampling.stop_token_ids), (Some(2), vec![4]));
}

#[test]
fn null_is_absent() {
    let request = completion(json!({
        "model": "m", "prompt": "p", "max_tokens": null, "temperature": null, "stop": null, "logprobs": null, "n": null,
        "stream": null, "stream_options": null, "logit_bias": null, "seed": null, "priority": null,
    }));
    let plain = completion(json!({"model": "m", "prompt": "p"}));
    assert_eq!(request.unwrap(), plain.unwrap());
}

#[test]
fn wrong_types_are_named_in_words() {
    let cases = [
        (json!({"max_tokens": "5"}), "max_tokens must be a whole number, 0 or more; it is \"5\""),
        (json!({"max_tokens": -5}), "max_tokens must be a whole number, 0 or more; it is -5"),
        (json!({"max_tokens": 1.5}), "max_tokens must be a whole number, 0 or more; it is 1.5"),
        (json!({"temperature": "hot"}), "temperature must be a number; it is \"hot\""),
        (json!({"stream": 1}), "stream must be true or false; it is 1"),
        (json!({"stop": 5}), "stop must be a string or a list of strings; it is 5"),
        (json!({"stop": {"a": "b"}}), "stop must be a string or a list of strings; it is an object"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias must be an object from token ids to numbers; it is an object"),
        (json!({"logit_bias": [1]}), "logit_bias must be an object from token ids to numbers; it is [1]"),
        (json!({"seed": 1.5}), "seed must be a whole number of at most 64 bits; it is 1.5"),
        (json!({"logprobs": true}), "logprobs must be a whole number, 0 or more; it is true"),
        (json!({"model": 5}), "model must be the name of a model, as GET /v1/models lists them; it is 5"),
        (json!({"stream": true, "stream_options": 5}), "stream_options must be an object; it is 5"),
        (
            json!({"stream": true, "stream_options": {"include_usage": 1}}),
            "stream_options.include_usage must be true or false; it is 1",
        ),
    ];
    for (change, expected) in cases {
        let mut body = json!({"model": "m", "prompt": "p"});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let failure = completion(body).unwrap_err();
        assert_eq!(failure.message, expected);
        let param = expected.split(' ').next();
        assert_eq!((failure.kind, failure.param.as_deref()), (FailureKind::Invalid, param));
    }
}

#[test]
fn bodies_that_are_no_object_are_refused() {
    let message = |body: &str| CompletionRequest::parse(body.as_bytes()).unwrap_err().message;
    assert_eq!(message(" "), "the body is empty; send a JSON object");
    assert_eq!(message("[1]"), "the body must be a JSON object; it is [1]");
    assert!(message("{\"model\": }").starts_with("the body is not valid JSON: expected value at line 1"));
    assert!(message(&"[".repeat(100_000)).starts_with("the body is not valid JSON"));
    assert!(CompletionRequest::parse(b"{\"model\": \"\xff\"}").is_err());
    assert!(message("{}").starts_with("model is missing"));
    assert!(message("{\"model\": \"m\"}").starts_with("prompt is missing"));
}

#[test]
fn what_would_change_the_answer_and_is_not_supported_is_refused_by_name() {
    let base = json!({"model": "m", "prompt": "p", "messages": [{"role": "user", "content": "x"}]});
    let with = |name: &str, value: serde_json::Value| {
        let mut body = base.clone();
        body[name] = value;
        body
    };
    for (name, value) in [
        ("best_of", json!(2)),
        ("suffix", json!("s")),
        ("echo", json!(true)),
        ("guided_json", json!({})),
        ("forced_tokens", json!([5])),
        ("attention", json!("dense")),
        ("choice_overlap", json!(true)),
    ] {
        let failure = completion(with(name, value)).unwrap_err();
        assert_eq!((failure.kind, failure.param.as_deref()), (FailureKind::Unsupported, Some(name)));
    }
    for (name, value) in [
        ("tools", json!([{"type": "function"}])),
        ("functions", json!([{}])),
        ("response_format", json!({"type": "json_object"})),
        ("modalities", json!(["text", "audio"])),
        ("audio", json!({})),
    ] {
        let failure = chat(with(name, value)).unwrap_err();
        assert_eq!((failure.kind, failure.param.as_deref()), (FailureKind::Unsupported, Some(name)));
    }
    chat(with("response_format", json!({"type": "text"}))).unwrap();
    chat(with("tools", json!([]))).unwrap();
    completion(with("echo", json!(false))).unwrap();
}

#[test]
fn messages_are_text_or_text_parts() {
    let request = chat(json!({
        "model": "m", "max_tokens": 3, "max_completion_tokens": 4, "logprobs": true, "top_logprobs": 2,
        "chat_template_kwargs": {"thinking": true},
        "messages": [
            {"role": "developer", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "n"},
            {"role": "assistant", "content": null},
            {"role": "tool", "content": "t", "tool_call_id": "1"},
        ],
    }))
    .unwrap();
    assert_eq!(request.messages[0], ChatMessage::new("system", "s"));
    assert_eq!(request.messages[1].0["content"], "ab");
    assert_eq!(request.messages[1].0["name"], "n");
    assert_eq!(request.messages[2], ChatMessage::new("assistant", ""));
    assert_eq!(request.common.sampling.max_tokens, Some(4));
    assert_eq!(request.common.sampling.logprobs, Some(2));
    assert_eq!(request.chat.variables["thinking"], true);
    assert!(request.chat.add_generation_prompt);
}

#[test]
fn messages_that_are_none_are_refused_where_they_are() {
    let cases = [
        (json!([]), "messages"),
        (json!("hi"), "messages"),
        (json!([5]), "messages[0]"),
        (json!([{"role": "user"}]), "messages[0].content"),
        (json!([{"role": "user", "content": "a"}, {"role": "king", "content": "b"}]), "messages[1].role"),
        (json!([{"content": "a"}]), "messages[0].role"),
        (json!([{"role": "user", "content": 5}]), "messages[0].content"),
        (json!([{"role": "user", "content": [{"type": "image_url"}]}]), "messages[0].content[0].type"),
        (json!([{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0].text"),
        (json!([{"role": "assistant", "content": "a", "tool_calls": [{}]}]), "messages[0].tool_calls"),
    ];
    for (messages, param) in cases {
        let failure = chat(json!({"model": "m", "messages": messages})).unwrap_err();
        assert_eq!(failure.param.as_deref(), Some(param), "{failure}");
        assert!(failure.message.starts_with(param), "{failure}");
    }
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "a"}], "top_logprobs": 2});
    assert_eq!(chat(body).unwrap_err().param.as_deref(), Some("top_logprobs"));
}

#[test]
fn tokenize_takes_a_text_or_a_conversation() {
    let parse = |body: serde_json::Value| TokenizeRequest::parse(body.to_string().as_bytes());
    let request = parse(json!({"model": "m", "prompt": "p"})).unwrap();
    assert_eq!(request.input, TokenizeInput::Text { text: "p".into(), special: true });
    assert!(parse(json!({"model": "m", "messages": [{"role": "user", "content": "a"}]})).is_ok());
    assert!(parse(json!({"model": "m", "prompt": "p", "messages": []})).is_err());
    assert!(parse(json!({"model": "m"})).is_err());
}

fn head(endpoint: Endpoint) -> Head {
    Head { endpoint, request_id: "r1".into(), created: 7, model: "m".into(), return_token_ids: true, logprobs: true }
}

fn delta() -> TextDelta {
    let named = |token_id, logprob, text: &str| Logprob { token_id, logprob, bytes: text.as_bytes().to_vec() };
    let logprobs = vec![TokenLogprobs {
        token: named(5, -0.3, "a"),
        top: vec![named(6, -0.2, "b"), named(5, -0.3, "a"), named(9, f32::NEG_INFINITY, "c")],
        text_offset: 4,
        choice_overlap: Some(0.5),
    }];
    TextDelta { choice: 0, text: "a".into(), token_ids: vec![5], logprobs, first_token: 0 }
}

const USAGE: Usage = Usage { prompt_tokens: 3, completion_tokens: 1, cached_prompt_tokens: 2 };
const USAGE_JSON: &str =
    r#"{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4,"prompt_tokens_details":{"cached_tokens":2}}"#;

fn whole(endpoint: Endpoint) -> String {
    let mut answer = Answer::new(head(endpoint), 1);
    answer.on_delta(delta());
    answer.on_finished(0, FinishReason::Stop);
    answer.body(USAGE)
}

#[test]
fn a_whole_completion() {
    let expected = concat!(
        r#"{"id":"cmpl-r1","object":"text_completion","created":7,"model":"m","choices":[{"index":0,"text":"a","#,
        r#""logprobs":{"text_offset":[4],"token_logprobs":[-0.3],"tokens":["a"],"#,
        r#""top_logprobs":[{"b":-0.2,"a":-0.3,"c":-9999.0}]},"finish_reason":"stop","token_ids":[5]}],"usage":"#,
    );
    assert_eq!(whole(Endpoint::Completion), format!("{expected}{USAGE_JSON}}}"));
}

#[test]
fn a_whole_chat_completion() {
    let expected = concat!(
        r#"{"id":"chatcmpl-r1","object":"chat.completion","created":7,"model":"m","choices":[{"index":0,"#,
        r#""message":{"role":"assistant","content":"a","refusal":null},"#,
        r#""logprobs":{"content":[{"token":"a","logprob":-0.3,"bytes":[97],"top_logprobs":["#,
        r#"{"token":"b","logprob":-0.2,"bytes":[98]},{"token":"a","logprob":-0.3,"bytes":[97]},"#,
        r#"{"token":"c","logprob":-9999.0,"bytes":[99]}]}],"refusal":null},"finish_reason":"stop","token_ids":[5]}],"usage":"#,
    );
    assert_eq!(whole(Endpoint::Chat), format!("{expected}{USAGE_JSON}}}"));
}

fn plain(endpoint: Endpoint) -> Head {
    Head { return_token_ids: false, logprobs: false, ..head(endpoint) }
}

#[test]
fn pieces_of_a_completion() {
    let chunks = Chunks::new(plain(Endpoint::Completion), true);
    let piece = |inside: &str, rest: &str| {
        let start = r#"{"id":"cmpl-r1","object":"text_completion","created":7,"model":"m","choices":["#;
        format!("{start}{inside}],\"usage\":{rest}}}")
    };
    assert_eq!(chunks.begin(0), None);
    let text = r#"{"index":0,"text":"a","logprobs":null,"finish_reason":null}"#;
    assert_eq!(chunks.delta(&delta()).unwrap(), piece(text, "null"));
    let end = r#"{"index":1,"text":"","logprobs":null,"finish_reason":"length"}"#;
    assert_eq!(chunks.finished(1, FinishReason::Length), piece(end, "null"));
    assert_eq!(chunks.usage(USAGE).unwrap(), piece("", USAGE_JSON));
}

#[test]
fn pieces_of_a_chat() {
    let chunks = Chunks::new(plain(Endpoint::Chat), false);
    let piece = |inside: &str| {
        let start = r#"{"id":"chatcmpl-r1","object":"chat.completion.chunk","created":7,"model":"m","choices":["#;
        format!("{start}{inside}]}}")
    };
    let begin = r#"{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}"#;
    assert_eq!(chunks.begin(0).unwrap(), piece(begin));
    let text = r#"{"index":0,"delta":{"content":"a"},"logprobs":null,"finish_reason":null}"#;
    assert_eq!(chunks.delta(&delta()).unwrap(), piece(text));
    let end = r#"{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}"#;
    assert_eq!(chunks.finished(0, FinishReason::Stop), piece(end));
    assert_eq!(chunks.usage(USAGE), None);
}

#[test]
fn text_that_is_held_back_makes_no_piece_unless_its_tokens_are_wanted() {
    let held = TextDelta { text: String::new(), ..delta() };
    assert_eq!(Chunks::new(plain(Endpoint::Chat), false).delta(&held), None);
    let wanted = Head { return_token_ids: true, ..plain(Endpoint::Chat) };
    assert!(Chunks::new(wanted, false).delta(&held).unwrap().contains(r#""token_ids":[5]"#));
}
