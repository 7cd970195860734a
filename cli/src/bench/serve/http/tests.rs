//! The door against a server of canned answers: what it understands of others than Hadal.

use std::sync::mpsc::{Receiver, channel};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const RUN: Run = Run { seed: 1, block_tokens: 512 };

/// What a server answers to a body at a path: the whole of HTTP, or none to end the connection.
type Answers = fn(&str, &Value) -> Option<String>;

/// A server on loopback, and the bodies that it was sent.
async fn server(answers: Answers) -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, bodies) = channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                while let Some((path, body)) = request(&mut stream).await {
                    sender.send(body.clone()).unwrap_or_default();
                    let Some(answer) = answers(&path, &body) else { return };
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (url, bodies)
}

async fn request(stream: &mut BufReader<TcpStream>) -> Option<(String, Value)> {
    let (mut first, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|count| *count > 0)?;
        if first.is_empty() {
            first = line.split(' ').nth(1)?.to_owned();
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((first, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

fn answer(status: &str, kind: &str, body: &str) -> Option<String> {
    Some(format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}

fn json(status: &str, body: &Value) -> Option<String> {
    answer(status, "application/json", &body.to_string())
}

fn models() -> Option<String> {
    json("200 OK", &json!({"data": [{"id": "first"}, {"id": "second"}]}))
}

/// Words of the message, two tokens each, and ten of a template.
fn counted(body: &Value) -> u64 {
    body["messages"][0]["content"].as_str().map_or(0, |text| 10 + 2 * text.split(' ').count() as u64)
}

fn options(url: &str) -> HttpOptions {
    HttpOptions { http: Some(url.to_owned()), api_key_file: None, tls_ca: None }
}

async fn open(url: &str, model: Option<&str>) -> Result<(Http, Notes), Fault> {
    Http::open(&options(url), url, model, RUN).await
}

/// A server that is all that one could wish.
fn good(path: &str, body: &Value) -> Option<String> {
    if path == "/v1/models" {
        return models();
    }
    let tokens = counted(body);
    let text = format!(
        ": hi\n\ndata: {{\"choices\":[{{\"delta\":{{\"content\":\"a\"}}}}]}}\n\ndata:{{\"choices\":[{{\"delta\":{{\"content\":\"b\"}},\
         \"finish_reason\":\"length\"}}]}}\r\n\r\ndata: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":{tokens},\
         \"completion_tokens\":3}}}}\n\ndata: [DONE]\n\n"
    );
    answer("200 OK", "text/event-stream", &text)
}

#[tokio::test]
async fn it_learns_how_a_server_counts_and_reads_its_stream() {
    let (url, bodies) = server(good).await;
    let (http, notes) = open(&format!("{url}/v1/"), Some("second")).await.unwrap();
    assert_eq!((http.model(), http.rule(), notes), ("second", Rule { overhead: 10.0, per_word: 2.0 }, vec![]));
    let answer = http.ask("a b c".into(), 3).await.unwrap();
    assert_eq!((answer.usage.prompt, answer.usage.output), (Some(16), Some(3)));
    let last = bodies.try_iter().last().unwrap();
    assert_eq!((&last["max_tokens"], &last["stream"], &last["ignore_eos"]), (&3.into(), &true.into(), &true.into()));
    assert_eq!((&last["stream_options"]["include_usage"], &last["model"]), (&true.into(), &"second".into()));
}

#[tokio::test]
async fn what_a_server_does_not_take_is_left_out() {
    fn strict(path: &str, body: &Value) -> Option<String> {
        let refused = |name: &str| json("400 Bad Request", &json!({"error": {"message": format!("unknown: {name}")}}));
        match path {
            "/v1/models" => models(),
            _ if body["ignore_eos"] == true => refused("ignore_eos"),
            _ if body["max_tokens"].is_u64() => refused("max_tokens"),
            _ => good(path, body),
        }
    }
    let (url, bodies) = server(strict).await;
    let (http, notes) = open(&url, None).await.unwrap();
    assert!(notes.len() == 1 && notes[0].contains("ignore_eos"), "{notes:?}");
    http.ask("a".into(), 7).await.unwrap();
    assert_eq!(bodies.try_iter().last().unwrap()["max_completion_tokens"], 7);
}

#[tokio::test]
async fn without_usage_it_counts_by_tokenize_and_answers_without_streams_count_as_one() {
    fn plain(path: &str, body: &Value) -> Option<String> {
        match path {
            "/v1/models" => json("404 Not Found", &json!({})),
            "/tokenize" => json("200 OK", &json!({"count": counted(body)})),
            _ => json("200 OK", &json!({"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]})),
        }
    }
    let (url, _bodies) = server(plain).await;
    let refused = open(&url, None).await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("does not say what it serves (http 404") && refused.contains("--model"), "{refused}");
    let (http, notes) = open(&url, Some("any")).await.unwrap();
    assert_eq!((http.rule(), notes), (Rule { overhead: 10.0, per_word: 2.0 }, vec![]));
    let answer = http.ask("a".into(), 3).await.unwrap();
    assert!(answer.any() && answer.usage.output.is_none());
}

#[tokio::test]
async fn a_server_that_counts_nothing_is_guessed_at() {
    fn silent(path: &str, _: &Value) -> Option<String> {
        match path {
            "/v1/models" => models(),
            "/tokenize" => json("404 Not Found", &json!({"detail": "Not Found"})),
            _ => answer(
                "200 OK",
                "text/event-stream",
                "data: {\"choices\":[{\"text\":\"x\",\"finish_reason\":\"stop\"}]}",
            ),
        }
    }
    let (url, _bodies) = server(silent).await;
    let (http, notes) = open(&url, None).await.unwrap();
    assert!(http.rule() == Rule::GUESS && notes.len() == 1 && notes[0].contains("guessed"), "{notes:?}");
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    fn locked(_: &str, _: &Value) -> Option<String> {
        json("401 Unauthorized", &json!({"error": {"message": "no key", "code": "invalid_api_key"}}))
    }
    fn broken(path: &str, _: &Value) -> Option<String> {
        match path {
            "/v1/models" => models(),
            _ => json("500 Internal Server Error", &json!({"error": {"message": "boom", "type": "internal"}})),
        }
    }
    let (url, _bodies) = server(locked).await;
    let fault = open(&url, None).await.map(drop).unwrap_err();
    assert!(fault.exit == Exit::Permission && fault.to_string().contains("--api-key-file"), "{fault}");
    let (url, bodies) = server(broken).await;
    let fault = open(&url, Some("third")).await.map(drop).unwrap_err();
    assert!(fault.exit == Exit::Usage && fault.to_string().contains("it serves: first, second"), "{fault}");
    let fault = open(&url, None).await.map(drop).unwrap_err().to_string();
    assert!(fault.contains("/v1/chat/completions: http 500 internal: boom"), "{fault}");
    // One of models each, and one probe: a fault of the server is no reason to ask for less.
    assert_eq!(bodies.try_iter().count(), 3);
    for url in ["ftp://x", "x:1", "http://", "http://a b"] {
        let fault = open(url, None).await.map(drop).unwrap_err();
        assert!(fault.exit == Exit::Usage && fault.to_string().contains("write http://HOST:PORT"), "{url}: {fault}");
    }
    let fault = open("http://127.0.0.1:9", None).await.map(drop).unwrap_err();
    assert!(fault.exit == Exit::Unavailable && fault.to_string().contains("hadal up"), "{fault}");
}

#[tokio::test]
async fn a_stream_that_ends_early_or_with_an_error_is_a_failure() {
    fn cut(path: &str, body: &Value) -> Option<String> {
        let event = |text: &str| answer("200 OK", "text/event-stream", &format!("data: {text}\n\n"));
        match body["max_tokens"].as_u64() {
            Some(1) => good(path, body),
            Some(2) => event(r#"{"choices":[{"delta":{"content":"a"}}]}"#),
            Some(3) => event(r#"{"error":{"message":"lost","code":"unavailable"}}"#),
            Some(_) => None,
            None => models(),
        }
    }
    let (url, _bodies) = server(cut).await;
    let (http, _) = open(&url, None).await.unwrap();
    let mut kinds = Vec::new();
    for tokens in [2, 3, 4] {
        kinds.push(http.ask("a".into(), tokens).await.unwrap_err().kind);
    }
    assert_eq!(kinds, ["broken stream", "error event unavailable", "connection"]);
    // A connection that the server ended is not used again.
    http.ask("a".into(), 1).await.unwrap();
}
