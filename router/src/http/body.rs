//! A request's body, whole, within bounds of size and time.

use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use futures_util::StreamExt;
use hadal_router_core::{Failure, FailureKind};

use super::Options;

/// A body that is too large is read on and thrown away up to this many times the limit: a client that writes its whole
/// request before it reads would otherwise see a broken connection in place of the answer.
const DISCARD_FACTOR: usize = 8;

/// Reads the body.
///
/// # Errors
/// When it is too large, comes too slowly, breaks off, or is declared as something other than plain JSON.
pub(super) async fn read(request: Request<Body>, options: Options) -> Result<Vec<u8>, Failure> {
    check_headers(request.headers(), options.body_bytes_max)?;
    let late = |_| {
        let message = format!("the body did not arrive within {} s", options.body_timeout.as_secs());
        Failure::new(FailureKind::Deadline, message)
    };
    tokio::time::timeout(options.body_timeout, collect(request.into_body(), options.body_bytes_max))
        .await
        .map_err(late)?
}

async fn collect(body: Body, max: usize) -> Result<Vec<u8>, Failure> {
    let mut stream = body.into_data_stream();
    let (mut bytes, mut total) = (Vec::new(), 0);
    while let Some(chunk) = stream.next().await {
        let chunk =
            chunk.map_err(|e| Failure::new(FailureKind::Invalid, format!("the body could not be read: {e}")))?;
        total += chunk.len();
        if total <= max {
            bytes.extend_from_slice(&chunk);
        } else if total > max.saturating_mul(DISCARD_FACTOR) {
            break;
        } else {
            bytes = Vec::new();
        }
    }
    if total > max { Err(too_large(max)) } else { Ok(bytes) }
}

fn check_headers(headers: &HeaderMap, max: usize) -> Result<(), Failure> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
    let length: Option<u64> = text(header::CONTENT_LENGTH).and_then(|l| l.parse().ok());
    // Such a client asks before it sends, so nothing has to be read first.
    if headers.contains_key(header::EXPECT) && length.is_some_and(|l| l > max as u64) {
        return Err(too_large(max));
    }
    let unsupported = |message: String| Err(Failure::new(FailureKind::MediaType, message));
    if let Some(encoding) = text(header::CONTENT_ENCODING).filter(|e| !e.eq_ignore_ascii_case("identity")) {
        return unsupported(format!("bodies in {encoding} are not read; send plain JSON"));
    }
    let kind = text(header::CONTENT_TYPE).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        json if json == "application/json" || json.ends_with("+json") => Ok(()),
        // What curl -d declares when it is told nothing, and tools that declare nothing. A browser, which would let any
        // web page send these without asking first, names the page's origin.
        "" | "application/x-www-form-urlencoded" if !headers.contains_key(header::ORIGIN) => Ok(()),
        "" => unsupported("the body's type is not declared; send Content-Type: application/json".to_owned()),
        _ => unsupported(format!("the body is declared as {kind}; send Content-Type: application/json")),
    }
}

fn too_large(max: usize) -> Failure {
    let message = format!("the body is larger than {max} bytes, the most this server reads; send a shorter prompt");
    Failure::new(FailureKind::BodyTooLarge, message)
}
