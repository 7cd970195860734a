//! What a run found, as a table and curves for people and as JSON for programs. Pure.

use std::fmt::Write;

use serde_json::{Value, json};

use super::load::Loaded;
use super::schedule::Pace;
use super::stats::{Figures, Slo, Spread, percentile, sorted};
use crate::plot::{Curve, Plot};

/// What was run.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) model: String,
    /// `http` or `grpc`.
    pub(super) door: &'static str,
    /// As given.
    pub(super) target: String,
    pub(super) pace: Pace,
    /// The trace's file; none for synthetic lengths.
    pub(super) trace: Option<String>,
    pub(super) requests: usize,
    pub(super) seed: u64,
    pub(super) slo: Slo,
    pub(super) notes: Vec<&'static str>,
}

/// A run and its figures.
pub(super) struct Report {
    pub(super) about: About,
    pub(super) loaded: Loaded,
    pub(super) figures: Figures,
}

impl Report {
    pub(super) fn new(about: About, loaded: Loaded) -> Self {
        let figures = Figures::of(&loaded.seen, loaded.duration, &about.slo);
        Self { about, loaded, figures }
    }

    /// Tables.
    pub(super) fn table(&self) -> String {
        let mut out = String::new();
        self.head(&mut out);
        self.latencies(&mut out);
        self.rates(&mut out);
        self.failures(&mut out);
        for note in &self.about.notes {
            let _ = writeln!(out, "\n{note}");
        }
        out.truncate(out.trim_end().len());
        out
    }

    fn head(&self, out: &mut String) {
        let About { model, door, target, trace, requests, seed, .. } = &self.about;
        let what = trace.as_ref().map_or_else(|| "synthetic lengths".to_owned(), Clone::clone);
        let _ = writeln!(out, "{model} at {target} ({door}): {}, {what}, seed {seed}", self.pace());
        let (answered, failed) = (self.loaded.seen.samples.len(), self.loaded.seen.failed());
        let _ = write!(out, "{answered} of {requests} requests answered, {failed} failed");
        if self.loaded.interrupted {
            let _ = write!(out, ", {} under way when it was interrupted", self.loaded.unfinished);
        }
        let _ = writeln!(out, "; {:.1} s", self.figures.duration_s);
    }

    fn pace(&self) -> String {
        match self.about.pace {
            Pace::Closed { concurrency } => format!("closed loop, {concurrency} at a time"),
            Pace::Poisson { rate } => format!("open loop, {rate} requests/s"),
            Pace::Trace { speed } => format!("open loop, {speed} times the trace's speed"),
        }
    }

    fn open(&self) -> bool {
        !matches!(self.about.pace, Pace::Closed { .. })
    }

