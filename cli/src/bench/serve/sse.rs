//! What OpenAI-compatible servers send back, read liberally: they differ in spaces, comments, where usage stands, and
//! what a reasoning model's thoughts are called. Pure: bytes in, counts out.

use serde_json::Value;

use super::sample::{Failure, Usage};

/// Bytes of one event at most.
const EVENT_BYTES_MAX: usize = 16 << 20;

/// Server-sent events out of bytes that are cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// A line that is not complete yet.
    line: Vec<u8>,
    /// The data of an event that is not complete yet.
    data: String,
}

impl Events {
    /// Takes bytes; calls `on` with the data of each event that they complete.
    ///
    /// # Errors
    /// When an event is endless, or `on` fails.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        on: &mut impl FnMut(&str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() + self.data.len() > EVENT_BYTES_MAX {
                return Err(Failure::new("malformed", format!("an event of more than {EVENT_BYTES_MAX} bytes")));
            }
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.on_line(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']), on)?;
            }
        }
        Ok(())
    }

    /// Takes what is left at the end, which some servers do not end with a blank line.
    ///
    /// # Errors
    /// When `on` fails.
    pub(super) fn end(&mut self, on: &mut impl FnMut(&str) -> Result<(), Failure>) -> Result<(), Failure> {
        self.push(b"\n\n", on)
    }

    fn on_line(&mut self, line: &str, on: &mut impl FnMut(&str) -> Result<(), Failure>) -> Result<(), Failure> {
        let line = line.trim_start_matches('\u{feff}');
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return if data.is_empty() { Ok(()) } else { on(&data) };
        }
        if let Some(data) = line.strip_prefix("data:") {
            if !self.data.is_empty() {
                self.data.push('\n');
            }
            self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
        }
        Ok(())
    }
}

/// What one event, or a whole answer that is no stream, says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Chunk {
    /// Whether it has text, or a token, of the answer.
    pub(super) text: bool,
    /// Whether a choice ends here.
    pub(super) finished: bool,
    /// Whether this is the end of the stream.
    pub(super) done: bool,
    pub(super) usage: Usage,
}

