//! The least of an HTTP client: bytes out, bytes in. The real clients are Python's.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::PATIENCE;

/// Status and body of an answer.
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Head and body as they came.
    pub text: String,
}

/// Sends one request and reads until the server closes.
///
/// # Errors
/// When the connection breaks or the answer takes too long.
pub async fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<Answer> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(head.as_bytes()).await?;
        // A server may refuse by the head alone and close; its answer is still there to be read.
        drop(stream.write_all(body.as_bytes()).await);
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes).await;
        if bytes.is_empty() {
            read?;
        }
        anyhow::Ok(bytes)
    };
    let bytes = timeout(PATIENCE, exchange).await.context("no answer in time")??;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status =
        text.split(' ').nth(1).and_then(|s| s.parse().ok()).with_context(|| format!("no status in {text:?}"))?;
    Ok(Answer { status, text })
}

/// The sum of a metric's samples whose labels contain all of `labels`.
///
/// # Errors
/// When the page cannot be had.
pub async fn metric(address: SocketAddr, name: &str, labels: &[&str]) -> Result<f64> {
    let page = send(address, "GET", "/metrics", "").await?.text;
    let samples = page.lines().filter(|l| {
        let rest = l.strip_prefix(name);
        rest.is_some_and(|r| r.starts_with(['{', ' '])) && labels.iter().all(|label| l.contains(label))
    });
    Ok(samples.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}
