//! What the servers (HTTP and gRPC) are written against: [`Backend`], what is submitted to it and what comes back.
//!
//! A handler takes a [`ServedModel`], renders and tokenises with its text, and submits token ids. The answer is one
//! stream for all choices: `Started`, then deltas of any choice in each choice's order, a `Finished` for each choice and
//! one `Usage` at the end; or a failure, after which nothing follows. Dropping the stream cancels the request.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::Stream;
use hadal_router_core::{Failure, FailureKind, FinishReason, ModelText, TextDelta, Usage};
use hadal_types::{Attention, ChainRoot, Fingerprint, NumericsClass, RequestId, SamplingParams};
use tokio::sync::mpsc;

/// The router as its servers see it; tests put a double in its place.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Whether requests can be answered now, and if not, why.
    fn readiness(&self) -> Readiness;

    /// The models that are served now, by name.
    fn models(&self) -> Vec<ModelInfo>;

    /// The model of that name with its tokenizer and template. Waits, within bounds and until `deadline`, for a first
    /// worker to register and for its files.
    fn model(
        &self,
        name: &str,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<Arc<ServedModel>, Failure>> + Send;

    /// Checks a submission and starts it: resolves when it is placed and accepted by a worker (its `Started` is then in
    /// the stream), or refused. A failure after that comes through the stream, last. Dropping the future cancels too.
    fn submit(&self, submission: Submission) -> impl Future<Output = Result<OutputStream, Failure>> + Send;

    /// Counts a request that a server refused before it was submitted; its model need not exist.
    fn refused(&self, _api: Api, _failure: &Failure) {}
}

/// Whether requests can be answered now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// They can.
    Ready,
    /// Not yet, for the reason given: no coordinator, no worker.
    Waiting(String),
    /// Not any more: running streams finish, nothing new is taken.
    Draining,
}

/// A served model, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// The name that requests use.
    pub name: String,
    /// Its architecture, as in `config.json`.
    pub architecture: String,
    /// Which checkpoint it is.
    pub fingerprint: Fingerprint,
    /// Tokens of prompt and output together.
    pub context_tokens: u32,
    /// Workers that serve it now.
    pub workers: u32,
    /// Seconds since the epoch at which this router first saw it.
    pub created: u64,
}

/// A model and how its text becomes tokens.
#[derive(Debug)]
pub struct ServedModel {
    /// What it is, under the name that was asked for.
    pub info: ModelInfo,
    /// The fleet's own name of it, which differs where an alias was asked for.
    pub fleet_name: String,
    /// Tokenizer, chat template and generation defaults.
    pub text: Arc<ModelText>,
    /// Token ids are below this (`vocab_size` of `config.json`).
    pub vocab_size: u32,
}

/// A request whose text is tokens already.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The model, from [`Backend::model`].
    pub model: Arc<ServedModel>,
    /// The prompt.
    pub prompt: Vec<u32>,
    /// How to sample, with the model's defaults filled in and the end-of-sequence ids among `stop_token_ids` (unless
    /// they are ignored). `seed`, `choice` and `max_tokens` are set by the dispatch, from the fields below.
    pub params: SamplingParams,
    /// Tokens to give at most; none for as many as fit.
    pub max_tokens: Option<u32>,
    /// Key of the random numbers; none for one drawn once for all choices and attempts.
    pub seed: Option<u64>,
    /// Choices.
    pub n: u32,
    /// Strings before which the output ends.
    pub stop: Vec<String>,
    /// What the request says of itself.
    pub context: RequestMeta,
}

impl Submission {
    /// Where the chains of its blocks start on workers of a class.
    pub(crate) fn root(&self, class: NumericsClass) -> ChainRoot {
        ChainRoot::new(class, &self.context.salt, self.context.attention)
    }
}

/// How a request came; a label in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// OpenAI's, over HTTP.
    Http,
    /// hadal.v1, over gRPC.
    Grpc,
}

impl Api {
    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Api::Http => "http",
            Api::Grpc => "grpc",
        }
    }
}

/// What a request says of itself.
#[derive(Clone, Debug)]
pub struct RequestMeta {
    /// How it came.
    pub api: Api,
    /// Unique among the requests in flight.
    pub request_id: RequestId,
    /// Whose it is; empty for nobody's.
    pub tenant: String,
    /// Prompts share cached blocks only under the same salt. See [`salt`].
    pub salt: Vec<u8>,
    /// What its tokens attend to; it does not share cached blocks with those of another kind either.
    pub attention: Attention,
    /// Larger first.
    pub priority: i32,
    /// Requests of one session are placed together when that is cheap.
    pub session: String,
    /// W3C trace context, handed on as it came.
    pub traceparent: String,
    /// When it is too late.
    pub deadline: Option<Instant>,
}

/// The salt of a tenant's cache salt: no two pairs give the same bytes, and nobody's empty salt is empty.
pub fn salt(tenant: &str, cache_salt: &str) -> Vec<u8> {
    if tenant.is_empty() && cache_salt.is_empty() {
        return Vec::new();
    }
    let mut salt = (tenant.len() as u64).to_le_bytes().to_vec();
    salt.extend_from_slice(tenant.as_bytes());
    salt.extend_from_slice(cache_salt.as_bytes());
    salt
}

/// One event of an answer.
#[derive(Clone, Debug)]
pub enum Output {
    /// The request was placed; always the first.
    Started {
        /// Its id.
        request_id: RequestId,
        /// Tokens of the prompt.
        prompt_tokens: u32,
    },
    /// Text and tokens of one choice.
    Delta(TextDelta),
    /// The end of one choice.
    Finished {
        /// Which.
        choice: u32,
        /// Why it ended.
        reason: FinishReason,
        /// The stop string that matched.
        stop: Option<String>,
    },
    /// The end of the answer.
    Usage {
        /// Tokens of all choices; cached ones are those of the first placement of the first choice.
        usage: Usage,
        /// Where the time went.
        timings: Timings,
    },
}

/// Time spent in each phase, of the first choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// From submission to placement.
    pub placement: Duration,
    /// From the worker's acceptance to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

/// The events of one answer. Dropping it cancels the request.
#[derive(Debug)]
pub struct OutputStream {
    first: Option<Output>,
    outputs: mpsc::Receiver<Result<Output, Failure>>,
}

impl OutputStream {
    /// A stream of what is sent to the other end of a bounded channel. The sender learns of the stream's end by
    /// `Sender::closed`.
    pub fn new(outputs: mpsc::Receiver<Result<Output, Failure>>) -> Self {
        Self { first: None, outputs }
    }

    /// Waits for the first event and puts it back, so that a refusal is known before the answer begins.
    pub(crate) async fn begun(mut self) -> Result<Self, Failure> {
        let lost = || Failure::new(FailureKind::Unavailable, "this router stopped; send the request to another one");
        self.first = Some(self.outputs.recv().await.ok_or_else(lost)??);
        Ok(self)
    }
}

impl Stream for OutputStream {
    type Item = Result<Output, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => self.outputs.poll_recv(cx),
        }
    }
}

#[cfg(test)]
pub(crate) mod double;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_with_equal_concatenations_have_other_salts() {
        assert_ne!(salt("ab", "c"), salt("a", "bc"));
        assert!(salt("", "").is_empty());
    }
}
