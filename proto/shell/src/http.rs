//! The parts' HTTP server: HTTP/1.1, and what a silent client may hold of it is bounded.
//!
//! ```text
//! before a drain   connections are work: each ends with the answer under way on it
//! while draining   the listener stays open, so that /health and /ready answer; new connections take one request each
//! no work left     everything is dropped
//! ```

use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};

use crate::tasks::Tasks;

/// How long a client may take to send a request's head, and how long a connection may rest between two requests. More
/// than the 60 s after which common proxies close theirs: who closes first should be who sends next.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Pause after a failure to accept that is not one connection's: no file descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves until all work of `tasks` has ended.
pub fn serve(tasks: &Tasks, listener: TcpListener, routes: Router) {
    serve_within(tasks, listener, routes, HEAD_TIMEOUT);
}

fn serve_within(tasks: &Tasks, listener: TcpListener, routes: Router, head_timeout: Duration) {
    let spawner = tasks.clone();
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(head_timeout);
    tasks.spawn_service("http", async move {
        let drain = spawner.drain_token();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = Connection { server: server.clone(), stream, routes: routes.clone() };
                    if drain.is_cancelled() {
                        spawner.spawn_service("http connection", connection.take_one());
                    } else {
                        spawner.spawn("http connection", connection.run(drain.clone().cancelled_owned()));
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

struct Connection {
    server: http1::Builder,
    stream: TcpStream,
    routes: Router,
}

impl Connection {
    fn open(self) -> http1::Connection<TokioIo<TcpStream>, TowerToHyperService<Router>> {
        // Tokens are small and must leave at once.
        if let Err(error) = self.stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps delaying small packets");
        }
        self.server.serve_connection(TokioIo::new(self.stream), TowerToHyperService::new(self.routes))
    }

    /// Takes requests until the client or the drain ends it.
    async fn run(self, drain: impl Future<Output = ()>) {
        let mut connection = pin!(self.open());
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = drain => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        tell(ended);
    }

    /// Takes one request.
    async fn take_one(mut self) {
        self.server.keep_alive(false);
        tell(self.open().await);
    }
}

/// Clients break connections off all the time, and what that means for a request its handler says.
fn tell(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}

#[cfg(test)]
mod tests;
