//! `hadal chat`: a conversation with a running cluster, over gRPC, from a terminal or a pipe.
//!
//! One line is one turn. Answers go to stdout as they come; everything else goes to stderr, and only to a terminal.
//! Ctrl-C stops an answer, which cancels it on the cluster; at the prompt it ends the conversation, as Ctrl-D does.

mod input;
mod session;

use std::io::IsTerminal;

use hadal_proto::v1;
use hadal_shell::exit::Exit;

use crate::fault::{Fault, OrExit};
use crate::interrupt::interrupts;
use crate::served::Served;
use session::{Session, Terminal};

pub(crate) const HELP: &str = "\
Examples:
  hadal chat                                       the cluster of `hadal up` on this machine
  hadal chat --grpc router:8001 --model deep --system 'Answer in French.'
  printf 'What is a hadal zone?\\n' | hadal chat    answers one line after another

Commands at the prompt: /reset forgets the conversation, /help, /exit.";

/// Flags of `hadal chat`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    served: Served,
    /// A system message before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Let the model think before it answers, where its template can
    #[arg(long)]
    thinking: bool,
    #[command(flatten)]
    sampling: Sampling,
}

/// How to sample; what is left out comes from the model's generation_config.json.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Sampling")]
struct Sampling {
    /// Tokens of an answer at most; as many as fit when left out
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// 0 to 2; 0 always takes the most likely token
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Draw from the smallest set of tokens that is at least so likely, above 0 to 1
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Draw from the K most likely tokens; 0 is off
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Leave out tokens less likely than P times the most likely, 0 to 1
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Equal seeds give equal answers; drawn for each answer when left out
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End an answer before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

impl Sampling {
    fn message(&self) -> v1::SamplingOptions {
        v1::SamplingOptions {
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            seed: self.seed,
            stop: self.stop.clone(),
            ..Default::default()
        }
    }
}

/// Talks until the input ends.
pub(crate) async fn run(options: Options) -> Result<Exit, Fault> {
    let (client, model) = options.served.connect().await?;
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        eprintln!("{} at {}; /help lists commands, Ctrl-D ends", model.name, options.served.grpc);
    }
    let session = Session::new(client, model.name, &options);
    let (lines, interrupts) = (input::lines().or_exit(Exit::Os)?, interrupts().or_exit(Exit::Os)?);
    let printable = std::io::stdout().is_terminal();
    Terminal { lines, interrupts, out: std::io::stdout(), interactive: terminal, printable }.talk(session).await
}

#[cfg(test)]
mod tests;
