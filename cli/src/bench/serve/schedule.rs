//! Which requests are made, how long, and when. Pure: the same seed gives the same load.

use std::time::Duration;

use super::trace::{BLOCK_TOKENS, Request};
use crate::draws::Draws;

/// What decides when a request is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pace {
    /// When one before has ended: so many are under way.
    Closed { concurrency: usize },
    /// At random times that do not depend on answers: so many a second, in a Poisson process.
    Poisson { rate: f64 },
    /// At the trace's own times, so many times as fast.
    Trace { speed: f64 },
}

/// Lengths that are drawn evenly, ends included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Lengths {
    low: u32,
    high: u32,
}

impl std::str::FromStr for Lengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| (1..=1 << 24).contains(n));
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        match (number(low), number(high)) {
            (Some(low), Some(high)) if low <= high => Ok(Self { low, high }),
            _ => Err("write a number of tokens, or two for a range: 512 or 128-1024".to_owned()),
        }
    }
}

impl Lengths {
    fn draw(self, draws: &mut Draws) -> u32 {
        self.low + draws.below((self.high - self.low) as usize + 1) as u32
    }
}

/// Requests of no trace; what their prompts consist of is left to each.
pub(super) fn synthetic(count: usize, input: Lengths, output: Lengths, draws: &mut Draws) -> Vec<Request> {
    let request =
        |_| Request { input_tokens: input.draw(draws), output_tokens: output.draw(draws), ..Request::default() };
    (0..count).map(request).collect()
}

/// A trace for a smaller model: how much of every length is left, and of every block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    pub(super) input: f64,
    pub(super) output: f64,
}

impl Scale {
    /// A length, at least 1.
    fn tokens(tokens: u32, scale: f64) -> u32 {
        (f64::from(tokens) * scale).round().max(1.0) as u32
    }

    /// Tokens of a block that an id stands for.
    pub(super) fn block_tokens(self) -> usize {
        Self::tokens(BLOCK_TOKENS, self.input) as usize
    }

    /// Shortens or lengthens all requests.
    pub(super) fn apply(self, requests: &mut [Request]) {
        for request in requests {
            request.input_tokens = Self::tokens(request.input_tokens, self.input);
            request.output_tokens = Self::tokens(request.output_tokens, self.output);
        }
    }
}

/// When each request is due, after the start; none for one that waits for another to end.
pub(super) fn due(pace: Pace, requests: &[Request], draws: &mut Draws) -> Vec<Option<Duration>> {
    let mut at = 0.0;
    let mut next = |rate: f64| {
        // The first one is due after a gap, too: a process has no beginning.
        at += -(1.0 - draws.share()).ln() / rate;
        at
    };
    let of = |request: &Request| match pace {
        Pace::Closed { .. } => None,
        Pace::Poisson { rate } => Some(seconds(next(rate))),
        Pace::Trace { speed } => Some(seconds(request.at.as_secs_f64() / speed)),
    };
    requests.iter().map(of).collect()
}

/// What is farther away than this does not come: about 30 years.
const FAR: f64 = 1e9;

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, FAR))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(count: u64) -> Vec<Request> {
        (0..count).map(|i| Request { at: Duration::from_secs(2 * i), ..Request::default() }).collect()
    }

    #[test]
    fn a_closed_loop_waits_for_answers() {
        assert_eq!(due(Pace::Closed { concurrency: 2 }, &requests(3), &mut Draws::new(1)), [None; 3]);
    }

    #[test]
    fn a_trace_keeps_its_times_at_any_speed() {
        let times = due(Pace::Trace { speed: 4.0 }, &requests(3), &mut Draws::new(1));
        assert_eq!(times, [0, 500, 1000].map(|ms| Some(Duration::from_millis(ms))));
        let never = due(Pace::Trace { speed: 1e-300 }, &requests(2), &mut Draws::new(1));
        assert_eq!(never[1], Some(Duration::from_secs(1_000_000_000)));
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_scatter_of_the_process() {
        let times: Vec<f64> = due(Pace::Poisson { rate: 50.0 }, &requests(20_000), &mut Draws::new(3))
            .into_iter()
            .map(|at| at.unwrap().as_secs_f64())
            .collect();
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean * 50.0 - 1.0).abs() < 0.03, "{mean}");
        // Exponential gaps scatter as far as they are long.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "{variance}");
        assert_eq!(
            due(Pace::Poisson { rate: 50.0 }, &requests(9), &mut Draws::new(3))[8].unwrap().as_secs_f64(),
            times[8]
        );
    }

    #[test]
    fn lengths_are_numbers_or_ranges() {
        let lengths = |text: &str| text.parse::<Lengths>();
        let mut draws = Draws::new(5);
        let drawn: Vec<u32> = (0..200).map(|_| lengths("7-9").unwrap().draw(&mut draws)).collect();
        assert!((7..=9).all(|n| drawn.contains(&n)) && drawn.iter().all(|n| (7..=9).contains(n)));
        assert_eq!(lengths("512").unwrap(), Lengths { low: 512, high: 512 });
        for wrong in ["", "0", "9-7", "-3", "a", "1-2-3", "99999999"] {
            assert!(lengths(wrong).is_err(), "{wrong}");
        }
        let two = synthetic(2, lengths("3").unwrap(), lengths("4").unwrap(), &mut draws);
        assert_eq!(two.iter().map(|r| (r.input_tokens, r.output_tokens)).collect::<Vec<_>>(), [(3, 4); 2]);
    }

    #[test]
    fn a_scale_shortens_requests_and_their_blocks_alike() {
        let scale = Scale { input: 0.125, output: 0.5 };
        let mut all = [Request { input_tokens: 1000, output_tokens: 10, ..Request::default() }, Request::default()];
        scale.apply(&mut all);
        assert_eq!((all[0].input_tokens, all[0].output_tokens, scale.block_tokens()), (125, 5, 64));
        assert_eq!((all[1].input_tokens, all[1].output_tokens), (1, 1));
        assert_eq!(Scale { input: 1e-9, output: 1.0 }.block_tokens(), 1);
    }
}
