//! The command line: what it offers, and what its help teaches.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use hadal_shell::config;

use crate::{bench, chat, check, eval, inspect, parts, up};

const ABOUT: &str = "Serves DeepSeek-V3.2-style language models on a cluster";

const EXAMPLES: &str = "\
Examples:
  hadal up                               a whole cluster in this process, with the bundled sample model
  hadal up ~/models/DeepSeek-V3.2-Exp    the same with a checkpoint from Hugging Face
  hadal chat                             talk to it
  hadal eval book.txt                    what sparse attention costs it in quality
  hadal bench serve --concurrency 8      how fast it answers
  hadal inspect config.json              what a model needs
  hadal bench kernels                    what this machine's kernels reach

A cluster of separate processes, on one machine (for several, see docs/configuration.md on TLS):
  hadal coordinator &
  hadal worker --role prefill &
  hadal worker --role decode &
  hadal router

Every command explains itself: hadal COMMAND --help. Exit codes are those of sysexits.h.";

/// The whole command line.
#[derive(Debug, clap::Parser)]
#[command(name = "hadal", version, about = ABOUT, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Serve a model on an embedded cluster: router, coordinator and workers in this process
    #[command(after_help = up::HELP)]
    Up(Box<up::Options>),
    /// Run a router: takes clients' requests over HTTP and gRPC, and has them placed and answered
    #[command(after_help = parts::ROUTER_HELP)]
    Router(Box<parts::RouterOptions>),
    /// Run the coordinator: knows all workers, and places requests on them
    #[command(after_help = parts::COORDINATOR_HELP)]
    Coordinator(Box<parts::CoordinatorOptions>),
    /// Run a worker: holds a model, computes prompts (prefill) and answers (decode)
    #[command(after_help = parts::WORKER_HELP)]
    Worker(Box<parts::WorkerOptions>),
    /// Talk to a running cluster from a terminal
    #[command(after_help = chat::HELP)]
    Chat(Box<chat::Options>),
    /// Measure what sparse attention costs in quality on a running cluster
    #[command(after_help = eval::HELP)]
    Eval(Box<eval::Options>),
    /// Measure this machine's kernels and costs, or a running server under load
    #[command(after_help = bench::HELP)]
    Bench(bench::Options),
    /// Print what a model is and needs: parameters, cache, memory; reads no weights
    #[command(after_help = inspect::HELP)]
    Inspect(inspect::Options),
    /// Run a checkpoint's golden data and print every margin
    #[command(after_help = check::HELP)]
    Check(check::Options),
}

impl Cli {
    /// Reads the command line and the file that it may name.
    ///
    /// # Errors
    /// What is wrong, or the help that was asked for.
    pub(crate) fn read(args: Vec<OsString>) -> Result<Self, config::Error> {
        let command = definition();
        let matches = config::parse(&command, &args)?;
        consistent(&command, &matches)?;
        Ok(Self::from_arg_matches(&matches)?)
    }
}

/// As derived, with the few defaults that depend on the command.
pub(crate) fn definition() -> clap::Command {
    // What `up` prints for people would be lost between log lines.
    Cli::command().mut_subcommand("up", |up| up.mut_arg("log_level", |level| level.default_value("warn")))
}

/// Flags that contradict each other in ways that clap cannot express.
fn consistent(command: &clap::Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some(("worker", flags)) = matches.subcommand() else { return Ok(()) };
    let engine = flags.get_one::<parts::EngineKind>("engine").copied();
    let (unused, needed) = match engine {
        Some(parts::EngineKind::Model) => (parts::SIM_FLAGS, "sim"),
        _ => (parts::MODEL_FLAGS, "model"),
    };
    let given = |id: &&&str| flags.value_source(id).is_some_and(|source| source != ValueSource::DefaultValue);
    let Some(id) = unused.iter().find(given) else { return Ok(()) };
    let worker = command.find_subcommand("worker");
    let arg = worker.and_then(|w| w.get_arguments().find(|arg| arg.get_id() == *id));
    let flag = arg.and_then(clap::Arg::get_long).unwrap_or(id);
    let problem = format!("--{flag} has no effect without --engine {needed}");
    // Built, so that the usage below the problem is the worker's, under its full name.
    let mut command = command.clone();
    command.build();
    let worker = command.find_subcommand("worker").cloned();
    Err(worker.unwrap_or(command).error(clap::error::ErrorKind::ArgumentConflict, problem))
}

#[cfg(test)]
mod tests;
