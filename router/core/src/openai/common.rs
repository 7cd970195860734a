//! What both endpoints' requests share.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::fields::Fields;
use crate::failure::Failure;
use crate::sampling::SamplingOptions;

/// A prompt as it came.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Text to tokenise.
    Text(String),
    /// Tokens, used as they are.
    Tokens(Vec<u32>),
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Prompt::Text(text)
    }
}

/// Fields that every request for tokens may have.
#[derive(Clone, Debug, PartialEq)]
pub struct Common {
    /// Name of the model.
    pub model: String,
    /// How to sample.
    pub sampling: SamplingOptions,
    /// Send the answer in pieces.
    pub stream: bool,
    /// Send usage as the last piece.
    pub include_usage: bool,
    /// Put token ids beside text.
    pub return_token_ids: bool,
    /// Prompts share cached blocks only under the same salt.
    pub cache_salt: String,
    /// Larger first.
    pub priority: i32,
    /// Requests of one session are placed together when that is cheap.
    pub session: String,
}

/// Fields that would change the answer and that neither endpoint has, with the values that change nothing.
const UNSUPPORTED: [(&str, &[&str]); 12] = [
    ("use_beam_search", &["false"]),
    ("prompt_logprobs", &["0", "false"]),
    ("guided_json", &[]),
    ("guided_regex", &[]),
    ("guided_choice", &[]),
    ("guided_grammar", &[]),
    ("structured_outputs", &[]),
    ("response_format", &[r#"{"type":"text"}"#]),
    ("echo", &["false"]),
    // These are of gRPC only.
    ("forced_tokens", &["[]"]),
    ("choice_overlap", &["false"]),
    ("attention", &["0"]),
];

impl Common {
    /// Reads them; log-probabilities and the limit of tokens are each endpoint's own.
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self, Failure> {
        for (name, harmless) in UNSUPPORTED {
            fields.refuse(name, harmless)?;
        }
        let stream = fields.flag("stream")?;
        Ok(Self {
            model: model(fields)?,
            sampling: sampling(fields)?,
            stream,
            include_usage: include_usage(fields, stream)?,
            return_token_ids: fields.flag("return_token_ids")?,
            cache_salt: fields.text("cache_salt")?,
            priority: fields.get("priority", "a whole number")?.unwrap_or(0),
            session: fields.text("prompt_cache_key")?,
        })
    }
}

/// The model's name, which is always given.
pub(super) fn model(fields: &Fields<'_>) -> Result<String, Failure> {
    fields.need("model", "the name of a model, as GET /v1/models lists them")
}

fn sampling(fields: &Fields<'_>) -> Result<SamplingOptions, Failure> {
    Ok(SamplingOptions {
        max_tokens: fields.count("max_tokens")?,
        temperature: fields.number("temperature")?,
        top_p: fields.number("top_p")?,
        top_k: top_k(fields)?,
        min_p: fields.number("min_p")?,
        seed: seed(fields)?,
        stop: stop(fields)?,
        logprobs: None,
        ignore_eos: fields.flag("ignore_eos")?,
        repetition_penalty: fields.number("repetition_penalty")?,
        frequency_penalty: fields.number("frequency_penalty")?,
        presence_penalty: fields.number("presence_penalty")?,
        logit_bias: logit_bias(fields)?,
        min_tokens: fields.count("min_tokens")?,
        stop_token_ids: fields.get("stop_token_ids", "a list of token ids")?.unwrap_or_default(),
        n: fields.count("n")?,
        // Of gRPC only.
        forced_tokens: Vec::new(),
        choice_overlap: false,
    })
}

/// 0 and -1 are both off, as clients of vLLM and of Hugging Face write it.
fn top_k(fields: &Fields<'_>) -> Result<Option<u32>, Failure> {
    match fields.raw("top_k") {
        Some(raw) if raw.get() == "-1" => Ok(Some(0)),
        _ => fields.count("top_k"),
    }
}

/// Any whole number of 64 bits; negative ones are keys like others.
fn seed(fields: &Fields<'_>) -> Result<Option<u64>, Failure> {
    let expected = "a whole number of at most 64 bits";
    match fields.raw("seed") {
        Some(raw) if raw.get().starts_with('-') => Ok(fields.get::<i64>("seed", expected)?.map(|seed| seed as u64)),
        _ => fields.get("seed", expected),
    }
}

fn stop(fields: &Fields<'_>) -> Result<Vec<String>, Failure> {
    let expected = "a string or a list of strings";
    match fields.raw("stop") {
        Some(raw) if raw.get().starts_with('"') => Ok(fields.get("stop", expected)?.into_iter().collect()),
        _ => Ok(fields.get("stop", expected)?.unwrap_or_default()),
    }
}

fn logit_bias(fields: &Fields<'_>) -> Result<Vec<(u32, f32)>, Failure> {
    let expected = "an object from token ids to numbers";
    let Some(raw) = fields.raw("logit_bias") else { return Ok(Vec::new()) };
    let biases: BTreeMap<String, f64> = fields.get("logit_bias", expected)?.unwrap_or_default();
    let entry = |(id, bias): (String, f64)| id.trim().parse::<u32>().map(|id| (id, bias as f32));
    biases.into_iter().map(entry).collect::<Result<_, _>>().map_err(|_| fields.wrong("logit_bias", expected, raw))
}

fn include_usage(fields: &Fields<'_>, stream: bool) -> Result<bool, Failure> {
    let Some(raw) = fields.raw("stream_options") else { return Ok(false) };
    if !stream {
        return Err(Failure::invalid(
            "stream_options",
            "stream_options is for streams only; set stream to true or leave it out",
        ));
    }
    Fields::of_value(raw, "stream_options")?.flag("include_usage")
}

/// A list's elements as they are written, at most `max` of them.
pub(super) fn elements<'a>(raw: &'a RawValue, name: &str, max: usize) -> Result<Vec<&'a RawValue>, Failure> {
    let wrong = |_| Failure::invalid(name, format!("{name} must be a list; it is {}", super::fields::shown(raw)));
    let list: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(wrong)?;
    if list.len() > max {
        return Err(Failure::invalid(name, format!("{name} has {} elements; at most {max} are allowed", list.len())));
    }
    Ok(list)
}
