//! From samples to figures. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::sample::{Failure, Sample};

/// Kinds of failures that are told apart; what is beyond counts as `other`.
const KINDS_MAX: usize = 16;

/// How values are spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) count: usize,
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Of values in any order; none of none.
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let values = sorted(values);
        let max = *values.last()?;
        let at = |percent| percentile(&values, percent).unwrap_or(max);
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Some(Self { count: values.len(), mean, p50: at(50), p90: at(90), p95: at(95), p99: at(99), max })
    }
}

/// By size.
pub(super) fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The smallest value that so many percent of all are not above (nearest rank).
pub(super) fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// What users are promised.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Slo {
    pub(super) ttft_ms: Option<f64>,
    pub(super) tpot_ms: Option<f64>,
}

impl Slo {
    pub(super) fn any(&self) -> bool {
        self.ttft_ms.is_some() || self.tpot_ms.is_some()
    }

    /// Whether a request kept it. An answer of one token has no time between tokens to keep.
    fn met(&self, sample: &Sample) -> bool {
        let within = |limit: Option<f64>, value: Option<f64>| match (limit, value) {
            (Some(limit), Some(value)) => value <= limit,
            _ => true,
        };
        sample.first.is_some() && within(self.ttft_ms, sample.ttft()) && within(self.tpot_ms, sample.tpot())
    }
}

/// Failures of one kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failed {
    pub(super) count: usize,
    /// What the first one said.
    pub(super) example: String,
}

/// All that has ended so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) samples: Vec<Sample>,
    pub(super) failures: BTreeMap<String, Failed>,
}

impl Seen {
    pub(super) fn fail(&mut self, failure: Failure) {
        let known = self.failures.contains_key(&failure.kind) || self.failures.len() < KINDS_MAX;
        let kind = if known { failure.kind } else { "other".to_owned() };
        self.failures.entry(kind).or_insert(Failed { count: 0, example: failure.message }).count += 1;
    }

    pub(super) fn failed(&self) -> usize {
        self.failures.values().map(|failed| failed.count).sum()
    }

    pub(super) fn ended(&self) -> usize {
        self.samples.len() + self.failed()
    }
}

/// The figures of a run.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) duration_s: f64,
    pub(super) requests_per_s: f64,
    pub(super) output_tokens_per_s: f64,
    pub(super) prompt_tokens_per_s: f64,
    pub(super) output_tokens: u64,
    /// Tokens that the prompts of all answered requests should have had.
    pub(super) prompt_wanted: u64,
    /// What the server counted; none when it does not count.
    pub(super) prompt_tokens: Option<u64>,
    /// Of these from a cache; none when the server does not say.
    pub(super) cached_tokens: Option<u64>,
    /// Answers whose tokens were counted by pieces of text.
    pub(super) uncounted: usize,
    pub(super) ttft: Option<Spread>,
    pub(super) tpot: Option<Spread>,
    pub(super) whole: Option<Spread>,
    pub(super) late: Option<Spread>,
    /// Requests that kept the SLO.
    pub(super) good: usize,
    /// That as a share of all that ended.
    pub(super) good_share: f64,
    pub(super) good_per_s: f64,
}

