//! A gRPC client of a router, as tests use it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use hadal_proto::v1::generate_response::Event;
use hadal_proto::v1::hadal_client::HadalClient;
use hadal_proto::v1::{
    FinishReason, GenerateRequest, GenerateResponse, RequestOptions, SamplingOptions, TokenIds, Usage, generate_request,
};
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
pub use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::PATIENCE;

/// A connection to a router.
#[derive(Clone)]
pub struct Client {
    hadal: HadalClient<Channel>,
    health: HealthClient<Channel>,
}

/// One choice of an answer, put together from its deltas.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// The log-probability of each, as bits, where they were asked for.
    pub logprobs: Vec<u32>,
    /// How far the choice of each token's row was that of the row before, where that was told.
    pub overlaps: Vec<Option<f32>>,
    /// Its text.
    pub text: String,
    /// Why it ended.
    pub reason: Option<FinishReason>,
}

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The choices by number.
    pub choices: BTreeMap<u32, Choice>,
    /// Counts of the whole.
    pub usage: Option<Usage>,
}

/// A request for the tokens after a prompt.
pub fn request(model: &str, prompt: &[u32], sampling: SamplingOptions) -> GenerateRequest {
    GenerateRequest {
        model: model.to_owned(),
        prompt: Some(generate_request::Prompt::TokenIds(TokenIds { ids: prompt.to_vec() })),
        sampling: Some(sampling),
        options: Some(RequestOptions::default()),
    }
}

/// A prompt of so many ordinary tokens; another for each seed.
pub fn tokens(seed: u32, count: u32) -> Vec<u32> {
    (0..count).map(|i| 3 + (seed * 131 + i * 7) % 400).collect()
}

/// The most likely tokens, so many.
pub fn greedy(max_tokens: u32) -> SamplingOptions {
    SamplingOptions {
        max_tokens: Some(max_tokens),
        temperature: Some(0.0),
        ignore_eos: Some(true),
        logprobs: Some(0),
        ..SamplingOptions::default()
    }
}

impl Answer {
    /// Takes in the next event; deltas must come in order.
    ///
    /// # Errors
    /// When a token is doubled or missing.
    pub fn take(&mut self, response: GenerateResponse) -> Result<()> {
        match response.event.context("an empty event")? {
            Event::Started(_) => {}
            Event::Delta(delta) => {
                let choice = self.choices.entry(delta.choice).or_default();
                if delta.first_token as usize != choice.tokens.len() {
                    bail!("token {} comes after {} tokens", delta.first_token, choice.tokens.len());
                }
                choice.tokens.extend(&delta.token_ids);
                let own = delta.logprobs.iter().filter_map(|l| l.token.as_ref());
                choice.logprobs.extend(own.map(|l| l.logprob.to_bits()));
                choice.overlaps.extend(delta.logprobs.iter().map(|l| l.choice_overlap));
                choice.text.push_str(&delta.text);
            }
            Event::Finished(finished) => {
                self.choices.entry(finished.choice).or_default().reason = Some(finished.reason());
            }
            Event::Usage(usage) => self.usage = Some(usage),
        }
        Ok(())
    }

    /// The tokens of the first choice.
    pub fn tokens(&self) -> &[u32] {
        self.choices.get(&0).map_or(&[], |c| &c.tokens)
    }
}

impl Client {
    /// Connects to a router's gRPC address.
    ///
    /// # Errors
    /// When nothing listens there.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
        Ok(Self { hadal: HadalClient::new(channel.clone()), health: HealthClient::new(channel) })
    }

    /// Waits until the router says that it serves.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn until_serving(&mut self) -> Result<()> {
        self.until_health(ServingStatus::Serving).await
    }

    /// Waits until the router says that of itself.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn until_health(&mut self, wanted: ServingStatus) -> Result<()> {
        let request = HealthCheckRequest { service: String::new() };
        let mut states = self.health.watch(request).await?.into_inner();
        let follow = async {
            while let Some(state) = states.message().await? {
                if state.status() == wanted {
                    return anyhow::Ok(());
                }
            }
            bail!("the router ended its health stream")
        };
        timeout(PATIENCE, follow).await.with_context(|| format!("the router is not {wanted:?} in time"))?
    }

    /// Starts a request; dropping the stream cancels it.
    ///
    /// # Errors
    /// The router's status.
    pub async fn stream(&mut self, request: GenerateRequest) -> Result<Streaming<GenerateResponse>, tonic::Status> {
        self.hadal.generate(request).await.map(tonic::Response::into_inner)
    }

    /// Starts a request whose answer is read as the test goes on.
    ///
    /// # Errors
    /// The router's status.
    pub async fn open(&mut self, request: GenerateRequest) -> Result<Open> {
        let events = timeout(PATIENCE, self.stream(request)).await.context("no answer begins in time")??;
        Ok(Open { events, answer: Answer::default() })
    }

    /// The status with which a request ends that must not be answered.
    ///
    /// # Errors
    /// When it is answered, or takes too long.
    pub async fn refused(&mut self, request: impl tonic::IntoRequest<GenerateRequest>) -> Result<tonic::Status> {
        let end = async {
            let mut events = match self.hadal.generate(request).await {
                Ok(response) => response.into_inner(),
                Err(status) => return Ok(status),
            };
            loop {
                match events.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => bail!("it is answered"),
                    Err(status) => return Ok(status),
                }
            }
        };
        timeout(PATIENCE, end).await.context("it is neither answered nor refused")?
    }

    /// A request's whole answer.
    ///
    /// # Errors
    /// The router's status, or deltas out of order.
    pub async fn generate(&mut self, request: GenerateRequest) -> Result<Answer> {
        self.open(request).await?.rest().await
    }
}

/// An answer under way. Dropping it cancels the request.
pub struct Open {
    events: Streaming<GenerateResponse>,
    /// What came so far.
    pub answer: Answer,
}

impl Open {
    /// Reads until the first choice has so many tokens.
    ///
    /// # Errors
    /// When the stream ends before, or takes too long.
    pub async fn until_tokens(&mut self, count: usize) -> Result<()> {
        let some = async {
            while self.answer.tokens().len() < count {
                let response = self.events.message().await?.context("the stream ended early")?;
                self.answer.take(response)?;
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, some).await.with_context(|| format!("no {count} tokens in time"))?
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// The status with which the stream ends, an end without usage or reasons, or one that takes too long.
    pub async fn rest(mut self) -> Result<Answer> {
        let rest = async {
            while let Some(response) = self.events.message().await? {
                self.answer.take(response)?;
            }
            let answer = self.answer;
            if answer.usage.is_none() || answer.choices.values().any(|c| c.reason.is_none()) {
                bail!("the stream ended early: {answer:?}");
            }
            anyhow::Ok(answer)
        };
        timeout(PATIENCE, rest).await.context("an answer takes too long")?
    }
}
