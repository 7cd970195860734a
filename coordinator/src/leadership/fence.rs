//! Until when this coordinator may give commands that change state.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Open while the lease surely lasts, by this process's own clock: a leader that was stopped finds it closed when it
/// wakes, before it has heard of anything.
#[derive(Debug)]
pub(crate) struct Fence(Mutex<Option<Instant>>);

impl Fence {
    /// A closed one.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Opens it until an instant, or closes it.
    pub(crate) fn set(&self, until: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Whether a command may be given at this instant, which is now.
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_closes_by_itself() {
        let (fence, now) = (Fence::new(), Instant::now());
        assert!(!fence.is_open(now));
        fence.set(Some(now + Duration::from_secs(1)));
        assert!(fence.is_open(now));
        assert!(!fence.is_open(now + Duration::from_secs(1)));
        fence.set(None);
        assert!(!fence.is_open(now));
    }
}
