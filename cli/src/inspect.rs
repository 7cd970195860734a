//! `hadal inspect`: what a model is and needs.

use std::path::PathBuf;

use hadal_model::describe::{DescribeError, Description, PlanOptions, describe, describe_path};
use hadal_shell::exit::Exit;
use hadal_types::KvEncoding;

use crate::bundled;
use crate::fault::{Fault, OrExit};
use crate::run;

pub(crate) const HELP: &str = "\
Examples:
  hadal inspect ~/models/DeepSeek-V3.2-Exp
  hadal inspect config.json --context 131072 --batch 32 --ep 16
  hadal inspect config.json --json | jq .memory.total_bytes

It reads config.json alone, so that it works before the weights are downloaded.";

/// `hadal inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Checkpoint folder, or its config.json; the bundled sample model when left out
    #[arg(value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Plan for requests of so many tokens, prompt and output together; the model's longest when left out
    #[arg(long, value_name = "TOKENS")]
    context: Option<u64>,
    /// Plan for so many requests at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    /// Plan for an expert-parallel group of so many workers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    ep: u64,
    /// Plan for this encoding of the cache
    #[arg(long, value_name = "f32|bf16|fp8|int8-index", default_value = "fp8")]
    kv: KvEncoding,
    /// Plan for steps of so many tokens
    #[arg(long, value_name = "N", default_value_t = 512)]
    step_tokens: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the description.
pub(crate) fn run(options: &Options) -> Result<Exit, Fault> {
    let plan = PlanOptions {
        context_tokens: options.context,
        batch: options.batch,
        ep: options.ep,
        kv: options.kv,
        step_rows: options.step_tokens,
    };
    let described = match &options.model {
        Some(path) => describe_path(path, &plan),
        None => describe(bundled::open().or_exit(Exit::Software)?.config(), &plan),
    };
    let description = described.map_err(|error| Fault::new(exit(&error), error))?;
    run::print(&show(&description, options.json)?)?;
    Ok(Exit::Ok)
}

fn show(description: &Description, json: bool) -> Result<String, Fault> {
    if json { serde_json::to_string_pretty(description).or_exit(Exit::Software) } else { Ok(description.to_string()) }
}

fn exit(error: &DescribeError) -> Exit {
    match error {
        DescribeError::Io { .. } => Exit::NoInput,
        DescribeError::Config { .. } => Exit::Data,
        DescribeError::Plan(_) => Exit::Usage,
    }
}
