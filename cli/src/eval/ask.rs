//! The requests of an evaluation: ordinary ones of `hadal.v1`.

use std::time::Duration;

use hadal_proto::v1;
use hadal_proto::v1::hadal_client::HadalClient;
use hadal_shell::exit::Exit;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::text::{Window, pieces};
use crate::fault::Fault;
use crate::served::refused;

/// Bytes that are tokenised at a time.
const PIECE_BYTES: usize = 64 << 10;

/// Tokens of an answer at most: a sentence with a number.
const ANSWER_TOKENS: u32 = 48;

/// How often a request is made while the cluster has no room for it or cannot be reached, and how long to wait after the
/// first time; twice as long after each further one. One such moment must not cost a whole evaluation.
const TRIES_MAX: u32 = 6;
const WAIT: Duration = Duration::from_millis(500);

/// A model to ask.
#[derive(Clone)]
pub(super) struct Ask {
    client: HadalClient<Channel>,
    model: v1::Model,
}

/// Which requests may share cached blocks, and go to one place.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    /// `cache_salt`.
    pub(super) salt: String,
    /// `session`.
    pub(super) session: String,
}

/// A token that the model was made to say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    /// Negative log-likelihood, in nats.
    pub(super) loss: f64,
    pub(super) overlap: Option<f64>,
}

/// A whole answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) prompt_tokens: u32,
    pub(super) cached_tokens: u32,
}

/// Deltas and counts of a whole stream.
type Output = (Vec<v1::Delta>, v1::Usage);

/// What a stream says that an evaluation looks at.
enum Part {
    Delta(v1::Delta),
    Usage(v1::Usage),
    Other,
}

impl Ask {
    pub(super) fn new(client: HadalClient<Channel>, model: v1::Model) -> Self {
        Self { client, model }
    }

    async fn tokenized(&self, input: v1::tokenize_request::Input) -> Result<Vec<u32>, Status> {
        let request = v1::TokenizeRequest { model: self.model.name.clone(), input: Some(input) };
        let ask = || async { Ok(self.client.clone().tokenize(request.clone()).await?.into_inner().token_ids) };
        patiently(WAIT, ask).await
    }

    async fn piece(&self, text: &str) -> Result<Vec<u32>, Fault> {
        let tokens = self.tokenized(v1::tokenize_request::Input::Text(text.to_owned())).await;
        tokens.map_err(|status| failed(&status))
    }

    /// The tokens that the model wants before every text.
    pub(super) async fn prefix(&self) -> Result<Vec<u32>, Fault> {
        self.piece("").await
    }

    /// Tokens of the beginning of a text, without `prefix`: `wanted` or more, or all; and how many bytes they are.
    pub(super) async fn tokens(&self, text: &str, prefix: &[u32], wanted: usize) -> Result<(Vec<u32>, usize), Fault> {
        let (mut tokens, mut bytes) = (Vec::new(), 0);
        // No token is less than a byte, so that a piece is never longer than what a prompt may be.
        for piece in pieces(text, PIECE_BYTES.min(self.model.context_tokens as usize)) {
            if tokens.len() >= wanted {
                break;
            }
            let all = self.piece(piece).await?;
            tokens.extend(all.strip_prefix(prefix).unwrap_or(&all));
            bytes += piece.len();
        }
        Ok((tokens, bytes))
    }

