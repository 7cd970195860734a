//! A small HTTP server: `/metrics`, `/health` (the process answers) and `/ready` (it takes work).

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::{Metrics, render};
use crate::tasks::Tasks;

/// Says whether a part takes work, and if not, why not.
pub type Probe = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the server shows.
#[derive(Clone)]
pub struct Status {
    /// The metrics of one or more parts.
    pub metrics: Vec<Metrics>,
    /// For `/ready`.
    pub ready: Probe,
}

impl Status {
    /// Of one part.
    pub fn new(metrics: Metrics, ready: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self { metrics: vec![metrics], ready: Arc::new(ready) }
    }
}

/// The three routes, to be served by themselves or merged into a part's own HTTP server.
pub fn routes(status: Status) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(async || "ok\n"))
        .route("/ready", get(ready))
        .with_state(status)
}

/// Serves also while the part drains, when `/ready` says no.
pub fn serve(tasks: &Tasks, listener: TcpListener, status: Status) {
    let drain = tasks.drain_token();
    let inner = Arc::clone(&status.ready);
    let ready = move || if drain.is_cancelled() { Err("draining".to_owned()) } else { inner() };
    let app = routes(Status { ready: Arc::new(ready), ..status });
    crate::http::serve(tasks, listener, app);
}

async fn metrics(State(status): State<Status>) -> Response {
    let text = render(&status.metrics);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn ready(State(status): State<Status>) -> Response {
    match (status.ready)() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}
