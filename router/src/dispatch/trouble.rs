//! What the wire says of an attempt that failed, in the words of the core that decides what follows.

use hadal_proto::cluster as w;
use hadal_router_core::{Blame, Failure, FailureKind, Placed, Trouble};
use hadal_shell::grpc::explain;
use hadal_types::WorkerId;
use tonic::Code;

/// Whom the core may blame.
pub(crate) fn placed(placement: &w::Placement) -> Placed {
    let id = |worker: &Option<w::WorkerRef>| worker.as_ref().map(|worker| WorkerId(worker.id.clone()));
    Placed { decode: id(&placement.decode), prefill: id(&placement.prefill) }
}

/// What a worker says in its stream.
pub(crate) fn from_error(error: &w::Error) -> Trouble {
    use w::error::Kind;
    let kind = match error.kind() {
        Kind::Busy => FailureKind::Overloaded,
        Kind::Invalid => FailureKind::Invalid,
        Kind::Deadline => FailureKind::Deadline,
        Kind::Mismatch | Kind::Draining | Kind::Prefill => FailureKind::Unavailable,
        Kind::Numerics => FailureKind::Numerics,
        Kind::Cancelled => FailureKind::Cancelled,
        Kind::Internal | Kind::Unspecified => FailureKind::Internal,
    };
    let (blame, reason) = match error.kind() {
        Kind::Prefill => (Blame::Prefill, "prefill"),
        Kind::Busy => (Blame::Decode, "busy"),
        Kind::Draining => (Blame::Decode, "draining"),
        _ => (Blame::Decode, "other"),
    };
    Trouble { failure: Failure::new(kind, error.message.clone()), again: error.retryable, blame, reason }
}

/// What the connection to a worker says.
pub(crate) fn from_status(status: &tonic::Status) -> Trouble {
    let kind = match status.code() {
        Code::InvalidArgument | Code::OutOfRange => {
            return Trouble::fatal(Failure::new(FailureKind::Invalid, explain(status)));
        }
        Code::ResourceExhausted => FailureKind::Overloaded,
        _ => FailureKind::Unavailable,
    };
    Trouble { failure: Failure::new(kind, explain(status)), ..Trouble::lost("") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: w::error::Kind, retryable: bool) -> Trouble {
        from_error(&w::Error { kind: kind.into(), message: "why".into(), retryable, worker_fault: true })
    }

    #[test]
    fn a_failed_prefill_leg_is_the_prefill_workers_fault() {
        assert_eq!(error(w::error::Kind::Prefill, true).blame, Blame::Prefill);
        assert_eq!(error(w::error::Kind::Busy, true).blame, Blame::Decode);
    }

    #[test]
    fn a_fault_of_the_request_is_not_tried_again() {
        assert!(!error(w::error::Kind::Invalid, false).again);
        assert!(!from_status(&tonic::Status::invalid_argument("bad")).again);
        assert!(from_status(&tonic::Status::unavailable("gone")).again);
    }
}
