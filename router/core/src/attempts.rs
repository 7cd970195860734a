//! Whether and where a choice is tried again. Pure: troubles in, verdicts out.
//!
//! A worker that was busy or lost is excluded from the next placements; the coordinator comes back to it when there is
//! nobody else. Once tokens were given to the client, only the numerics class that made them may go on.

use std::time::Duration;

use hadal_types::{NumericsClass, WorkerId};

use crate::backoff::Backoff;
use crate::failure::{Failure, FailureKind};

/// Attempts of one choice.
pub const ATTEMPTS_MAX: u32 = 4;

/// Which worker of a placement is to be avoided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The one that owns the request.
    Decode,
    /// The one that computed its prompt.
    Prefill,
    /// None of them.
    Nobody,
}

/// The workers of a placement, as far as they can be blamed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// The one that owns the request.
    pub decode: Option<WorkerId>,
    /// The one that computes its prompt, if that is another.
    pub prefill: Option<WorkerId>,
}

/// Why an attempt ended before the choice did.
#[derive(Clone, Debug, PartialEq)]
pub struct Trouble {
    /// What the client is told if nothing else helps.
    pub failure: Failure,
    /// Whether another attempt may help.
    pub again: bool,
    /// Whose fault it is.
    pub blame: Blame,
    /// For metrics and logs.
    pub reason: &'static str,
}

impl Trouble {
    /// The worker is gone, or cannot be trusted with this request.
    pub fn lost(message: impl Into<String>) -> Self {
        let failure = Failure::new(FailureKind::Unavailable, message);
        Self { failure, again: true, blame: Blame::Decode, reason: "lost" }
    }

    /// The worker gave the request away; whoever has room goes on with it.
    pub fn moved() -> Self {
        Self { blame: Blame::Nobody, ..Self::lost("the worker gave the request away") }
    }

    /// The request cannot be helped.
    pub fn fatal(failure: Failure) -> Self {
        Self { failure, again: false, blame: Blame::Nobody, reason: "other" }
    }
}

/// The attempts of one choice.
#[derive(Debug)]
pub struct Attempts {
    made: u32,
    exclude: Vec<WorkerId>,
    class: Option<NumericsClass>,
    backoff: Backoff,
}

impl Attempts {
    /// None made yet.
    pub fn new() -> Self {
        let backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        Self { made: 0, exclude: Vec::new(), class: None, backoff }
    }

    /// Attempts that ended in trouble.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// Workers to avoid.
    pub fn exclude(&self) -> &[WorkerId] {
        &self.exclude
    }

    /// The class that has to go on, once there are tokens.
    pub fn class(&self) -> Option<NumericsClass> {
        self.class
    }

    /// Tokens of this class went to the client.
    pub fn emitted(&mut self, class: NumericsClass) {
        self.class.get_or_insert(class);
    }

    /// An attempt at a placement ended in trouble: how long to wait before the next.
    ///
    /// # Errors
    /// The end: nothing helps, or enough was tried.
    pub fn after(&mut self, placed: &Placed, trouble: Trouble) -> Result<Duration, Failure> {
        if !trouble.again {
            return Err(trouble.failure);
        }
        self.made += 1;
        let worker = match trouble.blame {
            Blame::Decode => placed.decode.as_ref(),
            Blame::Prefill => placed.prefill.as_ref(),
            Blame::Nobody => None,
        };
        if self.made >= ATTEMPTS_MAX {
            let whose = worker.map_or("a worker", |worker| worker.0.as_str());
            let message = format!(
                "no worker could finish the request in {ATTEMPTS_MAX} attempts; at the last, {whose} said: {}",
                trouble.failure.message
            );
            let overloaded = trouble.failure.kind == FailureKind::Overloaded;
            let kind = if overloaded { FailureKind::Overloaded } else { FailureKind::Unavailable };
            return Err(Failure::new(kind, message));
        }
        if let Some(worker) = worker.filter(|worker| !self.exclude.contains(worker)) {
            self.exclude.push(worker.clone());
        }
        Ok(self.backoff.wait())
    }
}

impl Default for Attempts {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed() -> Placed {
        let worker = |id: &str| Some(WorkerId(id.into()));
        Placed { decode: worker("d"), prefill: worker("p") }
    }

    fn trouble(blame: Blame) -> Trouble {
        Trouble { failure: Failure::new(FailureKind::Overloaded, "why"), blame, ..Trouble::lost("") }
    }

    fn ids(attempts: &Attempts) -> Vec<&str> {
        attempts.exclude().iter().map(|worker| worker.0.as_str()).collect()
    }

    #[test]
    fn whoever_is_to_blame_is_excluded_once() {
        let mut attempts = Attempts::new();
        attempts.after(&placed(), trouble(Blame::Prefill)).unwrap();
        assert_eq!(ids(&attempts), ["p"]);
        attempts.after(&placed(), trouble(Blame::Decode)).unwrap();
        attempts.after(&placed(), trouble(Blame::Decode)).unwrap();
        assert_eq!(ids(&attempts), ["p", "d"]);
    }

    #[test]
    fn nobody_is_excluded_for_what_is_nobodys_fault() {
        let mut attempts = Attempts::new();
        attempts.after(&placed(), Trouble::moved()).unwrap();
        assert!(attempts.exclude().is_empty());
    }

    #[test]
    fn the_fourth_trouble_is_the_end_and_says_who_and_why() {
        let mut attempts = Attempts::new();
        for _ in 0..3 {
            attempts.after(&placed(), trouble(Blame::Decode)).unwrap();
        }
        let failure = attempts.after(&placed(), trouble(Blame::Decode)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Overloaded);
        assert!(failure.message.contains("d said: why"), "{failure}");
    }

    #[test]
    fn a_fault_of_the_request_is_not_tried_again() {
        let mut attempts = Attempts::new();
        let fatal = Trouble::fatal(Failure::new(FailureKind::Invalid, "bad"));
        let failure = attempts.after(&placed(), fatal).unwrap_err();
        assert_eq!((failure.kind, attempts.made()), (FailureKind::Invalid, 0));
    }

    #[test]
    fn the_class_of_the_first_tokens_stays() {
        let mut attempts = Attempts::new();
        attempts.emitted(NumericsClass([1; 16]));
        attempts.emitted(NumericsClass([2; 16]));
        assert_eq!(attempts.class(), Some(NumericsClass([1; 16])));
    }
}
