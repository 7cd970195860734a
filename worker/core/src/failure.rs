//! Why a request was refused or ended early: every failure that the core can tell, in one place.

/// Kinds of failure, as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// No memory for it now.
    Busy,
    /// The request is at fault.
    Invalid,
    /// Its deadline or lease is over.
    Deadline,
    /// Another model, class or layout. (The shell's check; the core never says so.)
    Mismatch,
    /// The worker takes nothing new.
    Draining,
    /// The way to the other worker failed.
    Prefill,
    /// NaN or infinity in the logits.
    Numerics,
    /// The engine failed.
    Internal,
    /// The stream was dropped.
    Cancelled,
}

/// Why a request was refused or ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// What is wrong and what to do.
    pub message: String,
    /// Whether another worker could do it.
    pub retryable: bool,
    /// Whether the worker is at fault, or else the request or its owner.
    pub worker_fault: bool,
}

impl Failure {
    /// No room now; another worker may have some.
    pub(crate) fn busy(message: String) -> Self {
        Self { kind: FailureKind::Busy, message, retryable: true, worker_fault: false }
    }

    /// The request cannot be served by any worker of this model and size.
    pub(crate) fn invalid(message: String) -> Self {
        Self { kind: FailureKind::Invalid, message, retryable: false, worker_fault: false }
    }

    pub(crate) fn draining() -> Self {
        let message = "the worker is draining and takes no new request; place it elsewhere".into();
        Self { kind: FailureKind::Draining, message, retryable: true, worker_fault: false }
    }

    pub(crate) fn deadline(what: &str) -> Self {
        let message = format!("the {what} is over");
        Self { kind: FailureKind::Deadline, message, retryable: false, worker_fault: false }
    }

    pub(crate) fn cancelled() -> Self {
        let message = "the stream was dropped".into();
        Self { kind: FailureKind::Cancelled, message, retryable: false, worker_fault: false }
    }

    /// The transfer to the owner of a prefill broke.
    pub(crate) fn transfer(why: &str) -> Self {
        let message = format!("sending the computed rows failed: {why}");
        Self { kind: FailureKind::Prefill, message, retryable: true, worker_fault: false }
    }

    /// Another worker of the class would compute the same bits, so it is not worth a try.
    pub(crate) fn numerics(position: usize) -> Self {
        let message = format!("NaN or infinity in the logits after position {position}; check the weights");
        Self { kind: FailureKind::Numerics, message, retryable: false, worker_fault: true }
    }

    pub(crate) fn internal(message: String) -> Self {
        Self { kind: FailureKind::Internal, message, retryable: true, worker_fault: true }
    }
}
