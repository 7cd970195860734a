//! A model as text: its tokenizer, its chat template and what its files say of sampling, from the bytes of those files.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};
use tokenizers::{DecoderWrapper, Tokenizer};

use crate::detokenizer::Detokenizer;
use crate::failure::{Failure, FailureKind};
use crate::generation::GenerationDefaults;
use crate::template::{self, ChatMessage, ChatOptions, Template};
use crate::vocabulary::Vocabulary;

/// A model's files from which no text can be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ModelTextError {
    /// There is no tokenizer.
    #[error("the model has no tokenizer.json; put the published one beside config.json")]
    MissingTokenizer,
    /// A file is not what it should be.
    #[error("{file}: {reason}")]
    File {
        /// Its name.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Tokens are not bytes.
    #[error("tokenizer.json: its decoder is {decoder}; only byte-level vocabularies (decoder ByteLevel) are supported")]
    Decoder {
        /// The decoder's kind.
        decoder: String,
    },
}

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";
const GENERATION_CONFIG: &str = "generation_config.json";
const CONFIG: &str = "config.json";

/// Blanks in a row at most. The pattern `\s+(?!\S)`, which published tokenizers have, backtracks over each of them, and
/// `fancy-regex` gives up after a million steps; `tokenizers` then goes on without the pattern, and so would give other
/// tokens than the model was trained on, without a word.
const BLANKS_MAX: usize = 250_000;

/// Tokenizer, chat template and defaults of one model.
pub struct ModelText {
    tokenizer: Tokenizer,
    vocabulary: Arc<Vocabulary>,
    /// Put before prompts that do not begin with it.
    bos: Option<u32>,
    template: Option<Template>,
    defaults: GenerationDefaults,
}

impl ModelText {
    /// The files that are read, if the model has them.
    pub const FILES: [&str; 5] = [TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE, GENERATION_CONFIG, CONFIG];

    /// Reads a model's files, by name.
    ///
    /// # Errors
    /// When `tokenizer.json` is missing, or a file is broken; it says which and why.
    pub fn from_files(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, ModelTextError> {
        let tokenizer = tokenizer(files.get(TOKENIZER).ok_or(ModelTextError::MissingTokenizer)?)?;
        let config = json(files, TOKENIZER_CONFIG)?;
        let special = special_tokens(&config);
        let source = template::source(files.get(CHAT_TEMPLATE).map(Vec::as_slice), &config)
            .map_err(|reason| ModelTextError::File { file: TOKENIZER_CONFIG, reason })?;
        let file = if files.contains_key(CHAT_TEMPLATE) { CHAT_TEMPLATE } else { TOKENIZER_CONFIG };
        let template = source.map(|source| Template::new(source, special.clone())).transpose().map_err(|reason| {
            ModelTextError::File { file, reason: format!("the chat template is broken: {reason}") }
        })?;
        let mut defaults = GenerationDefaults::read(&json(files, GENERATION_CONFIG)?, &json(files, CONFIG)?)
            .map_err(|reason| ModelTextError::File { file: GENERATION_CONFIG, reason })?;
        let id_of = |name: &str| special.get(name).and_then(Value::as_str).and_then(|t| tokenizer.token_to_id(t));
        if defaults.eos_token_ids.is_empty() {
            defaults.eos_token_ids.extend(id_of("eos_token"));
        }
        let bos = if config.get("add_bos_token") == Some(&Value::Bool(true)) { id_of("bos_token") } else { None };
        let vocabulary = Arc::new(Vocabulary::new(&tokenizer));
        Ok(Self { tokenizer, vocabulary, bos, template, defaults })
    }

    /// What the model's files say of sampling.
    pub fn defaults(&self) -> &GenerationDefaults {
        &self.defaults
    }

    /// The bytes of each token.
    pub fn vocabulary(&self) -> &Arc<Vocabulary> {
        &self.vocabulary
    }

    /// A detokenizer at a sequence's beginning.
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::new(self.vocabulary.clone())
    }

