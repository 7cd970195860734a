//! The least of an HTTP client: bytes out, bytes in. The real clients are Python's.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
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

impl Answer {
    /// The body, which is JSON.
    ///
    /// # Errors
    /// With the whole answer when it is none.
    pub fn json(&self) -> Result<Value> {
        let body = self.text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).with_context(|| format!("no JSON in {:?}", self.text))
    }
}

/// The bytes of a request that asks the server to close afterwards.
pub fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         {more}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends one request and reads until the server closes.
///
/// # Errors
/// When the connection breaks or the answer takes too long.
pub async fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<Answer> {
    send_with(address, method, path, &[], body).await
}

/// The same with headers.
///
/// # Errors
/// When the connection breaks or the answer takes too long.
pub async fn send_with(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer> {
    let request = request(address, method, path, headers, body);
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        // A server may refuse by the head alone and close; its answer is still there to be read.
        drop(stream.write_all(request.as_bytes()).await);
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

/// How long a part may take to show what it has done.
const SHOWN_AFTER: Duration = Duration::from_secs(30);

/// Asks for a metric again and again until its sum is as it must be: parts show some a moment later, and nothing but
/// asking tells when.
///
/// # Errors
/// With the whole page when it stays otherwise.
pub async fn until_metric(address: SocketAddr, name: &str, labels: &[&str], right: impl Fn(f64) -> bool) -> Result<()> {
    let asked = timeout(SHOWN_AFTER, async {
        while !right(metric(address, name, labels).await?) {}
        anyhow::Ok(())
    });
    match asked.await {
        Ok(asked) => asked,
        Err(_) => {
            let value = metric(address, name, labels).await?;
            let page = send(address, "GET", "/metrics", "").await?.text;
            anyhow::bail!("{name}{labels:?} is {value}:\n{page}")
        }
    }
}
