//! The two doors that can be loaded: HTTP as OpenAI's API, and gRPC `hadal.v1`.

use std::time::Instant;

use hadal_proto::v1;
use hadal_proto::v1::generate_response::Event;
use hadal_proto::v1::hadal_client::HadalClient;
use hadal_shell::grpc::explain;
use tonic::transport::Channel;

use super::http::Http;
use super::prompt::{self, Piece};
use super::sample::{Answer, Failure, Usage};
use crate::fault::Fault;
use crate::served::{Served, refused};

/// Where requests go. Cheap to clone.
#[derive(Clone)]
pub(super) enum Door {
    Http(Http),
    Grpc(Grpc),
}

/// What a request carries, made before its time is taken.
pub(super) enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

impl Door {
    /// Writes a prompt.
    pub(super) fn prompt(&self, pieces: &[Piece]) -> Prompt {
        match self {
            Self::Http(http) => Prompt::Text(prompt::text(pieces, http.rule())),
            Self::Grpc(grpc) => Prompt::Ids(prompt::ids(pieces, &grpc.vocabulary, &grpc.prefix)),
        }
    }

    /// Has a prompt answered by so many tokens.
    ///
    /// # Errors
    /// When it is refused, or its answer breaks off.
    pub(super) async fn ask(&self, prompt: Prompt, output_tokens: u32) -> Result<Answer, Failure> {
        let answer = match (self, prompt) {
            (Self::Http(http), Prompt::Text(text)) => http.ask(text, output_tokens).await?,
            (Self::Grpc(grpc), Prompt::Ids(ids)) => grpc.ask(ids, output_tokens).await?,
            _ => return Err(Failure::new("internal", "a prompt for another door")),
        };
        if answer.any() { Ok(answer) } else { Err(Failure::new("empty answer", "the answer has no token")) }
    }

    pub(super) fn model(&self) -> &str {
        match self {
            Self::Http(http) => http.model(),
            Self::Grpc(grpc) => &grpc.model,
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Grpc(_) => "grpc",
        }
    }
}

/// A router of Hadal.
#[derive(Clone)]
pub(super) struct Grpc {
    client: HadalClient<Channel>,
    model: String,
    /// Ordinary tokens to draw from.
    vocabulary: std::sync::Arc<[u32]>,
    /// What the model wants before every text.
    prefix: std::sync::Arc<[u32]>,
}

impl Grpc {
    /// Asks what is served, and for tokens.
    ///
    /// # Errors
    /// When nobody answers, or the model is not served.
    pub(super) async fn open(served: &Served) -> Result<Self, Fault> {
        let (mut client, model) = served.connect().await?;
        let mut tokenized = async |text: &str| {
            let input = Some(v1::tokenize_request::Input::Text(text.to_owned()));
            let request = v1::TokenizeRequest { model: model.name.clone(), input };
            let answer = client.tokenize(request).await.map_err(|status| refused(&status))?;
            Ok::<_, Fault>(answer.into_inner().token_ids)
        };
        let prefix = tokenized("").await?;
        // Words as they stand in a text, so that no token is a special one.
        let words = tokenized(prompt::WORDS).await?;
        let mut vocabulary = words.strip_prefix(&*prefix).unwrap_or(&words).to_vec();
        vocabulary.sort_unstable();
        vocabulary.dedup();
        Ok(Self { client, model: model.name, vocabulary: vocabulary.into(), prefix: prefix.into() })
    }

    async fn ask(&self, ids: Vec<u32>, output_tokens: u32) -> Result<Answer, Failure> {
        let failed = |status: tonic::Status| Failure::new(format!("grpc {:?}", status.code()), explain(&status));
        let sampling = v1::SamplingOptions {
            max_tokens: Some(output_tokens),
            temperature: Some(0.0),
            ignore_eos: Some(true),
            ..Default::default()
        };
        let request = v1::GenerateRequest {
            model: self.model.clone(),
            prompt: Some(v1::generate_request::Prompt::TokenIds(v1::TokenIds { ids })),
            sampling: Some(sampling),
            options: None,
        };
        let mut events = self.client.clone().generate(request).await.map_err(failed)?.into_inner();
        let mut answer = Answer::default();
        while let Some(response) = events.message().await.map_err(failed)? {
            match response.event {
                Some(Event::Delta(delta)) => answer.on_tokens(Instant::now(), delta.token_ids.len() as u32),
                Some(Event::Usage(usage)) => {
                    answer.on_end(Instant::now());
                    answer.on_usage(Usage {
                        prompt: Some(usage.prompt_tokens),
                        output: Some(usage.completion_tokens),
                        cached: Some(usage.cached_prompt_tokens),
                    });
                }
                _ => {}
            }
        }
        Ok(answer)
    }
}
