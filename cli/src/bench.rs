//! `hadal bench`: figures that rest on this machine, each beside the limit that was measured in the same run; and what
//! users of a running server would see.

mod clock;
mod cost;
mod kernels;
mod machine;
mod serve;

use hadal_shell::exit::Exit;

use crate::fault::Fault;
use crate::run;

pub(crate) const HELP: &str = "\
Examples:
  hadal bench kernels                    every kernel as a share of this machine's limit
  hadal bench cost                       what a token costs against its position, dense and sparse
  hadal bench serve --concurrency 8      a running server under load

docs/bench.md and docs/bench-serve.md say how to read what they print.";

/// Flags of `hadal bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    bench: Bench,
}

/// The benches.
#[derive(Debug, clap::Subcommand)]
enum Bench {
    /// Time every kernel at DeepSeek-V3.2's shapes, as a share of this machine's limit
    #[command(after_help = kernels::HELP)]
    Kernels(kernels::Options),
    /// Time one layer of DeepSeek-V3.2 against position, with dense and with sparse attention
    #[command(after_help = cost::HELP)]
    Cost(Box<cost::Options>),
    /// Load a running server, and measure latencies, throughput and goodput
    #[command(after_help = serve::HELP)]
    Serve(Box<serve::Options>),
}

/// Runs a bench.
pub(crate) fn run(options: &Options) -> Result<Exit, Fault> {
    match &options.bench {
        Bench::Kernels(options) => kernels::run(options),
        Bench::Cost(options) => cost::run(options),
        Bench::Serve(options) => run::client(serve::run((**options).clone())),
    }
}
