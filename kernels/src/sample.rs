//! Sampling: a pure function of (logits, history, parameters, output index). Tokens are ordered by logit descending,
//! then id; the random number is that of (seed, choice, output index).
//!
//! In this order, after vLLM: repetition, frequency and presence penalties; logit bias; stop tokens are excluded until
//! `min_tokens`; temperature; min-p; top-k; top-p among what is left. The token at the drawn share of what is left,
//! counted in the order above, is taken. Where a token is forced, it is taken instead, and nothing is drawn.
//! Log-probabilities are those of the model's own logits, before all of this.

use hadal_types::SamplingParams;

use crate::error::NotFinite;
use crate::math::{exp, ln_f64};
use crate::philox::uniform;
use crate::topk::{position, rank, score};

/// Below this a division would overflow; such a temperature is greedy in all but name.
const TEMPERATURE_MIN: f32 = 1e-5;

/// Tokens so far.
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    /// Of the prompt.
    pub prompt: &'a [u32],
    /// Of the output, from the prompt's end on.
    pub output: &'a [u32],
    /// The output's next one, where another is drawn behind it in the same step.
    pub then: Option<u32>,
}

/// The next token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub token: u32,
    /// Natural logarithm of its probability by the model's own logits; 0 if log-probabilities were not asked for.
    pub logprob: f32,
    /// The most likely tokens by the model's own logits, best first, as many as were asked for.
    pub top: Vec<(u32, f32)>,
}

/// Buffers that calls share. Its contents carry nothing from one call to the next.
#[derive(Clone, Debug, Default)]
pub struct SampleScratch {
    logits: Vec<f32>,
    ranked: Vec<u64>,
    output_counts: Vec<u32>,
    in_prompt: Vec<bool>,
}

/// Draws output token `output_index`: how many `history` has of the output, unless the caller samples ahead.
///
/// # Errors
/// A logit is NaN or +infinity, or no token is left to choose from (a forced one that the vocabulary does not have is
/// none, too).
pub fn sample(
    logits: &[f32],
    params: &SamplingParams,
    history: History<'_>,
    output_index: u32,
    scratch: &mut SampleScratch,
) -> Result<Sampled, NotFinite> {
    let bad = NotFinite { what: "logits", row: 0 };
    if logits.iter().any(|l| l.is_nan() || *l == f32::INFINITY) {
        return Err(bad);
    }
    let token = match params.forced.get(output_index as usize) {
        Some(&token) => Some(token).filter(|&token| (token as usize) < logits.len()),
        None => free(logits, params, history, output_index, scratch),
    };
    let token = token.ok_or(bad)?;
    let (logprob, top) = match params.logprobs {
        None => (0.0, Vec::new()),
        Some(n) => logprobs(logits, token, n as usize, &mut scratch.ranked),
    };
    Ok(Sampled { token, logprob, top })
}

/// The token that the parameters draw; none if all are excluded.
fn free(
    logits: &[f32],
    params: &SamplingParams,
    history: History<'_>,
    output_index: u32,
    scratch: &mut SampleScratch,
) -> Option<u32> {
    scratch.logits.clear();
    scratch.logits.extend_from_slice(logits);
    penalise(params, history, scratch);
    for &(id, bias) in &params.logit_bias {
        if let Some(l) = scratch.logits.get_mut(id as usize) {
            *l += bias;
        }
    }
    if output_index < params.min_tokens {
        for &id in &params.stop_token_ids {
            if let Some(l) = scratch.logits.get_mut(id as usize) {
                *l = f32::NEG_INFINITY;
            }
        }
    }
    if params.temperature < TEMPERATURE_MIN {
        return best(&scratch.logits);
    }
    draw(params, uniform(params.seed, params.choice, output_index), scratch)
}

/// The token with the largest logit, the lowest id of equals; none if no number says so.
pub fn greedy(logits: &[f32]) -> Option<u32> {
    if logits.iter().any(|l| l.is_nan()) { None } else { best(logits) }
}

/// The largest logit, the lowest id of equals; none if all are excluded.
fn best(logits: &[f32]) -> Option<u32> {
    let best = logits.iter().zip(0..).map(|(&l, id)| rank(l, id)).max()?;
    (score(best) > f32::NEG_INFINITY).then(|| position(best))
}

