//! Rotary frequencies, with YaRN where the configuration asks for it, at every length as transformers has it.
//! (YaRN: arXiv 2309.00071; the factors are those of DeepSeek-V3's modeling code.)

use hadal_kernels::math::ln_f64;

use crate::config::{Raw, RawRope};

/// What the angles are made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Radians per token, for each pair; `[qk_rope_head_dim / 2]`.
    pub inv_freq: Vec<f32>,
    /// Factor on cosines and sines.
    pub angle_factor: f32,
    /// Factor on the scale of attention scores.
    pub score_factor: f64,
}

/// A rotary embedding that cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RopeError {
    /// A kind that Hadal does not have.
    #[error("rope type {0:?} is not supported; Hadal has \"default\" and \"yarn\"")]
    Kind(String),
    /// A number out of range.
    #[error("{key} of the rotary embedding is {found}, but must be {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What stands there, or "missing".
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
}

impl Rope {
    /// From `rope_parameters` (new style) or `rope_theta` and `rope_scaling`.
    pub(crate) fn new(raw: &Raw) -> Result<Self, RopeError> {
        let parameters = raw.rope_parameters.clone().unwrap_or_default();
        let scaling = raw.rope_scaling.clone().unwrap_or_default();
        let theta = parameters.rope_theta.or(raw.rope_theta).unwrap_or(10_000.0);
        let theta = within("rope_theta", Some(theta), 1.0 + 1e-9, 1e15, "above 1")?;
        let dim = raw.qk_rope_head_dim.unwrap_or(0).min(1 << 20);
        let plain = frequencies(theta, dim);
        let kind = [&scaling.kind, &scaling.rope_type, &parameters.rope_type].into_iter().find_map(Option::as_deref);
        match kind.unwrap_or("default") {
            "default" => Ok(Self {
                inv_freq: plain.into_iter().map(|f| f as f32).collect(),
                angle_factor: 1.0,
                score_factor: 1.0,
            }),
            "yarn" => yarn(if raw.rope_scaling.is_some() { &scaling } else { &parameters }, theta, dim, &plain),
            other => Err(RopeError::Kind(other.to_owned())),
        }
    }
}

fn frequencies(theta: f64, dim: usize) -> Vec<f64> {
    (0..dim / 2).map(|i| 1.0 / exp(ln_f64(theta) * (2 * i) as f64 / dim as f64)).collect()
}

/// Frequencies that turn less than `beta_slow` times within the original context are divided by the factor, those
/// that turn more than `beta_fast` times are kept, and between the two lies a ramp over the pairs' numbers.
fn yarn(s: &RawRope, theta: f64, dim: usize, plain: &[f64]) -> Result<Rope, RopeError> {
    let factor = within("factor", s.factor, 1.0, 1e6, "at least 1")?;
    let original =
        within("original_max_position_embeddings", s.original_max_position_embeddings, 1.0, 1e9, "at least 1")?;
    let pair_of = |turns: f64| dim as f64 * ln_f64(original / (turns * std::f64::consts::TAU)) / (2.0 * ln_f64(theta));
    let fast = within("beta_fast", s.beta_fast.or(Some(32.0)), 1e-6, 1e6, "above 0")?;
    let slow = within("beta_slow", s.beta_slow.or(Some(1.0)), 1e-6, 1e6, "above 0")?;
    let low = pair_of(fast).floor().max(0.0);
    let high = pair_of(slow).ceil().min(dim as f64 - 1.0);
    let high = if low == high { high + 0.001 } else { high };
    let ramp = |i: usize| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
    let blend = |(i, f): (usize, &f64)| (f / factor * ramp(i) + f * (1.0 - ramp(i))) as f32;
    let mscale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * ln_f64(factor) + 1.0 };
    // A factor of zero counts as absent, as in Python.
    let (on_angles, all_dim) = (s.mscale.filter(|m| *m != 0.0), s.mscale_all_dim.filter(|m| *m != 0.0));
    let angle_factor = match (on_angles, all_dim) {
        (Some(m), Some(all)) => mscale(m) / mscale(all),
        _ => mscale(1.0),
    };
    Ok(Rope {
        inv_freq: plain.iter().enumerate().map(blend).collect(),
        angle_factor: angle_factor as f32,
        score_factor: all_dim.map_or(1.0, |all| mscale(all) * mscale(all)),
    })
}

fn within(
    key: &'static str,
    value: Option<f64>,
    low: f64,
    high: f64,
    expected: &'static str,
) -> Result<f64, RopeError> {
    // NaN is in no range.
    match value {
        Some(v) if v >= low && v <= high => Ok(v),
        Some(v) => Err(RopeError::Value { key, found: v.to_string(), expected }),
        None => Err(RopeError::Value { key, found: "missing".to_owned(), expected }),
    }
}

/// e^x to about 15 digits for 0 <= x < 700. Not the C library's, which picks by processor.
fn exp(x: f64) -> f64 {
    let n = (x / std::f64::consts::LN_2).round();
    // ln 2 in two parts, so that n times the first is exact.
    let r = (x - n * 0.693_147_180_369_123_8) - n * 1.908_214_929_270_587_7e-10;
    let series = (1..=18).rev().fold(1.0, |sum, k| 1.0 + sum * r / f64::from(k));
    series * f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_as_good_as_the_c_library() {
        for i in 0..3000 {
            let x = f64::from(i) * 0.011;
            assert!((exp(x) / x.exp() - 1.0).abs() < 4e-15, "{x}");
        }
    }

    #[test]
    fn published_yarn_parameters_scale_attention_as_published() {
        let json = include_bytes!("../../../tests/golden/configs/deepseek-v3.2-exp.json");
        let raw: Raw = serde_json::from_slice(json).unwrap();
        let rope = Rope::new(&raw).unwrap();
        assert_eq!(rope.angle_factor, 1.0);
        assert!((rope.score_factor - (0.1 * 40f64.ln() + 1.0).powi(2)).abs() < 1e-12);
        assert_eq!(rope.inv_freq.len(), 32);
        assert_eq!(rope.inv_freq[0], 1.0);
    }
}
