//! What a bench times with. One thread is timed by its own CPU time, which other work on the machine disturbs least. Of
//! several, the time of the day counts: their CPU times leave out that one waits for another.

use rustix::time::{ClockId, clock_gettime};

/// A clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// CPU time of the calling thread.
    Thread,
    /// Time of the day, from some instant on.
    Wall,
}

impl Clock {
    /// That of so many threads.
    pub(crate) fn of(threads: usize) -> Self {
        if threads == 1 { Clock::Thread } else { Clock::Wall }
    }

    /// Seconds, from some instant on.
    pub(crate) fn now(self) -> f64 {
        let time = clock_gettime(match self {
            Clock::Thread => ClockId::ThreadCPUTime,
            Clock::Wall => ClockId::Monotonic,
        });
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    }

    /// As in tables and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Clock::Thread => "thread-cpu",
            Clock::Wall => "wall",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_is_timed_by_what_it_computes() {
        assert_eq!((Clock::of(1), Clock::of(2)), (Clock::Thread, Clock::Wall));
        // Another thread's work is time of the day alone.
        let before = [Clock::Thread, Clock::Wall].map(Clock::now);
        let worked = std::thread::spawn(|| {
            let begun = Clock::Thread.now();
            while Clock::Thread.now() < begun + 0.05 {}
        });
        worked.join().unwrap();
        let [thread, wall] = [Clock::Thread, Clock::Wall].map(Clock::now);
        assert!(wall - before[1] >= 0.05 && thread - before[0] < wall - before[1]);
    }
}
