//! The fields of a JSON object from a client, read one at a time, so that an error names the field and says what it
//! should be. Null is the same as absent; unknown fields are ignored, as clients send many.
//!
//! Values stay text until they are asked for: a body of millions of small values costs its own bytes and no more.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::failure::{Failure, FailureKind};

/// An object's fields.
pub(super) struct Fields<'a> {
    /// Put before names in errors: empty, or `messages[3].`.
    path: String,
    fields: BTreeMap<String, &'a RawValue>,
}

impl<'a> Fields<'a> {
    /// Reads a whole body.
    pub(super) fn of_body(body: &'a [u8]) -> Result<Self, Failure> {
        let wrong = |message: String| Failure::new(FailureKind::Invalid, message);
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(wrong("the body is empty; send a JSON object".into()));
        }
        let raw: &RawValue =
            serde_json::from_slice(body).map_err(|e| wrong(format!("the body is not valid JSON: {e}")))?;
        let fields = serde_json::from_str(raw.get())
            .map_err(|_| wrong(format!("the body must be a JSON object; it is {}", shown(raw))))?;
        Ok(Self { path: String::new(), fields })
    }

    /// Reads an object inside a body.
    pub(super) fn of_value(raw: &'a RawValue, path: &str) -> Result<Self, Failure> {
        let wrong = |_| Failure::invalid(path, format!("{path} must be an object; it is {}", shown(raw)));
        let fields = serde_json::from_str(raw.get()).map_err(wrong)?;
        Ok(Self { path: format!("{path}."), fields })
    }

    /// A field's full name.
    pub(super) fn name(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// A field as it is written; none if it is absent or null.
    pub(super) fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.fields.get(name).copied().filter(|raw| raw.get() != "null")
    }

    /// A field as `T`; `expected` says what that is.
    pub(super) fn get<T: Deserialize<'a>>(&self, name: &str, expected: &str) -> Result<Option<T>, Failure> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        serde_json::from_str(raw.get()).map(Some).map_err(|_| self.wrong(name, expected, raw))
    }

    /// A field that must be there.
    pub(super) fn need<T: Deserialize<'a>>(&self, name: &str, expected: &str) -> Result<T, Failure> {
        self.get(name, expected)?.ok_or_else(|| {
            let name = self.name(name);
            Failure::invalid(&name, format!("{name} is missing; it must be {expected}"))
        })
    }

    /// True or false; absent is false.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Failure> {
        Ok(self.get(name, "true or false")?.unwrap_or(false))
    }

    /// A number; whole ones are numbers too.
    pub(super) fn number(&self, name: &str) -> Result<Option<f32>, Failure> {
        Ok(self.get::<f64>(name, "a number")?.map(|n| n as f32))
    }

    /// A whole number that is not negative.
    pub(super) fn count(&self, name: &str) -> Result<Option<u32>, Failure> {
        self.get(name, "a whole number, 0 or more")
    }

    /// A text; absent is empty.
    pub(super) fn text(&self, name: &str) -> Result<String, Failure> {
        Ok(self.get(name, "a string")?.unwrap_or_default())
    }

    /// Refuses a field that would change the answer and is not supported, unless it has one of the values that change
    /// nothing.
    pub(super) fn refuse(&self, name: &str, harmless: &[&str]) -> Result<(), Failure> {
        let Some(raw) = self.raw(name) else { return Ok(()) };
        let compact: String = raw.get().split_ascii_whitespace().collect();
        if harmless.contains(&compact.as_str()) {
            return Ok(());
        }
        let name = self.name(name);
        let message = format!("{name} is not supported; leave it out (it is {})", shown(raw));
        Err(Failure::new(FailureKind::Unsupported, message).with_param(name))
    }

    /// The error of a field that is not what it should be.
    pub(super) fn wrong(&self, name: &str, expected: &str, raw: &RawValue) -> Failure {
        let name = self.name(name);
        let message = format!("{name} must be {expected}; it is {}", shown(raw));
        Failure::invalid(name, message)
    }
}

/// A value for a person: its beginning, or what kind it is.
pub(super) fn shown(raw: &RawValue) -> String {
    const LONGEST: usize = 40;
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'{') => "an object".into(),
        Some(b'[') if text.len() > LONGEST => "a list".into(),
        Some(b'"') if text.len() > LONGEST => "a string".into(),
        _ => text.chars().take(LONGEST).collect(),
    }
}
