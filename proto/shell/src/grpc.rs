//! gRPC between the parts: channels that notice a dead peer, and a server that drains.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint, Server};

use crate::tasks::Tasks;
use crate::tls::Tls;

/// The largest message that a part sends or accepts; set it on every generated client and server.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// How often a connection is probed, also an idle one.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// A probe unanswered for so long ends the connection.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long connecting may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Streams that one connection may have at a time.
const STREAMS_MAX: u32 = 4096;

/// Bytes that a stream may be ahead of its reader. What is not read counts against the connection's window, too; that
/// one has room for all streams, so that readers who do not read hold nobody up but themselves.
const STREAM_WINDOW: u32 = 64 << 10;

/// An address that is none, or TLS that does not fit.
#[derive(Debug, thiserror::Error)]
#[error("{address} cannot be dialled: {problem}; write HOST:PORT")]
pub struct ChannelError {
    /// As given.
    pub address: String,
    /// What is wrong.
    pub problem: String,
}

/// A server that could not go on.
#[derive(Debug, thiserror::Error)]
#[error("the gRPC server on {address} failed: {source}")]
pub struct ServeError {
    /// Where it listened.
    pub address: String,
    /// Why.
    source: tonic::transport::Error,
}

/// A status for people: the cause says more than "transport error".
pub fn explain(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    if let Some((_, hint)) = TLS_HINTS.iter().find(|(sign, _)| text.contains(sign)) {
        text = format!("{text}; {hint}");
    }
    if text.is_empty() { format!("{:?}", status.code()) } else { text }
}

/// How the libraries tell that one side speaks TLS and the other does not, and what that means.
const TLS_HINTS: [(&str, &str); 2] = [
    ("InvalidContentType", "the other side does not speak TLS: give both sides --tls-cert, or neither"),
    ("frame with invalid size", "perhaps the other side speaks TLS: give both sides --tls-cert, or neither"),
];

/// A channel to `address` (host:port). It connects when first used, and again after a failure.
///
/// # Errors
/// When the address is malformed.
pub fn channel(address: &str, tls: Option<&Tls>) -> Result<Channel, ChannelError> {
    let wrong = |problem: String| ChannelError { address: address.to_owned(), problem };
    if address.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
        return Err(wrong("it is not HOST:PORT".to_owned()));
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(|e| wrong(e.to_string()))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * STREAMS_MAX);
    let endpoint = match tls {
        None => endpoint,
        Some(tls) => endpoint.tls_config(tls.tonic_client()).map_err(|e| wrong(e.to_string()))?,
    };
    Ok(endpoint.connect_lazy())
}

/// Serves as [`serve`] does, as work of a part that cannot go on without it.
pub fn spawn(tasks: &Tasks, listener: TcpListener, tls: Option<Tls>, routes: Routes, drain: CancellationToken) {
    let part = tasks.clone();
    tasks.spawn("grpc", async move {
        if let Err(error) = serve(listener, tls, routes, drain).await {
            part.fail(error.to_string());
        }
    });
}

/// Serves until `drain` is cancelled and then until the running calls have ended; streams that never end by themselves
/// must end on drain, too.
///
/// # Errors
/// When the TLS files do not fit or the listener fails.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    routes: Routes,
    drain: CancellationToken,
) -> Result<(), ServeError> {
    let address = listener.local_addr().map_or_else(|_| "?".to_owned(), |a| a.to_string());
    let failed = |source| ServeError { address: address.clone(), source };
    let mut server = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT));
    if let Some(tls) = tls {
        server = server.tls_config(tls.tonic_server()).map_err(failed)?;
    }
    let connections = TcpListenerStream::new(listener).map(|accepted| {
        // Small messages both ways: waiting to fill a segment would cost every token some latency.
        accepted.inspect(|connection| drop(connection.set_nodelay(true)))
    });
    server.add_routes(routes).serve_with_incoming_shutdown(connections, drain.cancelled_owned()).await.map_err(failed)
}

#[cfg(test)]
mod tests;
