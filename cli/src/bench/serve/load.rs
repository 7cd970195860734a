//! Makes the load: sends each request when it is due, and keeps what was seen. Never more requests are under way than
//! allowed, and what waits for that counts its time from when it was due.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hadal_shell::exit::Exit;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::door::Door;
use super::prompt::Run;
use super::sample::{Failure, Sample};
use super::stats::Seen;
use super::trace::Request;
use crate::fault::Fault;
use crate::progress::Progress;

/// How often progress is shown while nothing ends.
const TICK: Duration = Duration::from_millis(200);

/// What is sent, where, and how much at a time.
pub(super) struct Load {
    pub(super) door: Door,
    pub(super) run: Run,
    pub(super) requests: Vec<Request>,
    /// After the start; none: as soon as there is room.
    pub(super) due: Vec<Option<Duration>>,
    /// Requests that may be under way.
    pub(super) limit: usize,
    /// How long one may take from its sending.
    pub(super) timeout: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) seen: Seen,
    /// From the start to the last end, or to the interrupt.
    pub(super) duration: Duration,
    /// Sent, and under way when it was interrupted.
    pub(super) unfinished: usize,
    pub(super) interrupted: bool,
}

impl Load {
    /// Sends everything, or until an interrupt.
    ///
    /// # Errors
    /// When a task breaks, which is a fault of the program.
    pub(super) async fn run(self, interrupts: &mut mpsc::Receiver<()>) -> Result<Loaded, Fault> {
        let count = self.requests.len();
        let (progress, begun) = (Progress::new(), Instant::now());
        let load = Arc::new(self);
        // Dropped at an interrupt, and that cancels what is under way.
        let mut running = JoinSet::new();
        let (mut next, mut loaded) = (0, Loaded::default());
        loop {
            while next < count && running.len() < load.limit && load.is_due(next, begun) {
                running.spawn(load.clone().one(next, begun));
                next += 1;
            }
            if next == count && running.is_empty() {
                loaded.duration = begun.elapsed();
                return Ok(loaded);
            }
            progress.show(|| bar(&loaded.seen, count, running.len(), begun.elapsed()));
            let wait = load.wait(next, begun, running.len());
            tokio::select! {
                Some(ended) = running.join_next() => match ended {
                    Ok(Ok(sample)) => loaded.seen.samples.push(sample),
                    Ok(Err(failure)) => loaded.seen.fail(failure),
                    Err(broken) => return Err(Fault::new(Exit::Software, broken)),
                },
                () = sleep_until(wait.into()) => {}
                Some(()) = interrupts.recv() => {
                    loaded = Loaded { duration: begun.elapsed(), unfinished: running.len(), interrupted: true, ..loaded };
                    return Ok(loaded);
                }
            }
        }
    }

    fn at(&self, index: usize, begun: Instant) -> Option<Instant> {
        begun.checked_add(self.due.get(index).copied().flatten()?)
    }

    fn is_due(&self, index: usize, begun: Instant) -> bool {
        self.at(index, begun).is_none_or(|at| at <= Instant::now())
    }

    /// Until when nothing is to be done but to look at progress.
    fn wait(&self, next: usize, begun: Instant, running: usize) -> Instant {
        let tick = Instant::now() + TICK;
        match self.at(next, begun) {
            Some(at) if running < self.limit => at.min(tick),
            _ => tick,
        }
    }

    /// One request from its prompt to its end.
    async fn one(self: Arc<Self>, index: usize, begun: Instant) -> Result<Sample, Failure> {
        let request = self.requests.get(index).ok_or_else(|| Failure::new("internal", "no such request"))?;
        let prompt = self.door.prompt(&self.run.pieces(index, request));
        let sent = Instant::now();
        let due = self.at(index, begun).unwrap_or(sent);
        let late = || Failure::new("timeout", format!("no whole answer within {:?}", self.timeout));
        let answer =
            timeout(self.timeout, self.door.ask(prompt, request.output_tokens)).await.map_err(|_| late())??;
        Ok(Sample::new(begun, (due, sent), request.input_tokens, &answer))
    }
}

/// Characters of the bar.
const BAR: usize = 24;

fn bar(seen: &Seen, count: usize, running: usize, elapsed: Duration) -> String {
    let ended = seen.ended();
    let full = BAR * ended / count.max(1);
    let failed = match seen.failed() {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    let (full, empty) = ("#".repeat(full), ".".repeat(BAR - full));
    format!("[{full}{empty}] {ended} of {count}{failed}, {running} under way, {} s", elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_shows_how_far_it_is() {
        let mut seen = Seen::default();
        assert_eq!(bar(&seen, 4, 1, Duration::ZERO), format!("[{}] 0 of 4, 1 under way, 0 s", ".".repeat(24)));
        seen.fail(Failure::new("timeout", ""));
        let half = bar(&seen, 2, 1, Duration::from_millis(1900));
        assert_eq!(half, format!("[{}{}] 1 of 2, 1 failed, 1 under way, 1 s", "#".repeat(12), ".".repeat(12)));
    }
}
