//! What a call's metadata say of it.

use std::time::{Duration, Instant};

use hadal_router_core::Failure;
use hadal_types::RequestId;
use tonic::metadata::MetadataMap;

/// Longest tenant, session and salt.
pub(super) const NAME_BYTES_MAX: usize = 128;

/// Read when the call arrives.
pub(super) struct Arrived {
    pub(super) deadline: Option<Instant>,
    /// Empty when there is none.
    pub(super) request_id: String,
    pub(super) tenant: String,
    pub(super) traceparent: String,
}

impl Arrived {
    pub(super) fn read(metadata: &MetadataMap) -> Result<Self, Failure> {
        Ok(Self {
            deadline: timeout(metadata)?.map(|timeout| Instant::now() + timeout),
            request_id: text(metadata, "x-request-id")?.to_owned(),
            tenant: bounded("x-tenant", text(metadata, "x-tenant")?)?,
            // A broken trace context is ignored, as the standard asks for.
            traceparent: text(metadata, "traceparent").and_then(|t| bounded("traceparent", t)).unwrap_or_default(),
        })
    }
}

/// A name of the client's, of bounded length.
pub(super) fn bounded(name: &'static str, value: &str) -> Result<String, Failure> {
    if value.len() > NAME_BYTES_MAX {
        let message = format!("{name} must be at most {NAME_BYTES_MAX} bytes; it has {}", value.len());
        return Err(Failure::invalid(name, message));
    }
    Ok(value.to_owned())
}

/// The client's id, or a new one.
pub(super) fn request_id(given: &str) -> Result<RequestId, Failure> {
    let id = if given.is_empty() {
        hadal_shell::id::request_id().map_err(|error| Failure::internal(error.to_string()))?
    } else {
        given.to_owned()
    };
    RequestId::new(id).map_err(|error| Failure::invalid("request_id", error.to_string()))
}

/// gRPC's deadline: `grpc-timeout`, up to eight digits and a unit. A little is taken off, so that the answer is ours
/// and says what was waited for, and not the transport's.
fn timeout(metadata: &MetadataMap) -> Result<Option<Duration>, Failure> {
    let value = text(metadata, "grpc-timeout")?;
    if value.is_empty() {
        return Ok(None);
    }
    let wrong = || Failure::invalid("grpc-timeout", format!("{value:?} is no grpc-timeout, such as 30S or 500m"));
    let (digits, unit) = value.split_at_checked(value.len() - 1).ok_or_else(wrong)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let timeout = match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return Err(wrong()),
    };
    // Instants do not reach as far as 99,999,999 hours.
    Ok(Some((timeout - timeout / 50).min(Duration::from_secs(366 * 24 * 3600))))
}

fn text<'a>(metadata: &'a MetadataMap, name: &'static str) -> Result<&'a str, Failure> {
    let Some(value) = metadata.get(name) else { return Ok("") };
    let wrong = |_| Failure::invalid(name, format!("{name} must be visible ASCII characters"));
    value.to_str().map(str::trim).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeout_of(value: &str) -> Result<Option<Duration>, Failure> {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", value.parse().unwrap());
        timeout(&metadata)
    }

    #[test]
    fn deadlines_have_units_and_bounds() {
        assert_eq!(timeout_of("100S").unwrap(), Some(Duration::from_secs(98)));
        assert_eq!(timeout_of("100m").unwrap(), Some(Duration::from_millis(98)));
        assert!(timeout_of("99999999H").unwrap().unwrap() <= Duration::from_secs(366 * 24 * 3600));
        for wrong in ["S", "5", "1x", "123456789S", "-1S", "+1S"] {
            assert_eq!(timeout_of(wrong).unwrap_err().param.as_deref(), Some("grpc-timeout"), "{wrong}");
        }
    }

    #[test]
    fn ids_are_kept_or_drawn() {
        assert_eq!(request_id("a-1").unwrap().as_str(), "a-1");
        assert_ne!(request_id("").unwrap(), request_id("").unwrap());
        assert!(request_id("a b").is_err());
    }
}
