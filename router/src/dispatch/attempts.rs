//! Whether and where a choice is tried again. Pure: troubles in, verdicts out.
//!
//! A worker that was busy or lost is excluded from the next placements; the coordinator comes back to it when there is
//! nobody else. Once tokens were given to the client, only the numerics class that made them may go on.

use std::time::Duration;

use hadal_proto::cluster as w;
use hadal_router_core::{Failure, FailureKind};
use hadal_shell::grpc::explain;
use hadal_types::NumericsClass;
use tonic::Code;

use crate::backoff::Backoff;

/// Attempts of one choice.
pub(crate) const ATTEMPTS_MAX: u32 = 4;

/// Which worker of a placement is to be avoided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    Decode,
    Prefill,
    Nobody,
}

/// Why an attempt ended before the choice did.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Trouble {
    /// What the client is told if nothing else helps.
    pub(crate) failure: Failure,
    /// Whether another attempt may help.
    pub(crate) again: bool,
    pub(crate) blame: Blame,
    reason: &'static str,
}

impl Trouble {
    /// The worker is gone, or cannot be trusted with this request.
    pub(crate) fn lost(message: impl Into<String>) -> Self {
        let failure = Failure::new(FailureKind::Unavailable, message);
        Self { failure, again: true, blame: Blame::Decode, reason: "lost" }
    }

    /// The worker gave the request away; whoever has room goes on with it.
    pub(crate) fn moved() -> Self {
        Self { blame: Blame::Nobody, ..Self::lost("the worker gave the request away") }
    }

    /// The request cannot be helped.
    pub(crate) fn fatal(failure: Failure) -> Self {
        Self { failure, again: false, blame: Blame::Nobody, reason: "other" }
    }

    /// What a worker says in its stream.
    pub(crate) fn from_error(error: &w::Error) -> Self {
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
        Self { failure: Failure::new(kind, error.message.clone()), again: error.retryable, blame, reason }
    }

    /// What the connection to a worker says.
    pub(crate) fn from_status(status: &tonic::Status) -> Self {
        let kind = match status.code() {
            Code::InvalidArgument | Code::OutOfRange => {
                return Self::fatal(Failure::new(FailureKind::Invalid, explain(status)));
            }
            Code::ResourceExhausted => FailureKind::Overloaded,
            _ => FailureKind::Unavailable,
        };
        Self { failure: Failure::new(kind, explain(status)), ..Self::lost("") }
    }

    /// For metrics and logs.
    pub(crate) fn reason(&self) -> &'static str {
        self.reason
    }
}

/// The attempts of one choice.
#[derive(Debug)]
pub(crate) struct Attempts {
    made: u32,
    exclude: Vec<String>,
    class: Option<NumericsClass>,
    backoff: Backoff,
}

impl Attempts {
    pub(crate) fn new() -> Self {
        let backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        Self { made: 0, exclude: Vec::new(), class: None, backoff }
    }

    /// Attempts that ended in trouble.
    pub(crate) fn made(&self) -> u32 {
        self.made
    }

    /// Workers to avoid.
    pub(crate) fn exclude(&self) -> &[String] {
        &self.exclude
    }

    /// The class that has to go on, once there are tokens.
    pub(crate) fn class(&self) -> Option<NumericsClass> {
        self.class
    }

    /// Tokens of this class went to the client.
    pub(crate) fn emitted(&mut self, class: NumericsClass) {
        self.class.get_or_insert(class);
    }

    /// An attempt at `placement` ended in trouble: how long to wait before the next, or the end.
    pub(crate) fn after(&mut self, placement: &w::Placement, trouble: Trouble) -> Result<Duration, Failure> {
        if !trouble.again {
            return Err(trouble.failure);
        }
        self.made += 1;
        let worker = match trouble.blame {
            Blame::Decode => placement.decode.as_ref(),
            Blame::Prefill => placement.prefill.as_ref(),
            Blame::Nobody => None,
        };
        if self.made >= ATTEMPTS_MAX {
            let whose = worker.map_or("a worker", |worker| worker.id.as_str());
            let message = format!(
                "no worker could finish the request in {ATTEMPTS_MAX} attempts; at the last, {whose} said: {}",
                trouble.failure.message
            );
            let overloaded = trouble.failure.kind == FailureKind::Overloaded;
            let kind = if overloaded { FailureKind::Overloaded } else { FailureKind::Unavailable };
            return Err(Failure::new(kind, message));
        }
        if let Some(worker) = worker.filter(|worker| !self.exclude.contains(&worker.id)) {
            self.exclude.push(worker.id.clone());
        }
        Ok(self.backoff.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement() -> w::Placement {
        let worker = |id: &str| Some(w::WorkerRef { id: id.into(), ..Default::default() });
        w::Placement { decode: worker("d"), prefill: worker("p"), ..Default::default() }
    }

    fn error(kind: w::error::Kind, retryable: bool) -> Trouble {
        Trouble::from_error(&w::Error { kind: kind.into(), message: "why".into(), retryable, worker_fault: true })
    }

    #[test]
    fn whoever_is_to_blame_is_excluded_once() {
        let mut attempts = Attempts::new();
        attempts.after(&placement(), error(w::error::Kind::Prefill, true)).unwrap();
        assert_eq!(attempts.exclude(), ["p"]);
        attempts.after(&placement(), error(w::error::Kind::Busy, true)).unwrap();
        attempts.after(&placement(), error(w::error::Kind::Busy, true)).unwrap();
        assert_eq!(attempts.exclude(), ["p", "d"]);
    }

    #[test]
    fn the_fourth_trouble_is_the_end_and_says_who_and_why() {
        let mut attempts = Attempts::new();
        for _ in 0..3 {
            attempts.after(&placement(), error(w::error::Kind::Busy, true)).unwrap();
        }
        let failure = attempts.after(&placement(), error(w::error::Kind::Busy, true)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Overloaded);
        assert!(failure.message.contains("d said: why"), "{failure}");
    }

    #[test]
    fn a_fault_of_the_request_is_not_tried_again() {
        let mut attempts = Attempts::new();
        let failure = attempts.after(&placement(), error(w::error::Kind::Invalid, false)).unwrap_err();
        assert_eq!((failure.kind, attempts.made()), (FailureKind::Invalid, 0));
        let status = tonic::Status::invalid_argument("bad");
        assert!(attempts.after(&placement(), Trouble::from_status(&status)).is_err());
    }

    #[test]
    fn the_class_of_the_first_tokens_stays() {
        let mut attempts = Attempts::new();
        attempts.emitted(NumericsClass([1; 16]));
        attempts.emitted(NumericsClass([2; 16]));
        assert_eq!(attempts.class(), Some(NumericsClass([1; 16])));
    }
}
