//! Pages of index keys as lines of K-pairs, a key an output, and the heads' sum, on AVX-512.
//!
//! Turning a page costs some percent of the products of 64 heads with it, so that pages keep rows that can be written
//! and moved one by one.
#![allow(unsafe_code, reason = "vector instructions and unchecked addressing; the safe entries check both")]
#![allow(clippy::needless_range_loop, reason = "values stay in registers only if each index is known to the compiler")]

use std::arch::x86_64::*;

use crate::cache::PAGE_ROWS;
use crate::panel::{Line, PANEL, e4m3_halves, transpose};

/// Numbers of a key that fill a vector as bf16.
pub(super) const CHUNK: usize = 32;

/// Turns a page of bf16 keys [64, dim] into lines [4 panels, dim / 2]; `dim` is a multiple of [`CHUNK`].
pub(super) fn lines_of_bf16(page: &[u8], dim: usize, lines: &mut [Line]) {
    assert!(
        dim.is_multiple_of(CHUNK) && page.len() >= PAGE_ROWS * dim * 2 && lines.len() >= PAGE_ROWS / PANEL * dim / 2
    );
    // SAFETY: a `Ctx` of this path exists only where the machine has it; by the check, keys and lines are all there.
    unsafe { turn::<false>(page, dim, lines) }
}

/// Turns a page of e4m3 keys [64, dim] into lines of bf16, as [`lines_of_bf16`]. Exact; scales are left aside.
pub(super) fn lines_of_e4m3(page: &[u8], dim: usize, lines: &mut [Line]) {
    assert!(dim.is_multiple_of(CHUNK) && page.len() >= PAGE_ROWS * dim && lines.len() >= PAGE_ROWS / PANEL * dim / 2);
    // SAFETY: as above.
    unsafe { turn::<true>(page, dim, lines) }
}

/// `scores[key] += weights[head] × relu(dots[head][key] × factors[key])`, heads ascending, each operation rounded.
pub(super) fn combine(weights: &[f32], dots: &[f32], factors: &[f32; PAGE_ROWS]) -> [f32; PAGE_ROWS] {
    assert!(dots.len() >= weights.len() * PAGE_ROWS);
    // SAFETY: as above; each head has 64 products.
    unsafe { heads(weights, dots, factors) }
}

/// # Safety
/// The machine has the features, and the sizes are those that the callers check.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
unsafe fn turn<const E4M3: bool>(page: &[u8], dim: usize, lines: &mut [Line]) {
    let pairs = dim / 2;
    let row_bytes = if E4M3 { dim } else { dim * 2 };
    for panel in 0..PAGE_ROWS / PANEL {
        for chunk in 0..dim / CHUNK {
            let mut rows = [_mm512_setzero_si512(); PANEL];
            for row in 0..PANEL {
                // SAFETY: the chunk lies in the key, and the key in the page.
                unsafe {
                    let key = page.as_ptr().add((panel * PANEL + row) * row_bytes);
                    rows[row] = if E4M3 {
                        e4m3_halves(_mm256_loadu_si256(key.add(chunk * CHUNK).cast()))
                    } else {
                        _mm512_loadu_si512(key.add(chunk * CHUNK * 2).cast())
                    };
                }
            }
            let columns = transpose(rows);
            let first = panel * pairs + chunk * CHUNK / 2;
            for pair in 0..PANEL {
                // SAFETY: a chunk has 16 pairs, which lie among the panel's lines.
                unsafe { _mm512_storeu_si512(lines.as_mut_ptr().add(first + pair).cast(), columns[pair]) };
            }
        }
    }
}

/// # Safety
/// The machine has the features, and there are 64 products of every head.
#[target_feature(enable = "avx512f")]
unsafe fn heads(weights: &[f32], dots: &[f32], factors: &[f32; PAGE_ROWS]) -> [f32; PAGE_ROWS] {
    const PARTS: usize = PAGE_ROWS / PANEL;
    let mut out = [0.0; PAGE_ROWS];
    // SAFETY: every address lies in a page's worth of numbers of a slice that has it.
    unsafe {
        let (mut sums, mut factor) = ([_mm512_setzero_ps(); PARTS], [_mm512_setzero_ps(); PARTS]);
        for part in 0..PARTS {
            factor[part] = _mm512_loadu_ps(factors.as_ptr().add(part * PANEL));
        }
        let mut from = dots.as_ptr();
        for &weight in weights {
            let weight = _mm512_set1_ps(weight);
            for part in 0..PARTS {
                let scaled = _mm512_mul_ps(_mm512_loadu_ps(from.add(part * PANEL)), factor[part]);
                // Of a NaN and a number, the instruction gives the second.
                let positive = _mm512_max_ps(_mm512_setzero_ps(), scaled);
                sums[part] = _mm512_add_ps(sums[part], _mm512_mul_ps(weight, positive));
            }
            from = from.add(PAGE_ROWS);
        }
        for part in 0..PARTS {
            _mm512_storeu_ps(out.as_mut_ptr().add(part * PANEL), sums[part]);
        }
    }
    out
}
