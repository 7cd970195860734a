//! Which cluster and which of its models a client's command asks.

use std::time::Duration;

use hadal_proto::v1;
use hadal_proto::v1::hadal_client::HadalClient;
use hadal_shell::exit::Exit;
use hadal_shell::grpc::{self, explain};
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;

use crate::fault::{Fault, OrExit};

/// How long a router may take to say what it serves.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Where to ask, and for what.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Served {
    /// Where a router serves gRPC
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8001")]
    pub(crate) grpc: String,
    /// Which model; the first one that is served when left out
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
}

impl Served {
    /// A client, and the model to ask, which shows on the way whether anybody is there.
    ///
    /// # Errors
    /// When nobody answers, or the model is not served.
    pub(crate) async fn connect(&self) -> Result<(HadalClient<Channel>, v1::Model), Fault> {
        let channel = grpc::channel(&self.grpc, None).or_exit(Exit::Usage)?;
        let mut client = HadalClient::new(channel).max_decoding_message_size(grpc::MESSAGE_BYTES_MAX);
        let address = &self.grpc;
        let asked = timeout(ANSWER_TIMEOUT, client.models(v1::ModelsRequest {})).await;
        let status = match asked {
            Ok(Ok(answer)) => return Ok((client, self.pick(answer.into_inner().models)?)),
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

    fn pick(&self, models: Vec<v1::Model>) -> Result<v1::Model, Fault> {
        let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
        let listed = names.join(", ");
        let found = match &self.model {
            None => models.first(),
            Some(name) => models.iter().find(|model| model.name == *name),
        };
        if let Some(found) = found {
            return Ok(found.clone());
        }
        let address = &self.grpc;
        let (exit, message) = match &self.model {
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
}

/// A request that was refused or broke off.
pub(crate) fn refused(status: &tonic::Status) -> Fault {
    let exit = match status.code() {
        Code::InvalidArgument | Code::OutOfRange => Exit::Data,
        Code::NotFound | Code::Unavailable => Exit::Unavailable,
        Code::ResourceExhausted | Code::DeadlineExceeded => Exit::Temporary,
        _ => Exit::Software,
    };
    Fault::say(exit, explain(status))
}
