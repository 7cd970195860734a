//! Silent connections end; drained ones finish.

use std::net::SocketAddr;

use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::*;

/// For waits that end at once unless something is broken.
const LONG: Duration = Duration::from_secs(60);

async fn listen(tasks: &Tasks, routes: Router, head_timeout: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    serve_within(tasks, listener, routes, head_timeout);
    address
}

async fn send(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// What comes until the server closes the connection.
async fn rest(mut stream: TcpStream) -> String {
    let mut text = String::new();
    timeout(LONG, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

#[tokio::test]
async fn a_draining_server_answers_until_its_last_answer_has_ended() {
    static BEGUN: Notify = Notify::const_new();
    static GO_ON: Notify = Notify::const_new();
    let slow = get(async || {
        BEGUN.notify_one();
        GO_ON.notified().await;
        "slow"
    });
    let tasks = Tasks::new();
    let routes = Router::new().route("/slow", slow).route("/health", get(async || "ok"));
    let address = listen(&tasks, routes, LONG).await;
    let running = send(address, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    timeout(LONG, BEGUN.notified()).await.unwrap();

    tasks.drain();
    // The client has not asked for the connection to be closed.
    let during = rest(send(address, "GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await).await;
    assert!(during.starts_with("HTTP/1.1 200") && during.ends_with("ok"), "{during}");
    GO_ON.notify_one();
    assert!(rest(running).await.ends_with("slow"));
    tasks.join(LONG).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_connection_at_rest_ends_with_the_drain() {
    let tasks = Tasks::new();
    let address = listen(&tasks, Router::new().route("/health", get(async || "ok")), LONG).await;
    let mut resting = send(address, "GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut first = [0; 15];
    timeout(LONG, resting.read_exact(&mut first)).await.unwrap().unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    let never_used = TcpStream::connect(address).await.unwrap();
    tasks.join(LONG).await.unwrap();
    rest(resting).await;
    drop(never_used);
}

#[tokio::test]
async fn a_connection_that_says_nothing_more_is_closed() {
    let tasks = Tasks::new();
    let routes = Router::new().route("/health", get(async || "ok"));
    let address = listen(&tasks, routes, Duration::from_millis(10)).await;
    for said in ["", "GET /health HTTP/1.1\r\nho", "GET /health HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let answer = rest(send(address, said).await).await;
        assert_eq!(answer.ends_with("ok"), said.ends_with("\r\n\r\n"), "{said:?} {answer:?}");
    }
}
