//! An answer as server-sent events: `data: JSON`, a blank line; `data: [DONE]` after the last. A failure is an event
//! with an `error` and the last one, without `[DONE]`, so that no client takes a broken answer for a whole one. While
//! nothing comes (a long prompt is computed), comments keep proxies from taking the connection for dead.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::stream;
use hadal_router_core::Failure;
use hadal_router_core::openai::Chunks;

use super::streams::Streams;
use crate::service::Output;

/// Answers with the events of `first`, which was taken from the stream to see whether the answer begins at all, and
/// those after it.
pub(super) fn respond(chunks: Chunks, first: Output, streams: Streams, choices: u32, keep_alive: Duration) -> Response {
    let begun = vec![false; choices as usize];
    let events = Events { chunks, first: Some(first), streams, begun, ended: false, keep_alive };
    let bytes = stream::unfold(events, async |mut events| Some((Ok::<_, Failure>(events.next().await?), events)));
    let mut response = Response::new(Body::from_stream(bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would otherwise collect events before it passes them on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Events {
    chunks: Chunks,
    first: Option<Output>,
    streams: Streams,
    /// By choice: whether its first piece was sent.
    begun: Vec<bool>,
    ended: bool,
    keep_alive: Duration,
}

impl Events {
    /// The bytes of the next events; none after the end.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.ended {
            let next = match self.first.take() {
                Some(first) => Some(Ok(first)),
                None => match tokio::time::timeout(self.keep_alive, self.streams.next()).await {
                    Ok(next) => next,
                    Err(_) => return Some(Bytes::from_static(b": waiting\n\n")),
                },
            };
            let mut out = String::new();
            match next {
                Some(Ok(output)) => self.output(output, &mut out),
                Some(Err(failure)) => {
                    self.ended = true;
                    event(&failure.body().to_string(), &mut out);
                }
                None => self.ended = true,
            }
            if !out.is_empty() {
                return Some(Bytes::from(out));
            }
        }
        None
    }

    fn output(&mut self, output: Output, out: &mut String) {
        match output {
            Output::Started { .. } => {}
            Output::Delta(delta) => {
                self.begin(delta.choice, out);
                if let Some(piece) = self.chunks.delta(&delta) {
                    event(&piece, out);
                }
            }
            Output::Finished { choice, reason, .. } => {
                self.begin(choice, out);
                event(&self.chunks.finished(choice, reason), out);
            }
            Output::Usage { usage, .. } => {
                if let Some(piece) = self.chunks.usage(usage) {
                    event(&piece, out);
                }
                event("[DONE]", out);
                self.ended = true;
            }
        }
    }

    fn begin(&mut self, choice: u32, out: &mut String) {
        let Some(begun) = self.begun.get_mut(choice as usize).filter(|begun| !**begun) else { return };
        *begun = true;
        if let Some(piece) = self.chunks.begin(choice) {
            event(&piece, out);
        }
    }
}

fn event(data: &str, out: &mut String) {
    out.push_str("data: ");
    out.push_str(data);
    out.push_str("\n\n");
}
