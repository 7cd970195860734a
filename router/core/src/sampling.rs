//! Sampling options as clients give them, and how they become complete parameters: the model's defaults for what is
//! left out, end-of-sequence tokens among the stop tokens, every range checked.

use hadal_types::SamplingParams;

use crate::failure::Failure;
use crate::generation::GenerationDefaults;

/// Options of a request; `None` is absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplingOptions {
    /// Tokens to give at most; none for as many as fit.
    pub max_tokens: Option<u32>,
    /// 0 to 2; 0 is greedy.
    pub temperature: Option<f32>,
    /// Above 0, at most 1.
    pub top_p: Option<f32>,
    /// 0 is off.
    pub top_k: Option<u32>,
    /// 0 to 1.
    pub min_p: Option<f32>,
    /// Key of the random numbers; none for one drawn.
    pub seed: Option<u64>,
    /// Strings before which the output ends.
    pub stop: Vec<String>,
    /// Alternatives to report with each token; none for no log-probabilities.
    pub logprobs: Option<u32>,
    /// Go on past the end-of-sequence token.
    pub ignore_eos: bool,
    /// 1 is off.
    pub repetition_penalty: Option<f32>,
    /// -2 to 2.
    pub frequency_penalty: Option<f32>,
    /// -2 to 2.
    pub presence_penalty: Option<f32>,
    /// (token, bias), in any order.
    pub logit_bias: Vec<(u32, f32)>,
    /// Tokens before an end-of-sequence token may end the output.
    pub min_tokens: Option<u32>,
    /// More tokens that end the output.
    pub stop_token_ids: Vec<u32>,
    /// Choices.
    pub n: Option<u32>,
    /// The tokens with which the output begins.
    pub forced_tokens: Vec<u32>,
    /// Report with each token how far the choice of its row was that of the row before.
    pub choice_overlap: bool,
}

/// Complete options. `seed`, `choice` and `max_tokens` inside `params` are placeholders: the dispatch sets them from
/// the fields beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// How to sample.
    pub params: SamplingParams,
    /// Tokens to give at most; none for as many as fit.
    pub max_tokens: Option<u32>,
    /// Key of the random numbers; none for one drawn.
    pub seed: Option<u64>,
    /// Choices.
    pub n: u32,
    /// Strings before which the output ends.
    pub stop: Vec<String>,
}

impl SamplingOptions {
    /// Choices of one request at most.
    pub const CHOICES_MAX: u32 = 16;
    /// Stop strings of one request at most.
    pub const STOPS_MAX: usize = 16;
    /// Bytes of one stop string at most.
    pub const STOP_BYTES_MAX: usize = 1024;
    /// Entries of `logit_bias` at most.
    pub const BIASES_MAX: usize = 1024;
    /// Entries of `stop_token_ids` at most: workers look through them for each token.
    pub const STOP_TOKENS_MAX: usize = 1024;

    /// Fills in the model's defaults and checks every range; `vocab_size` bounds the token ids.
    ///
    /// # Errors
    /// The first option that is out of range, by name, with what is allowed.
    pub fn resolve(&self, defaults: &GenerationDefaults, vocab_size: u32) -> Result<Resolved, Failure> {
        let n = self.n.unwrap_or(1);
        if !(1..=Self::CHOICES_MAX).contains(&n) {
            return Err(Failure::invalid("n", format!("n must be between 1 and {}; got {n}", Self::CHOICES_MAX)));
        }
        self.check_stops()?;
        self.check_tokens(vocab_size)?;
        let params = self.params(defaults);
        params.validate().map_err(|e| Failure::invalid(e.name, e.to_string()))?;
        if let Some(max) = self.max_tokens.filter(|&max| max < params.min_tokens) {
            let message = format!("min_tokens is {}, above max_tokens, which is {max}", params.min_tokens);
            return Err(Failure::invalid("min_tokens", message));
        }
        self.check_forced(n)?;
        Ok(Resolved { params, max_tokens: self.max_tokens, seed: self.seed, n, stop: self.stop.clone() })
    }

    fn params(&self, defaults: &GenerationDefaults) -> SamplingParams {
        let mut stop_token_ids = self.stop_token_ids.clone();
        if !self.ignore_eos {
            stop_token_ids.extend_from_slice(&defaults.eos_token_ids);
        }
        stop_token_ids.sort_unstable();
        stop_token_ids.dedup();
        let mut logit_bias = self.logit_bias.clone();
        logit_bias.sort_by_key(|&(token, _)| token);
        let none = SamplingParams::default();
        SamplingParams {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(none.frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(none.presence_penalty),
            logit_bias,
            max_tokens: self.max_tokens.unwrap_or(none.max_tokens),
            min_tokens: self.min_tokens.unwrap_or(none.min_tokens),
            stop_token_ids,
            logprobs: self.logprobs,
            forced: self.forced_tokens.clone(),
            choice_overlap: self.choice_overlap,
            ..none
        }
    }

    fn check_stops(&self) -> Result<(), Failure> {
        let count = self.stop.len();
        if count > Self::STOPS_MAX {
            let message = format!("stop has {count} strings; at most {} are allowed", Self::STOPS_MAX);
            return Err(Failure::invalid("stop", message));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Failure::invalid("stop", "stop has an empty string; leave it out"));
        }
        if let Some(long) = self.stop.iter().find(|s| s.len() > Self::STOP_BYTES_MAX) {
            let message =
                format!("stop has a string of {} bytes; at most {} are allowed", long.len(), Self::STOP_BYTES_MAX);
            return Err(Failure::invalid("stop", message));
        }
        Ok(())
    }

