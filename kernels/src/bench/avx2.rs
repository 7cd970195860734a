//! Loops that do nothing but what a limit is made of.
#![allow(unsafe_code, reason = "vector instructions")]
#![allow(clippy::needless_range_loop, reason = "sums stay in registers only if each index is known to the compiler")]

use std::arch::x86_64::*;

use crate::panel::Line;

/// Lines that are asked for ahead of use.
const AHEAD: usize = 24;

/// 12 chains of multiplications with addition.
pub(super) fn f32_steps(steps: usize) -> f32 {
    // SAFETY: the caller has a `Ctx` of this path, which exists only where the machine has it.
    unsafe { peak_f32(steps) }
}

/// 12 chains of products of 16-bit pairs, added up.
pub(super) fn int8_steps(steps: usize) -> f32 {
    // SAFETY: as above.
    unsafe { peak_int16(steps) }
}

/// Reads every line; the result is of no use.
pub(super) fn read(lines: &[Line], streams: usize) -> u32 {
    // SAFETY: as above.
    unsafe {
        match streams {
            1 => read_lines::<1>(lines),
            2 => read_lines::<2>(lines),
            4 => read_lines::<4>(lines),
            _ => read_lines::<8>(lines),
        }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn peak_f32(steps: usize) -> f32 {
    let mut sums = [_mm256_set1_ps(1.0); 12];
    let (a, b) = (std::hint::black_box(_mm256_set1_ps(0.5)), std::hint::black_box(_mm256_set1_ps(0.25)));
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(a, b, *sum);
        }
    }
    sums.iter().fold(0.0, |all, &sum| all + _mm256_cvtss_f32(sum))
}

#[target_feature(enable = "avx2")]
unsafe fn peak_int16(steps: usize) -> f32 {
    let mut sums = [_mm256_set1_epi32(1); 12];
    let a = _mm256_set1_epi16(1);
    for _ in 0..steps {
        // Known to be anything, so that the product is taken anew.
        let b = std::hint::black_box(a);
        for sum in &mut sums {
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*sum, b));
        }
    }
    sums.iter().fold(0, |all, &sum| all ^ _mm256_extract_epi32::<0>(sum)) as f32
}

#[target_feature(enable = "avx2")]
unsafe fn read_lines<const S: usize>(lines: &[Line]) -> u32 {
    let stream = lines.len() / S;
    let mut all = [_mm256_setzero_si256(); S];
    // SAFETY: S streams lie within the lines; prefetching may name any address.
    unsafe {
        let mut at = lines.as_ptr();
        for _ in 0..stream {
            for s in 0..S {
                let line = at.add(s * stream);
                _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(AHEAD).cast());
                let halves: *const __m256i = line.cast();
                let both = _mm256_xor_si256(_mm256_load_si256(halves), _mm256_load_si256(halves.add(1)));
                all[s] = _mm256_xor_si256(all[s], both);
            }
            at = at.add(1);
        }
    }
    let mut one = _mm256_setzero_si256();
    for s in 0..S {
        one = _mm256_xor_si256(one, all[s]);
    }
    _mm256_extract_epi32::<0>(one) as u32
}
