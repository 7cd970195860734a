//! Waits between attempts: doubled each time, up to a bound.

use std::time::Duration;

/// The next wait.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits from `first` on, `most` at the longest.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// How long to wait now.
    pub fn wait(&mut self) -> Duration {
        let now = self.next;
        self.next = self.most.min(now * 2);
        now
    }

    /// The next wait is the first again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_bound_and_start_again() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(350));
        assert_eq!(
            [backoff.wait(), backoff.wait(), backoff.wait(), backoff.wait()],
            [ms(100), ms(200), ms(350), ms(350)]
        );
        backoff.reset();
        assert_eq!(backoff.wait(), ms(100));
    }
}