    /// Without max_tokens, what fits is known only when the prompt is.
    fn check_forced(&self, n: u32) -> Result<(), Failure> {
        let count = self.forced_tokens.len();
        if count > 0 && n > 1 {
            let message = format!("forced_tokens begin every choice alike, so n must be 1 with them; got {n}");
            return Err(Failure::invalid("n", message));
        }
        if let Some(max) = self.max_tokens.filter(|&max| count > max as usize) {
            let message = format!("forced_tokens has {count} tokens, more than max_tokens, which is {max}");
            return Err(Failure::invalid("forced_tokens", message));
        }
        Ok(())
    }

    fn check_tokens(&self, vocab_size: u32) -> Result<(), Failure> {
        let counts = [
            ("logit_bias", self.logit_bias.len(), Self::BIASES_MAX),
            ("stop_token_ids", self.stop_token_ids.len(), Self::STOP_TOKENS_MAX),
        ];
        if let Some((name, count, max)) = counts.into_iter().find(|&(_, count, max)| count > max) {
            return Err(Failure::invalid(name, format!("{name} has {count} tokens; at most {max} are allowed")));
        }
        let biased = self.logit_bias.iter().map(|&(token, _)| ("logit_bias", token));
        let stopping = self.stop_token_ids.iter().map(|&token| ("stop_token_ids", token));
        let forced = self.forced_tokens.iter().map(|&token| ("forced_tokens", token));
        for (name, token) in biased.chain(stopping).chain(forced) {
            if token >= vocab_size {
                let message = format!("{name} has token {token}; the model's ids are below {vocab_size}");
                return Err(Failure::invalid(name, message));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> GenerationDefaults {
        GenerationDefaults { temperature: 0.6, top_p: 0.95, eos_token_ids: vec![1], ..Default::default() }
    }

    #[test]
    fn what_is_left_out_comes_from_the_model() {
        let options = SamplingOptions { top_p: Some(0.5), ..Default::default() };
        let resolved = options.resolve(&defaults(), 512).unwrap();
        assert_eq!((resolved.params.temperature, resolved.params.top_p), (0.6, 0.5));
        assert_eq!((resolved.n, resolved.max_tokens, resolved.seed), (1, None, None));
    }

    #[test]
    fn end_of_sequence_stops_unless_it_is_ignored() {
        let options = SamplingOptions { stop_token_ids: vec![7, 1], ..Default::default() };
        assert_eq!(options.resolve(&defaults(), 512).unwrap().params.stop_token_ids, [1, 7]);
        let options = SamplingOptions { ignore_eos: true, ..Default::default() };
        assert!(options.resolve(&defaults(), 512).unwrap().params.stop_token_ids.is_empty());
    }

    #[test]
    fn absurd_values_are_refused_by_name() {
        let base = SamplingOptions::default;
        let bad = [
            ("n", SamplingOptions { n: Some(0), ..base() }),
            ("n", SamplingOptions { n: Some(17), ..base() }),
            ("stop", SamplingOptions { stop: vec!["x".into(); 17], ..base() }),
            ("stop", SamplingOptions { stop: vec![String::new()], ..base() }),
            ("stop", SamplingOptions { stop: vec!["x".repeat(1025)], ..base() }),
            ("temperature", SamplingOptions { temperature: Some(-1.0), ..base() }),
            ("max_tokens", SamplingOptions { max_tokens: Some(0), ..base() }),
            ("min_tokens", SamplingOptions { max_tokens: Some(4), min_tokens: Some(5), ..base() }),
            ("logit_bias", SamplingOptions { logit_bias: vec![(512, 1.0)], ..base() }),
            ("logit_bias", SamplingOptions { logit_bias: vec![(1, 1.0); 1025], ..base() }),
            ("stop_token_ids", SamplingOptions { stop_token_ids: vec![512], ..base() }),
            ("stop_token_ids", SamplingOptions { stop_token_ids: vec![1; 1025], ..base() }),
            ("logprobs", SamplingOptions { logprobs: Some(21), ..base() }),
            ("choice_overlap", SamplingOptions { choice_overlap: true, ..base() }),
            ("forced_tokens", SamplingOptions { forced_tokens: vec![1, 512], ..base() }),
            ("forced_tokens", SamplingOptions { forced_tokens: vec![1; 5], max_tokens: Some(4), ..base() }),
            ("n", SamplingOptions { forced_tokens: vec![1], n: Some(2), ..base() }),
        ];
        for (name, options) in bad {
            assert_eq!(options.resolve(&defaults(), 512).unwrap_err().param.as_deref(), Some(name));
        }
    }
}
