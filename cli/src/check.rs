//! `hadal check`: a checkpoint's golden data, run and compared, or what its dtypes and cache encodings cost in quality.

mod quality;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use hadal_model::check::{CheckError, CheckOptions, check};
use hadal_shell::exit::Exit;

use crate::engine;
use crate::fault::{Fault, OrExit};
use crate::progress::Progress;
use crate::run;

pub(crate) const HELP: &str = "\
Examples:
  hadal check tests/golden/deepseek_v32
  hadal check tests/golden/deepseek_v32-fp8 --cpu portable --json

Golden data are in the checkpoint's folder golden/, computed by an independent implementation in float32. The check runs
in f32 with an f32 cache: choices of indexer and router and greedy tokens must be identical, logits within --tolerance.
Ends with 0 when all passed and 1 when something differs.

With --quality, what each --dtype with each --kv costs against f32 with an f32 cache, on a text or on the golden prompts:
how many of the positions that an indexer chooses are those that it chooses in f32, layer by layer on the same inputs, and
how much the perplexity changes.
  hadal check ~/models/V3.2 --quality --text book.txt --kv fp8 --kv int8-index";

/// `hadal check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Checkpoint folder with golden data
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Kernel path: avx512, avx2 or portable; the best one that this machine has when left out
    #[arg(long, value_name = "PATH")]
    cpu: Option<hadal_model::Path>,
    /// Threads that compute; one for each core when left out
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Largest difference of logits that passes
    #[arg(long, value_name = "X", default_value_t = CheckOptions::TOLERANCE)]
    tolerance: f32,
    /// Compute prompts in chunks of so many tokens; any number gives the same bits
    #[arg(long, value_name = "N", default_value = "64")]
    chunk_tokens: NonZeroUsize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    quality: quality::QualityFlags,
}

/// Prints the report.
pub(crate) fn run(options: &Options) -> Result<Exit, Fault> {
    if options.quality.quality {
        return quality::run(options);
    }
    let progress = Progress::new();
    let report = check(
        &options.model,
        &CheckOptions {
            path: options.cpu.unwrap_or_else(hadal_model::Path::detect),
            pool: Some(engine::pool(options.threads)?),
            tolerance: options.tolerance,
            chunk_tokens: options.chunk_tokens.get(),
            progress: &|p| progress.show(|| engine::loading(p)),
        },
    );
    drop(progress);
    let report = report.map_err(|error| Fault::new(exit(&error), error))?;
    run::print(&match options.json {
        true => serde_json::to_string_pretty(&report).or_exit(Exit::Software)?,
        false => report.to_string(),
    })?;
    Ok(if report.passed() { Exit::Ok } else { Exit::Failed })
}

fn exit(error: &CheckError) -> Exit {
    match error {
        CheckError::Open(open) => engine::open_exit(open),
        CheckError::Load { .. } | CheckError::Golden(_) | CheckError::Forward { .. } => Exit::Data,
    }
}
