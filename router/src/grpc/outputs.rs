//! Outputs as messages of `hadal.v1`.

use hadal_proto::v1;
use hadal_router_core::{FinishReason, Logprob, TextDelta, TokenLogprobs, Usage};

use crate::service::{ModelInfo, Output, Timings};

/// An event of Generate, of the model that was asked for under that name.
pub(super) fn generated((model, output): (String, Output)) -> v1::GenerateResponse {
    use v1::generate_response::Event;
    let event = match output {
        Output::Started { request_id, prompt_tokens } => {
            Event::Started(v1::Started { request_id: request_id.to_string(), model, prompt_tokens })
        }
        Output::Delta(text) => Event::Delta(delta(text)),
        Output::Finished { choice, reason, stop } => Event::Finished(finished(choice, reason, stop)),
        Output::Usage { usage, timings } => Event::Usage(used(usage, timings)),
    };
    v1::GenerateResponse { event: Some(event) }
}

/// The same event of Chat.
pub(super) fn chatted(output: (String, Output)) -> v1::ChatResponse {
    use v1::chat_response::Event;
    use v1::generate_response::Event as Generated;
    let event = generated(output).event.map(|event| match event {
        Generated::Started(started) => Event::Started(started),
        Generated::Delta(delta) => Event::Delta(delta),
        Generated::Finished(finished) => Event::Finished(finished),
        Generated::Usage(usage) => Event::Usage(usage),
    });
    v1::ChatResponse { event }
}

/// A model in the list.
pub(super) fn model(info: ModelInfo) -> v1::Model {
    v1::Model {
        name: info.name,
        architecture: info.architecture,
        fingerprint: info.fingerprint.to_string(),
        context_tokens: info.context_tokens,
        workers: info.workers,
    }
}

fn delta(delta: TextDelta) -> v1::Delta {
    v1::Delta {
        choice: delta.choice,
        text: delta.text,
        token_ids: delta.token_ids,
        logprobs: delta.logprobs.iter().map(token_logprobs).collect(),
        first_token: delta.first_token,
    }
}

fn token_logprobs(logprobs: &TokenLogprobs) -> v1::TokenLogprobs {
    v1::TokenLogprobs {
        token: Some(logprob(&logprobs.token)),
        top: logprobs.top.iter().map(logprob).collect(),
        choice_overlap: logprobs.choice_overlap,
    }
}

fn logprob(logprob: &Logprob) -> v1::Logprob {
    v1::Logprob { token_id: logprob.token_id, logprob: logprob.logprob, text: logprob.text() }
}

fn finished(choice: u32, reason: FinishReason, stop: Option<String>) -> v1::Finished {
    let reason = match reason {
        FinishReason::Stop => v1::FinishReason::Stop,
        FinishReason::Length => v1::FinishReason::Length,
    };
    v1::Finished { choice, reason: reason.into(), stop: stop.unwrap_or_default() }
}

fn used(usage: Usage, timings: Timings) -> v1::Usage {
    v1::Usage {
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
        cached_prompt_tokens: usage.cached_prompt_tokens,
        timings: Some(v1::Timings {
            placement_us: timings.placement.as_micros() as u64,
            prefill_us: timings.prefill.as_micros() as u64,
            decode_us: timings.decode.as_micros() as u64,
        }),
    }
}
