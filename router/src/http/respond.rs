//! Responses: JSON, and failures in OpenAI's shape. The statuses of failures are in `hadal_router_core::failure`.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use hadal_router_core::Failure;

/// A JSON text with status 200.
pub(super) fn json(text: String) -> Response {
    with_status(StatusCode::OK, text)
}

/// A failure.
pub(super) fn failure(failure: &Failure) -> Response {
    let status = StatusCode::from_u16(failure.kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = with_status(status, failure.body().to_string());
    if let Some(seconds) = failure.retry_after_s() {
        add_header(&mut response, "retry-after", &seconds.to_string());
    }
    response
}

/// Adds a header; a value that no header can have is left out.
pub(super) fn add_header(response: &mut Response, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn with_status(status: StatusCode, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
