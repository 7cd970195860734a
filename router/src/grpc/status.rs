//! How gRPC says why a request has no answer: every kind of failure and its code are in this file only.

use hadal_router_core::{Failure, FailureKind};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// The code of a kind.
fn code(kind: FailureKind) -> Code {
    match kind {
        FailureKind::Invalid | FailureKind::TooLong | FailureKind::BodyTooLarge | FailureKind::MediaType => {
            Code::InvalidArgument
        }
        FailureKind::Unsupported | FailureKind::MethodNotAllowed => Code::Unimplemented,
        FailureKind::UnknownModel | FailureKind::NotFound => Code::NotFound,
        FailureKind::Duplicate => Code::AlreadyExists,
        FailureKind::Overloaded => Code::ResourceExhausted,
        FailureKind::Unavailable => Code::Unavailable,
        FailureKind::Deadline => Code::DeadlineExceeded,
        FailureKind::Cancelled => Code::Cancelled,
        FailureKind::Numerics | FailureKind::Internal => Code::Internal,
    }
}

/// The status of a failure. Its metadata say more to programs: `hadal-kind`, `hadal-param` and, where another try may
/// help, `retry-after-ms` and gRPC's own `grpc-retry-pushback-ms`.
pub(super) fn of(failure: &Failure) -> Status {
    let mut status = Status::new(code(failure.kind), failure.message.clone());
    let metadata = status.metadata_mut();
    metadata.insert("hadal-kind", MetadataValue::from_static(failure.kind.code()));
    if let Some(param) = failure.param.as_deref().and_then(|param| param.parse().ok()) {
        metadata.insert("hadal-param", param);
    }
    if let Some(after) = failure.retry_after_s() {
        let after = failure.retry_after.map_or(after * 1000, |after| after.as_millis() as u64);
        metadata.insert("retry-after-ms", MetadataValue::from(after));
        metadata.insert("grpc-retry-pushback-ms", MetadataValue::from(after));
    }
    status
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn another_try_is_named_where_it_helps() {
        let failure = Failure::new(FailureKind::Overloaded, "full").with_retry_after(Duration::from_millis(250));
        let status = of(&failure);
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get("retry-after-ms").unwrap(), "250");
        assert_eq!(status.metadata().get("hadal-kind").unwrap(), "overloaded");
        assert!(of(&Failure::internal("x")).metadata().get("retry-after-ms").is_none());
    }

    #[test]
    fn the_parameter_at_fault_is_named() {
        let status = of(&Failure::invalid("top_p", "top_p must be above 0"));
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "top_p must be above 0"));
        assert_eq!(status.metadata().get("hadal-param").unwrap(), "top_p");
    }
}
