//! `hadal bench cost`: what a token costs in one layer of DeepSeek-V3.2 against its position, with dense attention and
//! with DeepSeek Sparse Attention in the same run: the curve of the paper, computed rather than derived.
//!
//! `shape` is the layer and `sizes` what of it is measured, within the memory there is; `layer` computes and times it,
//! `dense` is the rival in prefill, `measure` goes round by round; `report` is pure.

mod dense;
mod layer;
mod measure;
mod report;
mod shape;
mod sizes;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use hadal_model::Path;
use hadal_shell::exit::Exit;
use hadal_types::KvEncoding;

use crate::fault::{Fault, OrExit};
use crate::progress::Progress;
use crate::{engine, files, plot, run};
use layer::Engine;
use sizes::Sizes;

pub(crate) const HELP: &str = "\
Examples:
  hadal bench cost                                       some minutes, and 10 GB of memory
  hadal bench cost --positions 4096,131072 --kv int8-index --dollars-per-hour 2.5 --svg cost.svg
  hadal bench cost --batch 8 --threads 1 --json | jq .summary

One layer of real size with random weights decodes a batch of sequences and prefills a chunk at every position.
docs/bench.md says what each figure means.";

/// Longest sequence of DeepSeek-V3.2.
const CONTEXT_TOKENS: u32 = 163_840;
/// Where the summary looks.
const FAR: u32 = 131_072;
const NEAR: u32 = 4096;

const POSITIONS: [u32; 8] = [1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, FAR];
const BATCH: u32 = 32;
const CHUNK: u32 = 2048;
const ROWS: u32 = 128;
const ROUNDS: u32 = 2;

/// `hadal bench cost`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Positions at which a token is computed; 1024 to 131072 by powers of two when left out
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=i64::from(CONTEXT_TOKENS)))]
    positions: Vec<u32>,
    /// Sequences of a decode step, each with a cache of its own; 32 when left out, or fewer if memory is short
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch: Option<u32>,
    /// Tokens of a prefill chunk; 2048 when left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    chunk: Option<u32>,
    /// Rows at the end of a chunk that are computed and stand for all of it; 128 when left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    rows: Option<u32>,
    /// Encodings of the cache, one curve each: int8-index, bf16, fp8, f32; int8-index,bf16 when left out
    #[arg(long, value_name = "KV,...", value_delimiter = ',')]
    kv: Vec<KvEncoding>,
    /// Rounds, of which the best counts; 2 when left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// What an hour of this machine costs, for dollars per million tokens of the whole model
    #[arg(long, value_name = "X", value_parser = dollars)]
    dollars_per_hour: Option<f64>,
    /// Threads that compute; one for each core when left out
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Kernel path: avx512, avx2 or portable; the best one that this machine has when left out
    #[arg(long, value_name = "PATH")]
    cpu: Option<Path>,
    /// Write the curves to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Small sizes, to try the command: no figures
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn dollars(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|x| x.is_finite() && *x > 0.0);
    number.ok_or_else(|| "a number above 0 is needed".to_owned())
}

/// Measures and prints.
pub(crate) fn run(options: &Options) -> Result<Exit, Fault> {
    let sizes = Sizes::of(options)?;
    if let Some(path) = &options.svg {
        files::writable(path)?;
    }
    let pool = engine::pool(options.threads)?;
    let clock = super::clock::Clock::of(pool.threads());
    let engine = Engine { path: options.cpu.unwrap_or_else(Path::detect), pool, clock };
    let progress = Progress::new();
    let report = measure::measure(&engine, &sizes, options.dollars_per_hour, &progress)?;
    drop(progress);
    if let Some(path) = &options.svg {
        files::write(path, &plot::svg(&report.plots()))?;
    }
    run::print(&match options.json {
        true => serde_json::to_string_pretty(&report.json()).or_exit(Exit::Software)?,
        false => report.table(),
    })?;
    Ok(Exit::Ok)
}