    /// Whether conversations can be rendered.
    pub(super) async fn chats(&self) -> Result<bool, Fault> {
        let conversation = v1::Conversation { messages: conversation("text", "question"), thinking: false };
        match self.tokenized(v1::tokenize_request::Input::Conversation(conversation)).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::InvalidArgument => Ok(false),
            Err(status) => Err(failed(&status)),
        }
    }

    /// Makes the model say a window's tokens.
    pub(super) async fn score(&self, window: &Window, attention: v1::Attention) -> Result<Vec<Said>, Fault> {
        let sampling = v1::SamplingOptions {
            max_tokens: Some(window.forced.len() as u32),
            temperature: Some(0.0),
            logprobs: Some(0),
            ignore_eos: Some(true),
            forced_tokens: window.forced.clone(),
            choice_overlap: attention != v1::Attention::Dense,
            ..Default::default()
        };
        let prompt = v1::generate_request::Prompt::TokenIds(v1::TokenIds { ids: window.prompt.clone() });
        let (deltas, _) = self.generate(prompt, sampling, options(attention, &Group::default())).await?;
        let said: Vec<_> = deltas.into_iter().flat_map(|delta| delta.logprobs).collect();
        let ids = said.iter().map(|said| said.token.as_ref().map(|token| token.token_id));
        if !ids.eq(window.forced.iter().copied().map(Some)) {
            let model = &self.model.name;
            let why = "it answered with other tokens than the forced ones: is its router older than this command?";
            return Err(Fault::say(Exit::Unavailable, format!("the cluster cannot score texts with {model}: {why}")));
        }
        let loss = |said: &v1::TokenLogprobs| said.token.as_ref().map_or(0.0, |token| -f64::from(token.logprob));
        Ok(said.iter().map(|s| Said { loss: loss(s), overlap: s.choice_overlap.map(f64::from) }).collect())
    }

    /// The answer to a question about a text, the most likely one; in a conversation where the model has a template.
    pub(super) async fn answer(
        &self,
        (text, question): (&str, &str),
        chats: bool,
        attention: v1::Attention,
        group: &Group,
    ) -> Result<Answer, Fault> {
        let sampling = |stop: &[&str]| v1::SamplingOptions {
            max_tokens: Some(ANSWER_TOKENS),
            // All that a model's generation_config.json may say otherwise.
            temperature: Some(0.0),
            top_p: Some(1.0),
            top_k: Some(0),
            min_p: Some(0.0),
            repetition_penalty: Some(1.0),
            stop: stop.iter().map(|stop| (*stop).to_owned()).collect(),
            ..Default::default()
        };
        let options = options(attention, group);
        let (deltas, usage) = if chats {
            self.chat(conversation(text, question), sampling(&[]), options).await?
        } else {
            let prompt = format!("{text}\n\nQuestion: {question}\nAnswer:");
            let prompt = v1::generate_request::Prompt::Text(prompt);
            self.generate(prompt, sampling(&["\n"]), options).await?
        };
        Ok(Answer {
            text: deltas.iter().map(|delta| delta.text.as_str()).collect(),
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.cached_prompt_tokens,
        })
    }

    async fn generate(
        &self,
        prompt: v1::generate_request::Prompt,
        sampling: v1::SamplingOptions,
        options: v1::RequestOptions,
    ) -> Result<Output, Fault> {
        use v1::generate_response::Event;
        let request = v1::GenerateRequest {
            model: self.model.name.clone(),
            prompt: Some(prompt),
            sampling: Some(sampling),
            options: Some(options),
        };
        let part = |response: v1::GenerateResponse| match response.event {
            Some(Event::Delta(delta)) => Part::Delta(delta),
            Some(Event::Usage(usage)) => Part::Usage(usage),
            _ => Part::Other,
        };
        let ask = || async { output(self.client.clone().generate(request.clone()).await?.into_inner(), part).await };
        patiently(WAIT, ask).await.map_err(|status| failed(&status))
    }

    async fn chat(
        &self,
        messages: Vec<v1::Message>,
        sampling: v1::SamplingOptions,
        options: v1::RequestOptions,
    ) -> Result<Output, Fault> {
        use v1::chat_response::Event;
        let request = v1::ChatRequest {
            model: self.model.name.clone(),
            messages,
            sampling: Some(sampling),
            options: Some(options),
            thinking: false,
        };
        let part = |response: v1::ChatResponse| match response.event {
            Some(Event::Delta(delta)) => Part::Delta(delta),
            Some(Event::Usage(usage)) => Part::Usage(usage),
            _ => Part::Other,
        };
        let ask = || async { output(self.client.clone().chat(request.clone()).await?.into_inner(), part).await };
        patiently(WAIT, ask).await.map_err(|status| failed(&status))
    }
}

/// Reads a stream to its end.
async fn output<R>(mut events: Streaming<R>, part: impl Fn(R) -> Part) -> Result<Output, Status> {
    let (mut deltas, mut last) = (Vec::new(), v1::Usage::default());
    while let Some(response) = events.message().await? {
        match part(response) {
            Part::Delta(delta) => deltas.push(delta),
            Part::Usage(usage) => last = usage,
            Part::Other => {}
        }
    }
    Ok((deltas, last))
}

/// Whether the same request may be answered a little later.
fn transient(status: &Status) -> bool {
    matches!(status.code(), Code::ResourceExhausted | Code::Unavailable)
}

/// Asks, and again after `wait` and longer while that may help.
async fn patiently<T, F: Future<Output = Result<T, Status>>>(
    mut wait: Duration,
    ask: impl Fn() -> F,
) -> Result<T, Status> {
    for _ in 1..TRIES_MAX {
        match ask().await {
            Err(status) if transient(&status) => tokio::time::sleep(wait).await,
            ended => return ended,
        }
        wait *= 2;
    }
    ask().await
}

/// A request that was refused in the end.
fn failed(status: &Status) -> Fault {
    let fault = refused(status);
    if !transient(status) {
        return fault;
    }
    let hint = "a lower --concurrency asks less of the cluster at a time";
    Fault::say(fault.exit, format!("{fault}; so it was {TRIES_MAX} times: {hint}"))
}

/// The question has a turn of its own, so that what is asked does not change the tokens of the text.
fn conversation(text: &str, question: &str) -> Vec<v1::Message> {
    let said = |role: &str, content: &str| v1::Message { role: role.into(), content: content.into() };
    vec![said("user", text), said("assistant", "I have read the text."), said("user", question)]
}

fn options(attention: v1::Attention, group: &Group) -> v1::RequestOptions {
    v1::RequestOptions {
        cache_salt: group.salt.clone(),
        session: group.session.clone(),
        attention: attention.into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Asks what is refused so many times, and then answered; tells how often it was asked.
    async fn asked(refusals: u32, code: Code) -> (Result<(), Status>, u32) {
        let count = Cell::new(0);
        let ask = || {
            count.set(count.get() + 1);
            std::future::ready(if count.get() > refusals { Ok(()) } else { Err(Status::new(code, "full")) })
        };
        (patiently(Duration::ZERO, ask).await, count.get())
    }

    #[tokio::test]
    async fn what_may_be_answered_later_is_asked_again_and_not_for_ever() {
        for code in [Code::ResourceExhausted, Code::Unavailable] {
            let (ended, count) = asked(TRIES_MAX - 1, code).await;
            assert_eq!((ended.is_ok(), count), (true, TRIES_MAX));
            let (ended, count) = asked(u32::MAX, code).await;
            let fault = failed(&ended.unwrap_err()).to_string();
            assert!(count == TRIES_MAX && fault.starts_with("full") && fault.contains("--concurrency"), "{fault}");
        }
        let (ended, count) = asked(1, Code::InvalidArgument).await;
        assert_eq!((failed(&ended.unwrap_err()).to_string().as_str(), count), ("full", 1));
    }
}