    /// Whether conversations can be rendered.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// Tokens of a raw prompt: with the beginning-of-sequence token before it where the model wants one and the text
    /// does not begin with it.
    ///
    /// # Errors
    /// When the text cannot be tokenised.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, Failure> {
        let mut ids = self.encode(text, true)?;
        if let Some(bos) = self.bos.filter(|&bos| ids.first() != Some(&bos)) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// Tokens of a text as it is, such as a rendered conversation, which has its own special tokens.
    ///
    /// # Errors
    /// When the text cannot be tokenised.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, Failure> {
        self.encode(text, false)
    }

    /// The conversation as text, by the model's chat template.
    ///
    /// # Errors
    /// When the model has no template, or the template refuses the conversation.
    pub fn render_chat(&self, messages: &[ChatMessage], options: &ChatOptions) -> Result<String, Failure> {
        let Some(template) = &self.template else {
            let message = "the model has no chat template; send the prompt as text to /v1/completions";
            return Err(Failure::new(FailureKind::Invalid, message).with_param("messages"));
        };
        template.render(messages, options)
    }

    /// The text of the tokens, special ones left out.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let (mut detokenizer, mut text) = (self.detokenizer(), String::new());
        for &token in tokens {
            detokenizer.push(token, &mut text);
        }
        detokenizer.finish(&mut text);
        text
    }

    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, Failure> {
        let blanks = longest_run_of_blanks(text);
        if blanks > BLANKS_MAX {
            let message = format!("the text has {blanks} blanks in a row; at most {BLANKS_MAX} can be tokenised");
            return Err(Failure::new(FailureKind::Invalid, message));
        }
        let encoding = self.tokenizer.encode_fast(text, special);
        let encoding = encoding.map_err(|e| Failure::internal(format!("the tokenizer failed on the text: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }
}

impl fmt::Debug for ModelText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelText")
            .field("tokens", &self.vocabulary.size())
            .field("bos", &self.bos)
            .field("chat_template", &self.template.is_some())
            .field("defaults", &self.defaults)
            .finish()
    }
}

fn longest_run_of_blanks(text: &str) -> usize {
    let (mut longest, mut run) = (0, 0);
    for c in text.chars() {
        run = if c.is_whitespace() { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}

fn tokenizer(bytes: &[u8]) -> Result<Tokenizer, ModelTextError> {
    let broken = |reason: String| ModelTextError::File { file: TOKENIZER, reason };
    let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|e| broken(e.to_string()))?;
    match tokenizer.get_decoder() {
        Some(DecoderWrapper::ByteLevel(_)) => {}
        other => {
            let name = other.map_or_else(|| "absent".into(), |d| format!("{d:?}"));
            let decoder = name.split(['(', ' ', '{']).next().unwrap_or_default().to_owned();
            return Err(ModelTextError::Decoder { decoder });
        }
    }
    // A file may keep the settings of a training run; a prompt must be neither cut nor filled up.
    tokenizer.with_truncation(None).map_err(|e| broken(e.to_string()))?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

fn json(files: &BTreeMap<String, Vec<u8>>, file: &'static str) -> Result<Value, ModelTextError> {
    let Some(bytes) = files.get(file) else { return Ok(Value::Null) };
    serde_json::from_slice(bytes).map_err(|e| ModelTextError::File { file, reason: e.to_string() })
}

/// `bos_token` and `eos_token`, each a string or an object with `content`.
fn special_tokens(config: &Value) -> Map<String, Value> {
    let mut special = Map::new();
    for name in ["bos_token", "eos_token"] {
        let value = config.get(name);
        let text = value.and_then(|v| v.as_str().or_else(|| v.get("content").and_then(Value::as_str)));
        if let Some(text) = text {
            special.insert(name.into(), text.into());
        }
    }
    special
}

#[cfg(test)]
mod tests;
