//! The request of `/v1/completions`.

use serde_json::value::RawValue;

use super::common::{Common, Prompt, elements};
use super::fields::Fields;
use crate::failure::Failure;

/// A request to continue one or several prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionRequest {
    /// Fields of both endpoints.
    pub common: Common,
    /// The prompts, at least one, none of them empty.
    pub prompts: Vec<Prompt>,
}

/// Prompts of one request at most.
const PROMPTS_MAX: usize = 64;
const EXPECTED: &str = "a string, a list of strings, a list of token ids, or a list of such lists";

impl CompletionRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// When it is not JSON, or a field is missing, of another type or not supported; ranges are checked later, with
    /// the model's own defaults.
    pub fn parse(body: &[u8]) -> Result<Self, Failure> {
        let fields = Fields::of_body(body)?;
        fields.refuse("suffix", &["\"\""])?;
        fields.refuse("best_of", &["1"])?;
        let mut common = Common::read(&fields)?;
        common.sampling.logprobs = fields.count("logprobs")?;
        Ok(Self { common, prompts: prompts(&fields)? })
    }
}

fn prompts(fields: &Fields<'_>) -> Result<Vec<Prompt>, Failure> {
    let raw: &RawValue = fields.need("prompt", EXPECTED)?;
    let prompts = if raw.get().starts_with('[') && !holds_numbers(raw) {
        let list = elements(raw, "prompt", PROMPTS_MAX)?;
        list.into_iter().map(|one| prompt(fields, one)).collect::<Result<Vec<_>, _>>()?
    } else {
        vec![prompt(fields, raw)?]
    };
    if prompts.is_empty() || prompts.iter().any(Prompt::is_empty) {
        return Err(Failure::invalid("prompt", "prompt is empty; it must have at least one character or token"));
    }
    Ok(prompts)
}

/// Whether the first element of a list is a number: then the list is one prompt.
fn holds_numbers(list: &RawValue) -> bool {
    let inside = list.get().strip_prefix('[').unwrap_or_default();
    inside.trim_start().starts_with(|c: char| c == '-' || c.is_ascii_digit())
}

fn prompt(fields: &Fields<'_>, raw: &RawValue) -> Result<Prompt, Failure> {
    let text = raw.get();
    let parsed = match text.as_bytes().first() {
        Some(b'"') => serde_json::from_str(text).map(Prompt::Text),
        _ => serde_json::from_str(text).map(Prompt::Tokens),
    };
    parsed.map_err(|_| fields.wrong("prompt", EXPECTED, raw))
}

impl Prompt {
    fn is_empty(&self) -> bool {
        match self {
            Prompt::Text(text) => text.is_empty(),
            Prompt::Tokens(tokens) => tokens.is_empty(),
        }
    }
}
