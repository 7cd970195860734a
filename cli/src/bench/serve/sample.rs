//! What was seen of one request. Pure.

use std::time::{Duration, Instant};

/// Counts that a server reports.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    pub(super) prompt: Option<u32>,
    pub(super) output: Option<u32>,
    pub(super) cached: Option<u32>,
}

/// An answer as it comes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Answer {
    /// When its first token or text came.
    first: Option<Instant>,
    /// When its last one came.
    last: Option<Instant>,
    /// Tokens seen, or pieces of text where a server does not tell tokens.
    seen: u32,
    /// When it was complete.
    ended: Option<Instant>,
    pub(super) usage: Usage,
}

impl Answer {
    /// So many tokens came.
    pub(super) fn on_tokens(&mut self, now: Instant, count: u32) {
        if count > 0 {
            self.first.get_or_insert(now);
            self.last = Some(now);
            self.seen = self.seen.saturating_add(count);
        }
    }

    /// Takes what is reported in place of what was before.
    pub(super) fn on_usage(&mut self, usage: Usage) {
        self.usage = Usage {
            prompt: usage.prompt.or(self.usage.prompt),
            output: usage.output.or(self.usage.output),
            cached: usage.cached.or(self.usage.cached),
        };
    }

    /// It is complete; what else a connection does is no part of it.
    pub(super) fn on_end(&mut self, now: Instant) {
        self.ended.get_or_insert(now);
    }

    /// Whether anything came.
    pub(super) fn any(&self) -> bool {
        self.seen > 0 || self.usage.output.is_some_and(|tokens| tokens > 0)
    }
}

/// Why there was no answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure {
    /// Few and short, to count by: `timeout`, `http 429 overloaded`.
    pub(super) kind: String,
    /// What exactly was said.
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: kind.into(), message: message.into() }
    }
}

/// One request that has ended. Times are from the start of the run.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// When it should have been sent: what a user would have seen counts from here.
    pub(super) due: Duration,
    pub(super) sent: Duration,
    pub(super) ended: Duration,
    pub(super) first: Option<Duration>,
    pub(super) last: Option<Duration>,
    /// Tokens that the prompt should have had.
    pub(super) wanted: u32,
    pub(super) seen: u32,
    pub(super) usage: Usage,
}

impl Sample {
    /// From an answer.
    pub(super) fn new(begun: Instant, (due, sent): (Instant, Instant), wanted: u32, answer: &Answer) -> Self {
        let after = |at: Instant| at.saturating_duration_since(begun);
        Self {
            due: after(due),
            sent: after(sent),
            ended: after(answer.ended.unwrap_or_else(Instant::now)),
            first: answer.first.map(after),
            last: answer.last.map(after),
            wanted,
            seen: answer.seen,
            usage: answer.usage,
        }
    }

    /// Tokens of the answer.
    pub(super) fn output_tokens(&self) -> u32 {
        self.usage.output.unwrap_or(self.seen)
    }

    /// Time to the first token, ms.
    pub(super) fn ttft(&self) -> Option<f64> {
        self.first.map(|first| ms(first.saturating_sub(self.due)))
    }

    /// Time for each further token, ms; none for an answer of one.
    pub(super) fn tpot(&self) -> Option<f64> {
        let further = self.output_tokens().checked_sub(1).filter(|further| *further > 0)?;
        Some(ms(self.last?.saturating_sub(self.first?)) / f64::from(further))
    }

    /// From due to the end, ms.
    pub(super) fn whole(&self) -> f64 {
        ms(self.ended.saturating_sub(self.due))
    }

    /// How late it was sent, ms.
    pub(super) fn late(&self) -> f64 {
        ms(self.sent.saturating_sub(self.due))
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_count_from_when_a_request_was_due() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut answer = Answer::default();
        answer.on_tokens(at(400), 0);
        assert!(!answer.any());
        answer.on_tokens(at(500), 1);
        answer.on_tokens(at(600), 3);
        answer.on_tokens(at(900), 1);
        answer.on_end(at(950));
        answer.on_end(at(990));
        let sample = Sample::new(begun, (at(100), at(250)), 7, &answer);
        assert_eq!((sample.ttft(), sample.tpot(), sample.late()), (Some(400.0), Some(100.0), 150.0));
        assert_eq!(sample.whole(), 850.0);
        assert_eq!(sample.output_tokens(), 5);
        // What the server counts is right where pieces are no tokens.
        answer.on_usage(Usage { output: Some(9), ..Usage::default() });
        answer.on_usage(Usage { prompt: Some(4), ..Usage::default() });
        let sample = Sample::new(begun, (at(100), at(250)), 7, &answer);
        assert_eq!((sample.output_tokens(), sample.tpot(), sample.usage.prompt), (9, Some(50.0), Some(4)));
    }

    #[test]
    fn one_token_has_no_time_for_further_ones() {
        let begun = Instant::now();
        let mut answer = Answer::default();
        answer.on_tokens(begun, 1);
        assert_eq!(Sample::new(begun, (begun, begun), 1, &answer).tpot(), None);
        assert_eq!(Sample::new(begun, (begun, begun), 1, &Answer::default()).ttft(), None);
    }
}