fn penalise(params: &SamplingParams, history: History<'_>, scratch: &mut SampleScratch) {
    let repeats = params.repetition_penalty != 1.0;
    if !repeats && params.frequency_penalty == 0.0 && params.presence_penalty == 0.0 {
        return;
    }
    let vocabulary = scratch.logits.len();
    scratch.output_counts.clear();
    scratch.output_counts.resize(vocabulary, 0);
    scratch.in_prompt.clear();
    scratch.in_prompt.resize(vocabulary, false);
    for &t in history.output.iter().chain(&history.then) {
        if let Some(count) = scratch.output_counts.get_mut(t as usize) {
            *count += 1;
        }
    }
    for &t in history.prompt {
        if let Some(seen) = scratch.in_prompt.get_mut(t as usize) {
            *seen = true;
        }
    }
    let seen = scratch.output_counts.iter().zip(&scratch.in_prompt);
    for (l, (&count, &in_prompt)) in scratch.logits.iter_mut().zip(seen) {
        if repeats && (count > 0 || in_prompt) {
            *l = if *l > 0.0 { *l / params.repetition_penalty } else { *l * params.repetition_penalty };
        }
        if count > 0 {
            *l -= params.frequency_penalty * count as f32;
            *l -= params.presence_penalty;
        }
    }
}

/// Tokens by logit descending, then id, sorted only as far as they are looked at.
struct Order<'a> {
    ranked: &'a mut Vec<u64>,
    sorted: usize,
}

impl<'a> Order<'a> {
    fn new(logits: &[f32], ranked: &'a mut Vec<u64>) -> Self {
        ranked.clear();
        let possible = logits.iter().zip(0..).filter(|(l, _)| **l > f32::NEG_INFINITY);
        ranked.extend(possible.map(|(&l, id)| rank(l, id)));
        Self { ranked, sorted: 0 }
    }

    fn get(&mut self, index: usize) -> Option<u64> {
        while index >= self.sorted && self.sorted < self.ranked.len() {
            let rest = &mut self.ranked[self.sorted..];
            let more = (self.sorted * 3).max(64).min(rest.len());
            if more < rest.len() {
                rest.select_nth_unstable_by(more - 1, |a, b| b.cmp(a));
            }
            rest[..more].sort_unstable_by(|a, b| b.cmp(a));
            self.sorted += more;
        }
        self.ranked.get(index).copied()
    }
}

fn draw(params: &SamplingParams, uniform: f64, scratch: &mut SampleScratch) -> Option<u32> {
    let temperature = params.temperature;
    scratch.logits.iter_mut().for_each(|l| *l /= temperature);
    let max = score(rank_of_best(&scratch.logits)?);
    let all: f64 = scratch.logits.iter().map(|&l| f64::from(exp(l - max))).sum();
    let mut order = Order::new(&scratch.logits, &mut scratch.ranked);
    let weight = |ranked: u64| f64::from(exp(score(ranked) - max));
    // The best token weighs 1, so min-p is a bound on weights.
    let bounded = params.top_k > 0 || params.min_p > 0.0;
    let most = if params.top_k == 0 { usize::MAX } else { params.top_k as usize };
    let left = |order: &mut Order<'_>, index: usize| {
        order.get(index).filter(|&r| index < most && weight(r) >= f64::from(params.min_p))
    };
    let mass = if bounded {
        let mut mass = 0.0;
        let mut index = 0;
        while let Some(r) = left(&mut order, index) {
            mass += weight(r);
            index += 1;
        }
        mass
    } else {
        all
    };
    let mass =
        if params.top_p < 1.0 { nucleus(&mut order, left, weight, mass * f64::from(params.top_p)) } else { mass };
    let target = uniform * mass;
    let (mut reached, mut index, mut token) = (0.0, 0, None);
    // Should rounding leave the target beyond the last, the last is taken.
    while let Some(r) = left(&mut order, index) {
        token = Some(position(r));
        reached += weight(r);
        if reached > target {
            break;
        }
        index += 1;
    }
    token
}

/// The weight of the shortest run of best tokens that reaches `share`; the draw stays below it.
fn nucleus<'a>(
    order: &mut Order<'a>,
    left: impl Fn(&mut Order<'a>, usize) -> Option<u64>,
    weight: impl Fn(u64) -> f64,
    share: f64,
) -> f64 {
    let (mut reached, mut index) = (0.0, 0);
    while let Some(r) = left(order, index) {
        reached += weight(r);
        if reached >= share {
            break;
        }
        index += 1;
    }
    reached
}

fn rank_of_best(logits: &[f32]) -> Option<u64> {
    let best = logits.iter().map(|&l| rank(l, 0)).max()?;
    (score(best) > f32::NEG_INFINITY).then_some(best)
}

fn logprobs(logits: &[f32], token: u32, n: usize, ranked: &mut Vec<u64>) -> (f32, Vec<(u32, f32)>) {
    let max = rank_of_best(logits).map_or(0.0, score);
    let sum: f64 = logits.iter().map(|&l| f64::from(exp(l - max))).sum();
    let norm = f64::from(max) + ln_f64(sum);
    let logprob = |l: f32| (f64::from(l) - norm) as f32;
    let mut order = Order::new(logits, ranked);
    let top = (0..n).map_while(|i| order.get(i)).map(|r| (position(r), logprob(score(r)))).collect();
    (logprob(logits[token as usize]), top)
}

#[cfg(test)]
mod tests;
