//! What a model's files say of sampling: `generation_config.json`, and `config.json` where that is silent.

use serde_json::Value;

/// Defaults for what a request leaves out.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationDefaults {
    /// 1 unless the model says otherwise; 0 where it says not to sample.
    pub temperature: f32,
    /// 1 unless the model says otherwise.
    pub top_p: f32,
    /// 0 unless the model says otherwise.
    pub top_k: u32,
    /// 0 unless the model says otherwise.
    pub min_p: f32,
    /// 1 unless the model says otherwise.
    pub repetition_penalty: f32,
    /// Tokens that end the output.
    pub eos_token_ids: Vec<u32>,
}

impl Default for GenerationDefaults {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0, repetition_penalty: 1.0, eos_token_ids: Vec::new() }
    }
}

impl GenerationDefaults {
    /// Reads both files; absent ones are `Value::Null`. The error says which key is wrong.
    pub(crate) fn read(generation: &Value, config: &Value) -> Result<Self, String> {
        let default = Self::default();
        let mut this = Self {
            temperature: number(generation, "temperature")?.unwrap_or(default.temperature),
            top_p: number(generation, "top_p")?.unwrap_or(default.top_p),
            top_k: number(generation, "top_k")?.unwrap_or(0.0) as u32,
            min_p: number(generation, "min_p")?.unwrap_or(default.min_p),
            repetition_penalty: number(generation, "repetition_penalty")?.unwrap_or(default.repetition_penalty),
            eos_token_ids: ids(generation, "eos_token_id")?,
        };
        if this.eos_token_ids.is_empty() {
            this.eos_token_ids = ids(config, "eos_token_id")?;
        }
        if generation.get("do_sample") == Some(&Value::Bool(false)) {
            this.temperature = 0.0;
        }
        Ok(this)
    }
}

fn number(file: &Value, key: &str) -> Result<Option<f32>, String> {
    match file.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(n)) => Ok(n.as_f64().map(|n| n as f32)),
        Some(other) => Err(format!("{key} must be a number; it is {other}")),
    }
}

/// One id or a list of them.
fn ids(file: &Value, key: &str) -> Result<Vec<u32>, String> {
    let wrong = |v: &Value| format!("{key} must be a token id or a list of them; it is {v}");
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong(v));
    match file.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(id).collect(),
        Some(one) => Ok(vec![id(one)?]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn eos_is_one_id_or_a_list_and_falls_back_to_the_configuration() {
        let read = |g: Value, c: Value| GenerationDefaults::read(&g, &c).unwrap().eos_token_ids;
        assert_eq!(read(json!({"eos_token_id": 1}), json!({"eos_token_id": 9})), [1]);
        assert_eq!(read(json!({"eos_token_id": [1, 2]}), Value::Null), [1, 2]);
        assert_eq!(read(Value::Null, json!({"eos_token_id": 9})), [9]);
    }

    #[test]
    fn a_model_that_does_not_sample_is_greedy() {
        let config = json!({"do_sample": false, "temperature": 0.6, "top_p": 0.95});
        let read = GenerationDefaults::read(&config, &Value::Null).unwrap();
        assert_eq!((read.temperature, read.top_p), (0.0, 0.95));
    }

    #[test]
    fn a_wrong_type_is_named() {
        let error = GenerationDefaults::read(&json!({"top_p": "x"}), &Value::Null).unwrap_err();
        assert_eq!(error, "top_p must be a number; it is \"x\"");
    }
}