/// Reads one.
///
/// # Errors
/// When it is no JSON, or an error.
pub(super) fn chunk(data: &str) -> Result<Chunk, Failure> {
    if data.trim() == "[DONE]" {
        return Ok(Chunk { done: true, ..Chunk::default() });
    }
    let value: Value = serde_json::from_str(data)
        .map_err(|error| Failure::new("malformed", format!("an event that is no JSON ({error}): {}", short(data))))?;
    if let Some(error) = value.get("error").filter(|error| !error.is_null()) {
        return Err(Failure::new(format!("error event{}", code(error)), said(&value, data)));
    }
    let choices = value["choices"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(Chunk {
        text: choices.iter().any(says),
        finished: choices.iter().any(|choice| !choice["finish_reason"].is_null()),
        done: false,
        usage: usage(&value),
    })
}

/// Whether a choice has something of the answer: an answer's text, a chat's, or its thoughts under either name.
fn says(choice: &Value) -> bool {
    let some = |value: &Value| match value {
        Value::String(text) => !text.is_empty(),
        Value::Array(parts) => !parts.is_empty(),
        _ => false,
    };
    let message =
        |of: &Value| ["content", "reasoning_content", "reasoning", "tool_calls"].iter().any(|name| some(&of[*name]));
    some(&choice["text"]) || some(&choice["token_ids"]) || message(&choice["delta"]) || message(&choice["message"])
}

fn usage(value: &Value) -> Usage {
    let count = |value: &Value| value.as_u64().map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    let usage = &value["usage"];
    let cached =
        [&usage["prompt_tokens_details"]["cached_tokens"], &usage["cached_tokens"], &usage["prompt_cache_hit_tokens"]];
    Usage {
        prompt: count(&usage["prompt_tokens"]),
        output: count(&usage["completion_tokens"]),
        cached: cached.into_iter().find_map(count),
    }
}

/// An answer with a status that is no success.
pub(super) fn refused(status: u16, body: &str) -> Failure {
    let value = serde_json::from_str(body).unwrap_or(Value::Null);
    let code = code(value.get("error").unwrap_or(&value));
    Failure::new(format!("http {status}{code}"), said(&value, body))
}

/// The error's code, or its type, as an addition to a kind.
fn code(error: &Value) -> String {
    let word = |value: &Value| value.as_str().filter(|word| !word.is_empty() && word.len() <= 40).map(str::to_owned);
    word(&error["code"]).or_else(|| word(&error["type"])).map_or_else(String::new, |word| format!(" {word}"))
}

/// What an error says: OpenAI's shape, others' shapes, or the text itself.
fn said(value: &Value, text: &str) -> String {
    let places = [&value["error"]["message"], &value["error"], &value["message"], &value["detail"]];
    let message = places.into_iter().find_map(Value::as_str).unwrap_or(text);
    short(message)
}

/// Characters of a message at most.
const SHORT: usize = 300;

fn short(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text: String = text.chars().filter(|c| !c.is_control()).take(SHORT).collect();
    if text.is_empty() { "no message".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of a text that comes in pieces of so many bytes.
    fn events(text: &[u8], size: usize) -> Vec<String> {
        let (mut events, mut all) = (Events::default(), Vec::new());
        let mut on = |data: &str| {
            all.push(data.to_owned());
            Ok(())
        };
        for part in text.chunks(size) {
            events.push(part, &mut on).unwrap();
        }
        events.end(&mut on).unwrap();
        all
    }

    #[test]
    fn events_are_the_same_wherever_they_are_cut() {
        let text =
            "\u{feff}data: {\"a\":\r\ndata: \"ä\"}\r\n\r\n: waiting\n\nevent: x\nid: 1\ndata:two\n\n\n\ndata: [DONE]";
        for size in 1..text.len() {
            assert_eq!(events(text.as_bytes(), size), ["{\"a\":\n\"ä\"}", "two", "[DONE]"], "{size}");
        }
        assert!(events(b"", 1).is_empty() && events(b"not an event\n\n", 3).is_empty());
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut events = Events::default();
        let ended = (0..40).try_for_each(|_| events.push(&[b'x'; 1 << 20], &mut |_| Ok(())));
        assert_eq!(ended.unwrap_err().kind, "malformed");
    }

    #[test]
    fn text_is_found_in_every_servers_shape() {
        let says = |data: &str| chunk(data).unwrap().text;
        for data in [
            r#"{"choices":[{"delta":{"content":"a"}}]}"#,
            r#"{"choices":[{"delta":{"role":"assistant","reasoning_content":"a"}}]}"#,
            r#"{"choices":[{"delta":{"reasoning":"a"}}]}"#,
            r#"{"choices":[{"text":"a"}]}"#,
            r#"{"choices":[{"message":{"content":"a"}}]}"#,
            r#"{"choices":[{"delta":{"content":""},"token_ids":[5]}]}"#,
        ] {
            assert!(says(data), "{data}");
        }
        for data in [
            r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
            r#"{"choices":[{"delta":{"content":null},"finish_reason":"stop"}]}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":3}}"#,
            r#"{"object":"ping"}"#,
            " [DONE] ",
        ] {
            assert!(!says(data), "{data}");
        }
        assert!(chunk(r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#).unwrap().finished);
        assert!(chunk("[DONE]").unwrap().done);
    }

    #[test]
    fn usage_is_read_where_servers_put_it() {
        let of = |data: &str| chunk(data).unwrap().usage;
        let openai = of(
            r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}"#,
        );
        assert_eq!(openai, Usage { prompt: Some(9), output: Some(2), cached: Some(4) });
        let deepseek = of(
            r#"{"choices":[],"usage":{"prompt_tokens":9,"prompt_cache_hit_tokens":5,"prompt_tokens_details":null}}"#,
        );
        assert_eq!(deepseek, Usage { prompt: Some(9), output: None, cached: Some(5) });
        assert_eq!(of(r#"{"choices":[],"usage":null}"#), Usage::default());
    }

    #[test]
    fn errors_say_what_and_why() {
        let event = chunk(r#"{"error":{"message":"no\nroom","type":"overloaded","code":null}}"#).unwrap_err();
        assert_eq!(event, Failure::new("error event overloaded", "no room"));
        assert_eq!(chunk("<html>").unwrap_err().kind, "malformed");
        let shapes = [
            (r#"{"error":{"message":"m","code":"model_not_found"}}"#, "http 404 model_not_found", "m"),
            (r#"{"error":"m"}"#, "http 404", "m"),
            (r#"{"object":"error","message":"m","type":"NotFoundError","code":404}"#, "http 404 NotFoundError", "m"),
            (r#"{"detail":"m"}"#, "http 404", "m"),
            ("<html>m</html>", "http 404", "<html>m</html>"),
            ("", "http 404", "no message"),
        ];
        for (body, kind, message) in shapes {
            assert_eq!(refused(404, body), Failure::new(kind, message), "{body}");
        }
    }
}