    fn latencies(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "\n  {:<22} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "ms", "mean", "p50", "p90", "p95", "p99", "max"
        );
        let mut row = |name: &str, spread: &Option<Spread>| {
            let Some(Spread { mean, p50, p90, p95, p99, max, .. }) = spread else { return };
            let _ = writeln!(out, "  {name:<22} {mean:>9.1} {p50:>9.1} {p90:>9.1} {p95:>9.1} {p99:>9.1} {max:>9.1}");
        };
        row("time to first token", &self.figures.ttft);
        row("per output token", &self.figures.tpot);
        row("end to end", &self.figures.whole);
        if self.open() {
            row("sent after due", &self.figures.late);
            let _ = writeln!(out, "  Latencies count from when a request was due, whenever it was sent.");
        }
    }

    fn rates(&self, out: &mut String) {
        let figures = &self.figures;
        let mut row = |name: &str, value: String| {
            let _ = writeln!(out, "  {name:<22} {value}");
        };
        row("requests/s", format!("{:.2}", figures.requests_per_s));
        row("output tokens/s", format!("{:.1}", figures.output_tokens_per_s));
        row("prompt tokens/s", format!("{:.1}", figures.prompt_tokens_per_s));
        if let Some(tokens) = figures.prompt_tokens {
            let of_wanted = 100.0 * tokens as f64 / figures.prompt_wanted.max(1) as f64;
            let cached = figures.cached_tokens.map_or_else(String::new, |cached| {
                format!(", {cached} from a cache ({:.1} %)", 100.0 * cached as f64 / tokens.max(1) as f64)
            });
            row("prompt tokens", format!("{tokens}, {of_wanted:.1} % of what was wanted{cached}"));
        }
        row("output tokens", figures.output_tokens.to_string());
        if figures.uncounted > 0 {
            let uncounted = figures.uncounted;
            row("", format!("{uncounted} answers came without usage: their tokens are counted by pieces of text"));
        }
        if self.about.slo.any() {
            let share = 100.0 * figures.good_share;
            row("goodput", format!("{:.2} requests/s, {share:.1} % of all, {}", figures.good_per_s, self.promise()));
        }
    }

    fn promise(&self) -> String {
        let Slo { ttft_ms, tpot_ms } = self.about.slo;
        let limit = |name: &str, limit: Option<f64>| limit.map(|ms| format!("{name} within {ms} ms"));
        let both = [limit("first token", ttft_ms), limit("each further", tpot_ms)];
        both.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    fn failures(&self, out: &mut String) {
        if self.loaded.seen.failures.is_empty() {
            return;
        }
        let _ = writeln!(out, "\nfailures");
        for (kind, failed) in &self.loaded.seen.failures {
            let _ = writeln!(out, "  {:>7}  {kind}: {}", failed.count, failed.example);
        }
    }

    /// Two plots: how latencies are spread, and time to first token over the run.
    pub(super) fn plots(&self) -> Vec<Plot> {
        let samples = &self.loaded.seen.samples;
        let spread = |name: &str, values: Vec<f64>| {
            let at = |percent| Some((percent as f64, percentile(&values, percent)?));
            Curve { name: name.into(), points: (0..=100).step_by(5).filter_map(at).collect() }
        };
        let title = |what: &str| format!("{what}, ms, {}", self.about.model);
        let first = sorted(samples.iter().filter_map(|s| s.ttft()));
        let whole = sorted(samples.iter().map(|s| s.whole()));
        let further = sorted(samples.iter().filter_map(|s| s.tpot()));
        let of = |what: &str, curves| Plot { title: title(what), x: "% of requests".into(), curves, ..Plot::default() };
        vec![
            of("Latency", vec![spread("first token", first), spread("end to end", whole)]),
            of("Time per output token", vec![spread("per output token", further)]),
            Plot {
                title: title("Time to first token"),
                x: "s after the start, when requests were due".into(),
                curves: self.over_time(),
                ..Plot::default()
            },
        ]
    }

    /// Median and 90th percentile of time to first token, of requests that were due in each part of the run.
    fn over_time(&self) -> Vec<Curve> {
        let mut parts: Vec<Vec<f64>> = vec![Vec::new(); PARTS];
        let width = self.figures.duration_s / PARTS as f64;
        for sample in &self.loaded.seen.samples {
            let part = (sample.due.as_secs_f64() / width) as usize;
            parts[part.min(PARTS - 1)].extend(sample.ttft());
        }
        let parts: Vec<Vec<f64>> = parts.into_iter().map(|part| sorted(part.into_iter())).collect();
        let curve = |name: &str, percent| {
            let point =
                |(part, values): (usize, &Vec<f64>)| Some((width * (part as f64 + 0.5), percentile(values, percent)?));
            Curve { name: name.into(), points: parts.iter().enumerate().filter_map(point).collect() }
        };
        vec![curve("p50", 50), curve("p90", 90)]
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Value {
        let (about, figures, seen) = (&self.about, &self.figures, &self.loaded.seen);
        let pace = match about.pace {
            Pace::Closed { concurrency } => json!({"kind": "closed", "concurrency": concurrency}),
            Pace::Poisson { rate } => json!({"kind": "open", "rate": rate}),
            Pace::Trace { speed } => json!({"kind": "open", "speed": speed}),
        };
        let failures = seen.failures.iter();
        let failures = failures.map(|(kind, f)| json!({"kind": kind, "count": f.count, "example": f.example}));
        let slo = json!({
            "ttft_ms": about.slo.ttft_ms,
            "tpot_ms": about.slo.tpot_ms,
            "requests": figures.good,
            "share": figures.good_share,
            "requests_per_s": figures.good_per_s,
        });
        json!({
            "model": about.model,
            "door": about.door,
            "target": about.target,
            "loop": pace,
            "trace": about.trace,
            "seed": about.seed,
            "interrupted": self.loaded.interrupted,
            "duration_s": figures.duration_s,
            "requests": {
                "planned": about.requests,
                "answered": seen.samples.len(),
                "failed": seen.failed(),
                "under_way": self.loaded.unfinished,
            },
            "failures": failures.collect::<Vec<_>>(),
            "prompt_tokens": {
                "wanted": figures.prompt_wanted,
                "counted": figures.prompt_tokens,
                "cached": figures.cached_tokens,
            },
            "output_tokens": figures.output_tokens,
            "answers_without_usage": figures.uncounted,
            "requests_per_s": figures.requests_per_s,
            "output_tokens_per_s": figures.output_tokens_per_s,
            "prompt_tokens_per_s": figures.prompt_tokens_per_s,
            "ttft_ms": spread_json(&figures.ttft),
            "tpot_ms": spread_json(&figures.tpot),
            "end_to_end_ms": spread_json(&figures.whole),
            "sent_after_due_ms": if self.open() { spread_json(&figures.late) } else { Value::Null },
            "goodput": if about.slo.any() { slo } else { Value::Null },
            "notes": about.notes,
        })
    }
}

/// Parts of a run that are told apart over time.
const PARTS: usize = 40;

fn spread_json(spread: &Option<Spread>) -> Value {
    let of = |s: &Spread| json!({"count": s.count, "mean": s.mean, "p50": s.p50, "p90": s.p90, "p95": s.p95, "p99": s.p99, "max": s.max});
    spread.as_ref().map_or(Value::Null, of)
}

#[cfg(test)]
mod tests;
