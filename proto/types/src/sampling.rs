//! How the next token is drawn. The draw is a pure function of (logits, history, parameters, key), the key being
//! (seed, choice, output index), so that any worker of a numerics class continues a stream with the same tokens.

use serde::{Deserialize, Serialize};

/// Parameters of one request, complete: the router fills what the client left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Smallest set of tokens whose probabilities reach this; 1 is off.
    pub top_p: f32,
    /// The best so many tokens; 0 is off.
    pub top_k: u32,
    /// Tokens at least this likely relative to the best; 0 is off.
    pub min_p: f32,
    /// Multiplies (negative logits) or divides (positive) those of tokens seen in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once per occurrence in the output.
    pub frequency_penalty: f32,
    /// Subtracted once if it occurs in the output.
    pub presence_penalty: f32,
    /// Added to the logits of these tokens, ascending by id.
    pub logit_bias: Vec<(u32, f32)>,
    /// Key of the random numbers.
    pub seed: u64,
    /// Which of the request's choices this is; part of the key.
    pub choice: u32,
    /// Tokens to give at most.
    pub max_tokens: u32,
    /// Tokens before an end-of-sequence token may end the output.
    pub min_tokens: u32,
    /// Tokens that end the output, EOS included unless it is ignored.
    pub stop_token_ids: Vec<u32>,
    /// Alternatives to report with each token; none for no log-probabilities at all.
    pub logprobs: Option<u32>,
    /// The tokens with which the output begins, whatever the model says.
    pub forced: Vec<u32>,
    /// Report with each token how far the choice of its row was that of the row before.
    pub choice_overlap: bool,
}

/// A parameter out of range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{name} must be {expected}; got {value}")]
pub struct InvalidSampling {
    /// The parameter.
    pub name: &'static str,
    /// What is allowed.
    pub expected: &'static str,
    /// What came.
    pub value: String,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            choice: 0,
            max_tokens: 16,
            min_tokens: 0,
            stop_token_ids: Vec::new(),
            logprobs: None,
            forced: Vec::new(),
            choice_overlap: false,
        }
    }
}

impl SamplingParams {
    /// Alternatives that may be asked for.
    pub const LOGPROBS_MAX: u32 = 20;

    /// Checks every range, as OpenAI's API states them where it has the parameter.
    ///
    /// # Errors
    /// The first parameter that is out of range, with what is allowed.
    pub fn validate(&self) -> Result<(), InvalidSampling> {
        let within = |name, value: f32, low: f32, high: f32, expected| {
            // NaN is in no range.
            if value >= low && value <= high {
                return Ok(());
            }
            Err(InvalidSampling { name, expected, value: value.to_string() })
        };
        within("temperature", self.temperature, 0.0, 2.0, "between 0 and 2")?;
        within("top_p", self.top_p, f32::MIN_POSITIVE, 1.0, "above 0 and at most 1")?;
        within("min_p", self.min_p, 0.0, 1.0, "between 0 and 1")?;
        within("repetition_penalty", self.repetition_penalty, 0.01, 10.0, "between 0.01 and 10")?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0, "between -2 and 2")?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0, "between -2 and 2")?;
        for &(_, bias) in &self.logit_bias {
            within("logit_bias", bias, -100.0, 100.0, "between -100 and 100")?;
        }
        if self.max_tokens == 0 {
            let value = self.max_tokens.to_string();
            return Err(InvalidSampling { name: "max_tokens", expected: "at least 1", value });
        }
        if let Some(n) = self.logprobs.filter(|&n| n > Self::LOGPROBS_MAX) {
            return Err(InvalidSampling { name: "logprobs", expected: "at most 20", value: n.to_string() });
        }
        if self.choice_overlap && self.logprobs.is_none() {
            let value = "true without them".to_owned();
            return Err(InvalidSampling { name: "choice_overlap", expected: "asked for with logprobs", value });
        }
        Ok(())
    }

    /// Whether the most likely token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_values_are_refused_by_name() {
        let bad = [
            ("temperature", SamplingParams { temperature: -1.0, ..Default::default() }),
            ("temperature", SamplingParams { temperature: f32::NAN, ..Default::default() }),
            ("top_p", SamplingParams { top_p: 0.0, ..Default::default() }),
            ("min_p", SamplingParams { min_p: 1.5, ..Default::default() }),
            ("max_tokens", SamplingParams { max_tokens: 0, ..Default::default() }),
            ("logprobs", SamplingParams { logprobs: Some(21), ..Default::default() }),
            ("logit_bias", SamplingParams { logit_bias: vec![(1, f32::INFINITY)], ..Default::default() }),
            ("choice_overlap", SamplingParams { choice_overlap: true, ..Default::default() }),
        ];
        for (name, params) in bad {
            assert_eq!(params.validate().unwrap_err().name, name);
        }
        SamplingParams::default().validate().unwrap();
    }
}
