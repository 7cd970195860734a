//! Progress on stderr, once something has taken more than a second.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const SILENT: Duration = Duration::from_secs(1);
const INTERVAL_TERMINAL: Duration = Duration::from_millis(200);
const INTERVAL_LOG: Duration = Duration::from_secs(5);

/// One line that is written again and again; on a terminal in place.
pub(crate) struct Progress {
    begun: Instant,
    last: Cell<Option<Instant>>,
    terminal: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), last: Cell::new(None), terminal: std::io::stderr().is_terminal() }
    }

    /// Shows `line`, unless it is too soon.
    pub(crate) fn show(&self, line: impl FnOnce() -> String) {
        let now = Instant::now();
        let interval = if self.terminal { INTERVAL_TERMINAL } else { INTERVAL_LOG };
        let due = match self.last.get() {
            None => now.duration_since(self.begun) >= SILENT,
            Some(last) => now.duration_since(last) >= interval,
        };
        if !due {
            return;
        }
        self.last.set(Some(now));
        let (start, end) = if self.terminal { ("\r\x1b[2K", "") } else { ("", "\n") };
        let mut stderr = std::io::stderr();
        drop(write!(stderr, "{start}hadal: {}{end}", line()));
        drop(stderr.flush());
    }
}

impl Drop for Progress {
    /// Removes the line from a terminal.
    fn drop(&mut self) {
        if self.terminal && self.last.get().is_some() {
            eprint!("\r\x1b[2K");
        }
    }
}
