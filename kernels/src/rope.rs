//! Rotary position embedding, in the two layouts that one model may mix. The order of the numbers stays as it came.

use crate::math::sin_cos;

/// Which numbers form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeLayout {
    /// (2i, 2i+1): MLA, and GLM's indexer.
    Interleaved,
    /// (i, i + half): the indexer of DeepSeek-V3.2.
    Half,
}

/// Cosines and sines of `position` for each inverse frequency, times `factor` (YaRN's; else 1). The angle is the f32
/// product of position and frequency, as transformers computes it; positions are exact up to 2^24.
pub fn rope_angles(inv_freq: &[f32], factor: f32, position: u32, cos: &mut [f32], sin: &mut [f32]) {
    for ((&f, c), s) in inv_freq.iter().zip(cos).zip(sin) {
        let (sine, cosine) = sin_cos(position as f32 * f);
        *c = cosine * factor;
        *s = sine * factor;
    }
}

/// Rotates `x` [2 × cos.len()] in place.
pub fn rope(x: &mut [f32], cos: &[f32], sin: &[f32], layout: RopeLayout) {
    match layout {
        RopeLayout::Interleaved => {
            for ((pair, &c), &s) in x.chunks_exact_mut(2).zip(cos).zip(sin) {
                let (a, b) = (pair[0], pair[1]);
                pair[0] = a * c - b * s;
                pair[1] = b * c + a * s;
            }
        }
        RopeLayout::Half => {
            let (low, high) = x.split_at_mut(cos.len().min(x.len()));
            for (((a, b), &c), &s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
            }
        }
    }
}

#[cfg(test)]
mod tests;
