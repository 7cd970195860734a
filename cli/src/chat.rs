//! `hadal chat`: a conversation with a running cluster, over gRPC, from a terminal or a pipe.
//!
//! One line is one turn. Answers go to stdout as they come; everything else goes to stderr, and only to a terminal.
//! Ctrl-C stops an answer, which cancels it on the cluster; at the prompt it ends the conversation, as Ctrl-D does.

mod input;
mod session;

use std::io::IsTerminal;
use std::time::Duration;

use hadal_proto::v1;
use hadal_proto::v1::hadal_client::HadalClient;
use hadal_shell::exit::Exit;
use hadal_shell::grpc::{self, explain};
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;

use crate::fault::{Fault, OrExit};
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
    /// Where a router serves gRPC
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8001")]
    grpc: String,
    /// Which model; the first one that is served when left out
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
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

/// How long a router may take to say what it serves.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Talks until the input ends.
pub(crate) async fn run(options: Options) -> Result<Exit, Fault> {
    let channel = grpc::channel(&options.grpc, None).or_exit(Exit::Usage)?;
    let mut client = HadalClient::new(channel).max_decoding_message_size(grpc::MESSAGE_BYTES_MAX);
    let model = choose(&mut client, &options).await?;
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        eprintln!("{} at {}; /help lists commands, Ctrl-D ends", model.name, options.grpc);
    }
    let session = Session::new(client, model.name, &options);
    let (lines, interrupts) = (input::lines().or_exit(Exit::Os)?, input::interrupts().or_exit(Exit::Os)?);
    let printable = std::io::stdout().is_terminal();
    Terminal { lines, interrupts, out: std::io::stdout(), interactive: terminal, printable }.talk(session).await
}

/// The model to talk to, which shows on the way whether anybody is there.
async fn choose(client: &mut HadalClient<Channel>, options: &Options) -> Result<v1::Model, Fault> {
    let address = &options.grpc;
    let asked = timeout(ANSWER_TIMEOUT, client.models(v1::ModelsRequest {})).await;
    let status = match asked {
        Ok(Ok(answer)) => return pick(answer.into_inner().models, options),
        Ok(Err(status)) => status,
        Err(_) => tonic::Status::unavailable(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())),
    };
    let hint = "start a cluster with `hadal up`, or name a router's gRPC address with --grpc HOST:PORT";
    let message = match status.code() {
        Code::Unimplemented | Code::Internal | Code::Unknown => {
            format!("what listens at {address} does not serve hadal.v1 over gRPC ({}); {hint}", explain(&status))
        }
        _ => format!("nothing answers at {address}: {}; {hint}", explain(&status)),
    };
    Err(Fault::say(Exit::Unavailable, message))
}

fn pick(models: Vec<v1::Model>, options: &Options) -> Result<v1::Model, Fault> {
    let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
    let listed = names.join(", ");
    let found = match &options.model {
        None => models.first(),
        Some(name) => models.iter().find(|model| model.name == *name),
    };
    if let Some(found) = found {
        return Ok(found.clone());
    }
    let address = &options.grpc;
    let (exit, message) = match &options.model {
        Some(name) if !models.is_empty() => {
            (Exit::Usage, format!("{address} serves no model {name:?}; it serves: {listed}"))
        }
        _ => (
            Exit::Temporary,
            format!("the router at {address} serves no model yet: are a prefill and a decode worker running?"),
        ),
    };
    Err(Fault::say(exit, message))
}

#[cfg(test)]
mod tests;
