//! `hadal bench kernels`: every kernel at DeepSeek-V3.2's shapes, as a share of this machine's limit.

use std::fmt::Write;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use hadal_kernels::bench::{Case, Limits, Shapes, Unit, cases};
use hadal_kernels::{Ctx, Path};
use hadal_shell::exit::Exit;
use hadal_shell::units::show_bytes;
use hadal_types::Dtype;
use serde_json::{Value, json};

use super::clock::Clock;
use super::machine::{self, Cache};
use crate::engine;
use crate::fault::{Fault, OrExit};
use crate::progress::Progress;
use crate::run;

pub(crate) const HELP: &str = "\
Examples:
  hadal bench kernels
  hadal bench kernels --threads 1 --cpu avx2 --seconds 60
  hadal bench kernels --json | jq '.kernels[] | {name, limit, share}'

With one thread its own CPU time is measured, with more the time of the day. docs/bench.md says what each figure means.";

/// How long when nothing is said, and rounds at least.
const SECONDS_DEFAULT: u32 = 20;
const ROUNDS_MIN: usize = 3;

/// `hadal bench kernels`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Threads that compute; one for each core when left out
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Kernel path: avx512, avx2 or portable; the best one that this machine has when left out
    #[arg(long, value_name = "PATH")]
    cpu: Option<Path>,
    /// Go round by round through limits and kernels for so long, and three rounds at least; 20 when left out
    #[arg(long, value_name = "S")]
    seconds: Option<u32>,
    /// Small shapes, one round unless --seconds says more: to try the command, no figures
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was measured.
struct Report {
    path: Path,
    threads: usize,
    clock: Clock,
    cache: Cache,
    headline: usize,
    rounds: usize,
    quick: bool,
    limits: Limits,
    cases: Vec<Case>,
}

/// Measures and prints.
pub(crate) fn run(options: &Options) -> Result<Exit, Fault> {
    let pool = engine::pool(options.threads)?;
    let path = options.cpu.unwrap_or_else(Path::detect);
    let ctx = Ctx::new(path, Dtype::Bf16).or_exit(Exit::Unavailable)?.with_pool(pool);
    let report = measure(options, &ctx)?;
    run::print(&match options.json {
        true => serde_json::to_string_pretty(&report.json()).or_exit(Exit::Software)?,
        false => report.table(),
    })?;
    Ok(Exit::Ok)
}

fn measure(options: &Options, ctx: &Ctx) -> Result<Report, Fault> {
    let shapes = if options.quick { Shapes::QUICK } else { Shapes::V32 };
    let (cache, clock) = (Cache::last_level(), Clock::of(ctx.threads()));
    let headline = headline(&shapes, cache, options.quick)?;
    let progress = Progress::new();
    progress.show(|| "preparing weights and caches".to_owned());
    let mut cases = cases(ctx, &shapes, headline).or_exit(Exit::Software)?;
    let mut limits = Limits::new(ctx, headline, cases.iter().map(|case| case.working_set));
    let (begun, mut rounds) = (Instant::now(), 0);
    let (least, seconds) = if options.quick { (1, 0) } else { (ROUNDS_MIN, SECONDS_DEFAULT) };
    let seconds = Duration::from_secs(options.seconds.unwrap_or(seconds).into());
    while rounds < least || begun.elapsed() < seconds {
        limits.round(&|| clock.now());
        for case in &mut cases {
            progress.show(|| format!("round {}: {}", rounds + 1, case.name));
            case.round(&|| clock.now());
        }
        rounds += 1;
    }
    let (path, threads, quick) = (ctx.path(), ctx.threads(), options.quick);
    Ok(Report { path, threads, clock, cache, headline, rounds, quick, limits, cases })
}

