//! A model's chat template, rendered as transformers does it: Jinja with trimmed and left-stripped blocks, methods of
//! Python's strings and dictionaries, `raise_exception`, `strftime_now`, and `tojson` as `json.dumps` writes it.
//! [transformers, utils/chat_template_utils.py]

mod python;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value as Jinja};
use serde_json::{Map, Value, json};

use crate::failure::{Failure, FailureKind};

/// One message of a conversation, in the keys that templates read: `role`, `content` and whatever else belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatMessage(pub Map<String, Value>);

impl ChatMessage {
    /// A message of plain text.
    pub fn new(role: &str, content: &str) -> Self {
        let mut map = Map::new();
        map.insert("role".into(), role.into());
        map.insert("content".into(), content.into());
        Self(map)
    }
}

/// What a template is told beside the messages.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatOptions {
    /// Whether the text ends where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// Further variables, such as `thinking`.
    pub variables: Map<String, Value>,
    /// For templates that ask for the date: seconds since the epoch.
    pub unix_time_s: u64,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self { add_generation_prompt: true, variables: Map::new(), unix_time_s: 0 }
    }
}

/// A template that compiles.
pub(crate) struct Template {
    source: String,
    special: Map<String, Value>,
}

impl Template {
    /// Compiles it once, so that a broken template is found when the model is loaded and not by a client. `special`
    /// has the variables `bos_token` and `eos_token`.
    pub(crate) fn new(source: String, special: Map<String, Value>) -> Result<Self, String> {
        let this = Self { source, special };
        let environment = environment(0).map_err(|e| describe(&e))?;
        environment.template_from_str(&this.source).map_err(|e| describe(&e))?;
        Ok(this)
    }

    /// The conversation as text.
    pub(crate) fn render(&self, messages: &[ChatMessage], options: &ChatOptions) -> Result<String, Failure> {
        let mut context = self.special.clone();
        // transformers always passes these two, and templates ask whether they are none.
        context.insert("tools".into(), Value::Null);
        context.insert("documents".into(), Value::Null);
        context.insert("add_generation_prompt".into(), options.add_generation_prompt.into());
        context.extend(options.variables.clone());
        let messages: Vec<Value> = messages.iter().map(|m| Value::Object(m.0.clone())).collect();
        context.insert("messages".into(), messages.into());

        let rendered = environment(options.unix_time_s)
            .and_then(|environment| environment.template_from_str(&self.source)?.render(Serde(&context)));
        rendered.map_err(|e| {
            let message = format!("the model's chat template refuses the conversation: {}", describe(&e));
            Failure::new(FailureKind::Invalid, message).with_param("messages")
        })
    }
}

fn environment(unix_time_s: u64) -> Result<Environment<'static>, Error> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    let mut env = Environment::new();
    env.set_syntax(syntax);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.set_formatter(python::format);
    env.add_filter("tojson", python::tojson);
    env.add_function("raise_exception", |message: String| -> Result<Jinja, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("strftime_now", move |format: String| python::strftime(&format, unix_time_s));
    Ok(env)
}

/// The reason and the template's line.
fn describe(error: &Error) -> String {
    let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{reason} (line {line} of the template)"),
        None => reason,
    }
}

/// The template of a model's files: `chat_template.jinja` if there is one, otherwise `chat_template` of
/// `tokenizer_config.json`, a string or a list of named ones, of which `default` is taken.
pub(crate) fn source(file: Option<&[u8]>, config: &Value) -> Result<Option<String>, String> {
    if let Some(bytes) = file {
        let text = str::from_utf8(bytes).map_err(|_| "chat_template.jinja is not UTF-8".to_owned())?;
        return Ok(Some(text.to_owned()));
    }
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(list)) => {
            let default = list.iter().find(|t| t.get("name") == Some(&json!("default")));
            let text = default.and_then(|t| t.get("template")).and_then(Value::as_str);
            text.map(|t| Some(t.to_owned()))
                .ok_or_else(|| "chat_template is a list without one named \"default\"".to_owned())
        }
        Some(_) => Err("chat_template must be a string or a list of named templates".to_owned()),
    }
}

#[cfg(test)]
mod tests;
