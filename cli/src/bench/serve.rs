//! `hadal bench serve`: load against a running server, and what its users would have seen.
//!
//! `trace`, `schedule`, `prompt`, `sample`, `stats`, `sse` and `report` are pure; `door`, `http`, `connection` and `load`
//! talk to the server. docs/bench-serve.md says what each figure means.

mod connection;
mod door;
mod http;
mod load;
mod prompt;
mod report;
mod sample;
mod schedule;
mod sse;
mod stats;
mod trace;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hadal_shell::exit::Exit;
use hadal_shell::units;

use crate::draws::Draws;
use crate::fault::{Fault, OrExit};
use crate::interrupt::interrupts;
use crate::run;
use crate::served::Served;
use crate::{files, plot};
use door::{Door, Grpc};
use http::{Http, HttpOptions};
use load::Load;
use prompt::Run;
use report::{About, Report};
use schedule::{Lengths, Pace, Scale};
use stats::Slo;
use trace::Request;

pub(crate) const HELP: &str = "\
Examples:
  hadal bench serve --concurrency 8 --input-tokens 1024 --output-tokens 128    the cluster of `hadal up`
  hadal bench serve --http http://gpu7:8000 --rate 4 --requests 500 --slo-ttft-ms 2000 --slo-tpot-ms 50
  hadal bench serve --trace conversation_trace.jsonl --speed 2 --limit 1000 --input-scale 0.1 --svg load.svg

A closed loop (--concurrency) sends when an answer ends, and shows what a server can do. An open loop (--rate, --speed)
sends when requests are due, as users do; latencies count from then. Ctrl-C prints what was measured so far.";

const REQUESTS_DEFAULT: usize = 64;
const CONCURRENCY_MAX: i64 = 4096;

/// Flags of `hadal bench serve`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    served: Served,
    #[command(flatten)]
    http: HttpOptions,
    #[command(flatten)]
    requests: RequestOptions,
    #[command(flatten)]
    pace: PaceOptions,
    /// How long one request may take from its sending
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = wait)]
    timeout: Duration,
    /// Equal seeds make the same load; drawn when left out, so that no earlier run's prompts are in caches
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    slo: SloOptions,
    /// Write curves to this file: how latencies are spread, and time to first token over the run
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is asked.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Requests")]
struct RequestOptions {
    /// Lengths, times and shared beginnings from this trace: Mooncake's JSON lines or Azure's CSV
    #[arg(long, value_name = "FILE", conflicts_with_all = ["input_tokens", "output_tokens"])]
    trace: Option<PathBuf>,
    /// Read so many requests of the trace, from its beginning
    #[arg(long, value_name = "N", requires = "trace", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Shorten the trace's prompts, shared beginnings included
    #[arg(long, value_name = "SHARE", requires = "trace", default_value_t = 1.0, value_parser = positive)]
    input_scale: f64,
    /// Shorten the trace's answers
    #[arg(long, value_name = "SHARE", requires = "trace", default_value_t = 1.0, value_parser = positive)]
    output_scale: f64,
    /// Tokens of a prompt: a number, or a range such as 128-1024 to draw from
    #[arg(long, value_name = "N", default_value = "512")]
    input_tokens: Lengths,
    /// Tokens of an answer, likewise
    #[arg(long, value_name = "N", default_value = "128")]
    output_tokens: Lengths,
    /// Requests to send, at most; 64 when left out, or the whole trace
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=trace::REQUESTS_MAX as u64))]
    requests: Option<u64>,
}

/// When it is asked.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Pace")]
struct PaceOptions {
    /// Closed loop: so many requests at a time; 1 when no pace is given
    #[arg(long, value_name = "N", conflicts_with_all = ["rate", "speed"], value_parser = clap::value_parser!(u32).range(1..=CONCURRENCY_MAX))]
    concurrency: Option<u32>,
    /// Open loop: so many requests a second on average, in a Poisson process
    #[arg(long, value_name = "N", conflicts_with = "speed", value_parser = positive)]
    rate: Option<f64>,
    /// Open loop: at the trace's own times, so many times as fast
    #[arg(long, value_name = "X", requires = "trace", value_parser = positive)]
    speed: Option<f64>,
    /// In an open loop, requests and connections at a time at most; what is due beyond waits, and its time counts
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=CONCURRENCY_MAX))]
    in_flight_max: u32,
}

/// What users are promised.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Goodput")]
struct SloOptions {
    /// Count requests whose first token comes within so many milliseconds
    #[arg(long, value_name = "MS", value_parser = positive)]
    slo_ttft_ms: Option<f64>,
    /// Count requests whose further tokens take so many milliseconds each, on average
    #[arg(long, value_name = "MS", value_parser = positive)]
    slo_tpot_ms: Option<f64>,
}

