//! `hadal bench`: figures that rest on this machine, each beside the limit that was measured in the same run.

mod clock;
mod kernels;
mod machine;

use hadal_shell::exit::Exit;

use crate::fault::Fault;

pub(crate) const HELP: &str = "\
Examples:
  hadal bench kernels                    every kernel as a share of this machine's limit

docs/bench.md says how to read what they print.";

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
}

/// Runs a bench.
pub(crate) fn run(options: &Options) -> Result<Exit, Fault> {
    match &options.bench {
        Bench::Kernels(options) => kernels::run(options),
    }
}