impl Figures {
    /// Of what ended within `duration`.
    pub(super) fn of(seen: &Seen, duration: Duration, slo: &Slo) -> Self {
        let samples = &seen.samples;
        let seconds = duration.as_secs_f64().max(1e-9);
        let total = |of: fn(&Sample) -> Option<u32>| {
            samples.iter().any(|s| of(s).is_some()).then(|| samples.iter().filter_map(of).map(u64::from).sum::<u64>())
        };
        let output_tokens: u64 = samples.iter().map(|s| u64::from(s.output_tokens())).sum();
        let prompt_wanted: u64 = samples.iter().map(|s| u64::from(s.wanted)).sum();
        let prompt_tokens = total(|s| s.usage.prompt);
        let good = samples.iter().filter(|s| slo.met(s)).count();
        Self {
            duration_s: seconds,
            requests_per_s: samples.len() as f64 / seconds,
            output_tokens_per_s: output_tokens as f64 / seconds,
            prompt_tokens_per_s: prompt_tokens.unwrap_or(prompt_wanted) as f64 / seconds,
            output_tokens,
            prompt_wanted,
            prompt_tokens,
            cached_tokens: total(|s| s.usage.cached),
            uncounted: samples.iter().filter(|s| s.usage.output.is_none()).count(),
            ttft: Spread::of(samples.iter().filter_map(Sample::ttft)),
            tpot: Spread::of(samples.iter().filter_map(Sample::tpot)),
            whole: Spread::of(samples.iter().map(Sample::whole)),
            late: Spread::of(samples.iter().map(Sample::late)),
            good,
            good_share: good as f64 / seen.ended().max(1) as f64,
            good_per_s: good as f64 / seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::serve::sample::Usage;

    fn sample(ttft: u64, tpot: u64, tokens: u32) -> Sample {
        let ms = Duration::from_millis;
        let last = ms(10 + ttft + tpot * u64::from(tokens - 1));
        Sample {
            due: ms(10),
            sent: ms(12),
            ended: last,
            first: Some(ms(10 + ttft)),
            last: Some(last),
            wanted: 100,
            seen: tokens,
            usage: Usage { prompt: Some(90), output: Some(tokens), cached: Some(30) },
        }
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values = sorted((1..=200).rev().map(f64::from));
        let at = |percent| percentile(&values, percent).unwrap();
        assert_eq!([at(0), at(50), at(90), at(99), at(100)], [1.0, 100.0, 180.0, 198.0, 200.0]);
        let spread = Spread::of([3.0, 1.0, 2.0].into_iter()).unwrap();
        assert_eq!((spread.mean, spread.p50, spread.p90, spread.max, spread.count), (2.0, 2.0, 3.0, 3.0, 3));
        assert_eq!(Spread::of(std::iter::empty()), None);
    }

    #[test]
    fn figures_count_what_was_answered_and_goodput_what_was_kept() {
        let mut seen =
            Seen { samples: vec![sample(100, 10, 11), sample(300, 10, 1), sample(100, 30, 5)], ..Seen::default() };
        seen.fail(Failure::new("timeout", "first"));
        let slo = Slo { ttft_ms: Some(200.0), tpot_ms: Some(20.0) };
        let figures = Figures::of(&seen, Duration::from_secs(2), &slo);
        assert_eq!((figures.output_tokens, figures.output_tokens_per_s, figures.requests_per_s), (17, 8.5, 1.5));
        assert_eq!((figures.prompt_tokens, figures.prompt_wanted, figures.cached_tokens), (Some(270), 300, Some(90)));
        assert_eq!((figures.good, figures.good_share, figures.good_per_s), (1, 0.25, 0.5));
        assert_eq!(
            (figures.ttft.unwrap().max, figures.tpot.unwrap().count, figures.late.unwrap().mean),
            (300.0, 2, 2.0)
        );
        let only_tpot = Figures::of(&seen, Duration::from_secs(2), &Slo { ttft_ms: None, ..slo });
        assert_eq!(only_tpot.good, 2);
    }

    #[test]
    fn nothing_has_figures_too() {
        let figures = Figures::of(&Seen::default(), Duration::ZERO, &Slo::default());
        assert_eq!((figures.requests_per_s, figures.good_share, figures.ttft), (0.0, 0.0, None));
        assert_eq!((figures.prompt_tokens, figures.cached_tokens), (None, None));
    }

    #[test]
    fn kinds_of_failures_are_bounded_and_all_are_counted() {
        let mut seen = Seen::default();
        for i in 0..100 {
            seen.fail(Failure::new(format!("kind {}", i % 50), format!("message {i}")));
        }
        assert_eq!((seen.failed(), seen.failures.len()), (100, KINDS_MAX + 1));
        assert_eq!(seen.failures["kind 0"], Failed { count: 2, example: "message 0".into() });
    }
}