/// Bytes beyond the last-level cache, less where memory is short.
fn headline(shapes: &Shapes, cache: Cache, quick: bool) -> Result<usize, Fault> {
    let budget = machine::memory_budget();
    let needed = |headline: usize| (shapes.bytes(headline) + headline) as u64;
    let wanted = if quick { 1 << 20 } else { cache.beyond() };
    if needed(wanted) <= budget {
        return Ok(wanted);
    }
    // Once more than the cache is the least that comes from memory.
    let least = cache.bytes + cache.bytes / 4;
    if needed(least) > budget {
        return Err(machine::too_little(needed(least), "end other programs, or run it where there is more"));
    }
    let (least_shown, wanted) = (show_bytes(least as u64), show_bytes(wanted as u64));
    eprintln!("hadal: memory is short: {least_shown} of weights and buffers instead of {wanted}");
    Ok(least)
}

impl Report {
    fn table(&self) -> String {
        let mut out = String::new();
        let Self { path, threads, clock, cache, headline, rounds, .. } = self;
        let _ = writeln!(
            out,
            "Kernels at DeepSeek-V3.2's shapes: {path}, {threads} threads, bf16 activations, {} time, best of {rounds} \
             rounds\nLast-level cache {}; what must come from memory is {} at least\n",
            clock.name(),
            cache.text(),
            show_bytes(*headline as u64),
        );
        if self.quick {
            let _ = writeln!(out, "--quick: small shapes, so these are no figures of the kernels.\n");
        }
        for (bytes, rate) in self.limits.bandwidths() {
            let _ = writeln!(out, "  reading {:<12} {:>9.1} GB/s", show_bytes(bytes as u64), rate / 1e9);
        }
        for unit in Unit::ALL {
            let rate = self.limits.peak(unit) / 1e9;
            let _ = writeln!(out, "  peak of {:<12} {rate:>9.1} GFLOP/s", unit.name());
        }
        let _ = writeln!(
            out,
            "\n  {:<17} {:<46} {:>10} {:>7} {:>8}  share of limit",
            "kernel", "shape", "time", "GB/s", "GFLOP/s"
        );
        for case in &self.cases {
            let (limit, share) = self.limits.share(case);
            let _ = writeln!(
                out,
                "  {:<17} {:<46} {:>10} {:>7.1} {:>8.1}  {share:.2} of {limit}",
                case.name,
                case.shape,
                time(case.seconds),
                case.bandwidth() / 1e9,
                case.rate() / 1e9,
            );
        }
        out.trim_end().to_owned()
    }

    fn json(&self) -> Value {
        let read = |(bytes, rate): (usize, f64)| json!({ "bytes": bytes, "bytes_per_s": rate });
        let kernel = |case: &Case| {
            let (limit, share) = self.limits.share(case);
            json!({
                "name": case.name,
                "shape": case.shape,
                "seconds": case.seconds,
                "bytes": case.bytes,
                "working_set_bytes": case.working_set,
                "operations": case.operations,
                "bytes_per_s": case.bandwidth(),
                "operations_per_s": case.rate(),
                "limit": limit,
                "share": share,
            })
        };
        let reads: Vec<Value> = self.limits.bandwidths().map(read).collect();
        json!({
            "cpu": self.path.name(),
            "threads": self.threads,
            "dtype": "bf16",
            "clock": self.clock.name(),
            "rounds": self.rounds,
            "quick": self.quick,
            "last_level_cache_bytes": self.cache.bytes,
            "last_level_cache_told": self.cache.told,
            "beyond_cache_bytes": self.headline,
            "limits": {
                "read": reads,
                "read_bytes_per_s": self.limits.bandwidth(self.headline),
                "f32_operations_per_s": self.limits.peak(Unit::F32),
                "bf16_operations_per_s": self.limits.peak(Unit::Bf16),
                "int8_operations_per_s": self.limits.peak(Unit::Int8),
            },
            "kernels": self.cases.iter().map(kernel).collect::<Vec<_>>(),
        })
    }
}

/// With the unit that suits it.
pub(super) fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} µs", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_unit_that_suits_them() {
        assert_eq!((time(2.5e-6), time(0.0123), time(3.0)), ("2.5 µs".into(), "12.30 ms".into(), "3.00 s".into()));
    }
}
