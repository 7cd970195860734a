//! Requests of `hadal.v1` as submissions.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hadal_proto::v1;
use hadal_router_core::openai::Prompt;
use hadal_router_core::{ChatMessage, ChatOptions, Failure, SamplingOptions};
use hadal_types::Attention;

use crate::grpc::meta::{Arrived, bounded, request_id};
use crate::service::{Api, RequestMeta, ServedModel, Submission, salt};

/// Messages of a conversation at most.
const MESSAGES_MAX: usize = 4096;

/// A request that is in order.
pub(super) struct Answered {
    pub(super) submission: Submission,
    pub(super) model: Arc<ServedModel>,
}

/// What a request says of sampling and of itself.
pub(super) struct Sampled {
    sampling: SamplingOptions,
    options: v1::RequestOptions,
}

impl Sampled {
    pub(super) fn read(sampling: Option<v1::SamplingOptions>, options: Option<v1::RequestOptions>) -> Self {
        Self { sampling: sampling_options(sampling.unwrap_or_default()), options: options.unwrap_or_default() }
    }

    pub(super) fn submission(
        self,
        arrived: Arrived,
        model: &Arc<ServedModel>,
        prompt: Vec<u32>,
    ) -> Result<Submission, Failure> {
        let resolved = self.sampling.resolve(model.text.defaults(), model.vocab_size)?;
        Ok(Submission {
            model: Arc::clone(model),
            prompt,
            params: resolved.params,
            max_tokens: resolved.max_tokens,
            seed: resolved.seed,
            n: resolved.n,
            stop: resolved.stop,
            context: context(self.options, arrived)?,
        })
    }
}

/// Metadata are what a proxy in front sets, and go before the message where that is about identity.
fn context(options: v1::RequestOptions, arrived: Arrived) -> Result<RequestMeta, Failure> {
    let id = if options.request_id.is_empty() { &arrived.request_id } else { &options.request_id };
    let tenant = if arrived.tenant.is_empty() { bounded("tenant", &options.tenant)? } else { arrived.tenant };
    Ok(RequestMeta {
        api: Api::Grpc,
        request_id: request_id(id)?,
        salt: salt(&tenant, &bounded("cache_salt", &options.cache_salt)?),
        attention: attention(options.attention)?,
        tenant,
        priority: options.priority,
        session: bounded("session", &options.session)?,
        traceparent: arrived.traceparent,
        deadline: arrived.deadline,
    })
}

/// A client of a later release may name a kind that this one cannot compute.
fn attention(number: i32) -> Result<Attention, Failure> {
    match v1::Attention::try_from(number) {
        Ok(v1::Attention::Unspecified) => Ok(Attention::Sparse),
        Ok(v1::Attention::Dense) => Ok(Attention::Dense),
        Err(_) => {
            let message = format!("attention must be 0 (as the model has it) or 1 (dense); got {number}");
            Err(Failure::invalid("attention", message))
        }
    }
}

fn sampling_options(options: v1::SamplingOptions) -> SamplingOptions {
    SamplingOptions {
        max_tokens: options.max_tokens,
        temperature: options.temperature,
        top_p: options.top_p,
        top_k: options.top_k,
        min_p: options.min_p,
        seed: options.seed,
        stop: options.stop,
        logprobs: options.logprobs,
        ignore_eos: options.ignore_eos.unwrap_or(false),
        repetition_penalty: options.repetition_penalty,
        frequency_penalty: options.frequency_penalty,
        presence_penalty: options.presence_penalty,
        logit_bias: options.logit_bias.into_iter().collect(),
        min_tokens: options.min_tokens,
        stop_token_ids: options.stop_token_ids,
        n: options.n,
        forced_tokens: options.forced_tokens,
        choice_overlap: options.choice_overlap,
    }
}

/// A prompt, as text or tokens.
pub(super) fn prompt(prompt: Option<v1::generate_request::Prompt>) -> Result<Prompt, Failure> {
    use v1::generate_request::Prompt as Wire;
    match prompt {
        Some(Wire::Text(text)) => Ok(Prompt::Text(text)),
        Some(Wire::TokenIds(tokens)) => Ok(Prompt::Tokens(tokens.ids)),
        None => Err(Failure::invalid("prompt", "there is no prompt; give text or token_ids")),
    }
}

/// A conversation, and what its template is told.
pub(super) fn conversation(
    messages: Vec<v1::Message>,
    thinking: bool,
) -> Result<(Vec<ChatMessage>, ChatOptions), Failure> {
    if messages.is_empty() {
        return Err(Failure::invalid("messages", "the conversation is empty; it must have at least one message"));
    }
    if messages.len() > MESSAGES_MAX {
        let message = format!("the conversation has {} messages; at most {MESSAGES_MAX} are allowed", messages.len());
        return Err(Failure::invalid("messages", message));
    }
    if let Some(at) = messages.iter().position(|message| message.role.is_empty()) {
        return Err(Failure::invalid(
            "messages",
            format!("message {at} has no role; roles are system, user, assistant"),
        ));
    }
    let mut options = ChatOptions {
        unix_time_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        ..ChatOptions::default()
    };
    // DeepSeek's templates read the first name, GLM's the second.
    for name in ["thinking", "enable_thinking"] {
        options.variables.insert(name.into(), thinking.into());
    }
    let messages = messages.iter().map(|message| ChatMessage::new(&message.role, &message.content)).collect();
    Ok((messages, options))
}