/// A duration above 0.
fn wait(text: &str) -> Result<Duration, String> {
    match units::duration(text) {
        Ok(Duration::ZERO) => Err("a wait of 0 leaves no time to answer; give 10m or the like".to_owned()),
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "write a number above 0".to_owned())
}

/// Loads a server, and prints what was found.
pub(crate) async fn run(options: Options) -> Result<Exit, Fault> {
    let seed = options.seed.unwrap_or_else(drawn);
    let mut draws = Draws::new(seed);
    let pace = options.pace.pace();
    let requests = options.requests.read(&mut draws)?;
    if let Some(path) = &options.svg {
        files::writable(path)?;
    }
    let run = Run { seed, block_tokens: options.requests.scale().block_tokens() };
    let (door, target, notes) = options.door(run).await?;
    let about = About {
        model: door.model().to_owned(),
        door: door.kind(),
        target,
        pace,
        trace: options.requests.trace.as_ref().map(|path| path.display().to_string()),
        requests: requests.len(),
        seed,
        slo: Slo { ttft_ms: options.slo.slo_ttft_ms, tpot_ms: options.slo.slo_tpot_ms },
        notes,
    };
    let due = schedule::due(pace, &requests, &mut draws);
    let limit = match pace {
        Pace::Closed { concurrency } => concurrency,
        _ => options.pace.in_flight_max as usize,
    };
    let load = Load { door, run, requests, due, limit, timeout: options.timeout };
    let mut interrupts = interrupts().or_exit(Exit::Os)?;
    let report = Report::new(about, load.run(&mut interrupts).await?);
    told(&options, &report)
}

/// Prints, and says how it went.
fn told(options: &Options, report: &Report) -> Result<Exit, Fault> {
    if let Some(path) = &options.svg {
        files::write(path, &plot::svg(&report.plots()))?;
    }
    let shown = if options.json {
        serde_json::to_string_pretty(&report.json()).or_exit(Exit::Software)?
    } else {
        report.table()
    };
    run::print(&shown)?;
    let seen = &report.loaded.seen;
    if seen.samples.is_empty() && seen.failed() > 0 {
        return Err(Fault::say(Exit::Unavailable, "no request was answered"));
    }
    Ok(Exit::Ok)
}

/// A seed that no earlier run had.
fn drawn() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    // Short enough to type again.
    Draws::new(since).next() % 1_000_000_000
}

impl Options {
    async fn door(&self, run: Run) -> Result<(Door, String, http::Notes), Fault> {
        match &self.http.http {
            Some(url) => {
                let (http, notes) = Http::open(&self.http, url, self.served.model.as_deref(), run).await?;
                Ok((Door::Http(http), url.clone(), notes))
            }
            None => Ok((Door::Grpc(Grpc::open(&self.served).await?), self.served.grpc.clone(), Vec::new())),
        }
    }
}

impl PaceOptions {
    fn pace(&self) -> Pace {
        match (self.rate, self.speed) {
            (Some(rate), _) => Pace::Poisson { rate },
            (_, Some(speed)) => Pace::Trace { speed },
            _ => Pace::Closed { concurrency: self.concurrency.unwrap_or(1) as usize },
        }
    }
}

impl RequestOptions {
    fn scale(&self) -> Scale {
        Scale { input: self.input_scale, output: self.output_scale }
    }

    /// The requests that are to be made.
    fn read(&self, draws: &mut Draws) -> Result<Vec<Request>, Fault> {
        let Some(path) = &self.trace else {
            let count = self.requests.map_or(REQUESTS_DEFAULT, |count| count as usize);
            return Ok(schedule::synthetic(count, self.input_tokens, self.output_tokens, draws));
        };
        let count = [self.limit, self.requests].into_iter().flatten().min();
        let mut requests = opened(path, count.map_or(usize::MAX, |count| count as usize))?;
        self.scale().apply(&mut requests);
        Ok(requests)
    }
}

fn opened(path: &Path, limit: usize) -> Result<Vec<Request>, Fault> {
    let name = path.display().to_string();
    let file =
        std::fs::File::open(path).map_err(|error| Fault::say(Exit::NoInput, format!("cannot read {name}: {error}")))?;
    trace::read(&mut std::io::BufReader::new(file), &name, limit).map_err(|error| {
        let exit = if matches!(error, trace::Error::Read { .. }) { Exit::NoInput } else { Exit::Data };
        Fault::new(exit, error)
    })
}
