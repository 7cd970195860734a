//! Mixed requests, drawn from a seed: the same seed gives the same requests.

use hadal_proto::v1::{GenerateRequest, SamplingOptions};

use crate::client::request;

/// A small generator (SplitMix64), so that a failing run is repeated by its seed.
pub struct Draw(pub u64);

impl Draw {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound.max(1)
    }

    /// True once in `n`.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Ids below this are ordinary tokens of the golden checkpoints' vocabulary of 512.
const ORDINARY_TOKENS: u64 = 400;

/// A prompt of up to `tokens_max` tokens; half of them begin like others, at one of three stems.
pub fn prompt(draw: &mut Draw, tokens_max: u64) -> Vec<u32> {
    let length = 1 + draw.below(tokens_max);
    let stem = draw.once_in(2).then(|| draw.below(3));
    let mut stem_tokens = Draw(stem.unwrap_or(0));
    let shared = if stem.is_some() { length * 3 / 4 } else { 0 };
    let token = |draw: &mut Draw| 3 + draw.below(ORDINARY_TOKENS) as u32;
    (0..length).map(|i| if i < shared { token(&mut stem_tokens) } else { token(draw) }).collect()
}

/// A request: greedy or sampled, with or without log-probabilities, stop strings and several choices.
pub fn mixed(draw: &mut Draw, model: &str) -> GenerateRequest {
    let prompt = prompt(draw, 400);
    let sampled = draw.once_in(2);
    let sampling = SamplingOptions {
        max_tokens: Some(1 + draw.below(32) as u32),
        temperature: Some(if sampled { 0.9 } else { 0.0 }),
        top_p: draw.once_in(2).then_some(0.9),
        top_k: draw.once_in(3).then_some(20),
        min_p: draw.once_in(4).then_some(0.02),
        seed: Some(draw.bits()),
        stop: if draw.once_in(4) { vec!["e".into(), "qu".into()] } else { Vec::new() },
        logprobs: draw.once_in(2).then_some(2),
        ignore_eos: Some(draw.once_in(2)),
        frequency_penalty: draw.once_in(4).then_some(0.5),
        repetition_penalty: draw.once_in(4).then_some(1.2),
        n: draw.once_in(6).then_some(2),
        ..SamplingOptions::default()
    };
    request(model, &prompt, sampling)
}
