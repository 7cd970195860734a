//! Every failure of a request as it stands on the wire.

use hadal_proto::cluster as w;
use hadal_worker_core::{Failure, FailureKind};
use w::error::Kind;

use crate::output::Lost;

/// An error of the core, or one of [`refusal`]'s.
pub(crate) fn wire(failure: Failure) -> w::Error {
    w::Error {
        kind: kind(failure.kind).into(),
        message: failure.message,
        retryable: failure.retryable,
        worker_fault: failure.worker_fault,
    }
}

fn kind(kind: FailureKind) -> Kind {
    match kind {
        FailureKind::Busy => Kind::Busy,
        FailureKind::Invalid => Kind::Invalid,
        FailureKind::Deadline => Kind::Deadline,
        FailureKind::Mismatch => Kind::Mismatch,
        FailureKind::Draining => Kind::Draining,
        FailureKind::Prefill => Kind::Prefill,
        FailureKind::Numerics => Kind::Numerics,
        FailureKind::Internal => Kind::Internal,
        FailureKind::Cancelled => Kind::Cancelled,
    }
}

/// The value of the label in metrics.
pub(crate) fn name(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Busy => "busy",
        FailureKind::Invalid => "invalid",
        FailureKind::Deadline => "deadline",
        FailureKind::Mismatch => "mismatch",
        FailureKind::Draining => "draining",
        FailureKind::Prefill => "prefill",
        FailureKind::Numerics => "numerics",
        FailureKind::Internal => "internal",
        FailureKind::Cancelled => "cancelled",
    }
}

/// The request is at fault.
pub(crate) fn invalid(message: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::Invalid, message: message.into(), retryable: false, worker_fault: false }
}

/// It was meant for a worker of another kind.
pub(crate) fn mismatch(message: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::Mismatch, message: message.into(), retryable: true, worker_fault: false }
}

/// The worker ends.
pub(crate) fn ending() -> Failure {
    let message = "the worker is ending; place it elsewhere".to_owned();
    Failure { kind: FailureKind::Draining, message, retryable: true, worker_fault: false }
}

/// Its reader takes too little.
pub(crate) fn slow_reader(tokens: usize) -> Failure {
    let message = format!("{tokens} output tokens wait for a reader that does not take them (--output-tokens-max)");
    Failure { kind: FailureKind::Cancelled, message, retryable: false, worker_fault: false }
}

/// The last event of an owner's stream.
pub(crate) fn generate_event(failure: Failure) -> w::GenerateEvent {
    w::GenerateEvent { event: Some(w::generate_event::Event::Error(wire(failure))) }
}

/// The last event of a prefill's stream.
pub(crate) fn prefill_event(failure: Failure) -> w::PrefillEvent {
    w::PrefillEvent { event: Some(w::prefill_event::Event::Error(wire(failure))) }
}

impl Lost for w::GenerateEvent {
    fn lost() -> Self {
        generate_event(ending())
    }
}

impl Lost for w::PrefillEvent {
    fn lost() -> Self {
        prefill_event(ending())
    }
}
