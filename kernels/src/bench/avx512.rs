//! Loops that do nothing but what a limit is made of.
#![allow(unsafe_code, reason = "vector instructions")]
#![allow(clippy::needless_range_loop, reason = "sums stay in registers only if each index is known to the compiler")]

use std::arch::x86_64::*;
use std::mem::transmute;

use crate::panel::Line;

/// Lines that are asked for ahead of use.
const AHEAD: usize = 24;

/// 24 chains of multiplications with addition.
pub(super) fn f32_steps(steps: usize) -> f32 {
    // SAFETY: the caller has a `Ctx` of this path, which exists only where the machine has it.
    unsafe { peak_f32(steps) }
}

/// 24 chains of bf16 dot products.
pub(super) fn bf16_steps(steps: usize) -> f32 {
    // SAFETY: as above.
    unsafe { peak_bf16(steps) }
}

/// 24 chains of int8 dot products.
pub(super) fn int8_steps(steps: usize) -> f32 {
    // SAFETY: as above.
    unsafe { peak_int8(steps) }
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

#[target_feature(enable = "avx512f")]
unsafe fn peak_f32(steps: usize) -> f32 {
    let mut sums = [_mm512_set1_ps(1.0); 24];
    let (a, b) = (std::hint::black_box(_mm512_set1_ps(0.5)), std::hint::black_box(_mm512_set1_ps(0.25)));
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(a, b, *sum);
        }
    }
    sums.iter().fold(0.0, |all, &sum| all + _mm512_cvtss_f32(sum))
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn peak_bf16(steps: usize) -> f32 {
    let mut sums = [_mm512_set1_ps(1.0); 24];
    let one = std::hint::black_box(_mm512_set1_epi32(0x3f80_3f80));
    // SAFETY: every bit pattern is one of bf16.
    let a = unsafe { transmute::<__m512i, __m512bh>(one) };
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, a, a);
        }
    }
    sums.iter().fold(0.0, |all, &sum| all + _mm512_cvtss_f32(sum))
}

#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn peak_int8(steps: usize) -> f32 {
    let mut sums = [_mm512_set1_epi32(1); 24];
    let a = std::hint::black_box(_mm512_set1_epi32(0x0101_0101));
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, a);
        }
    }
    sums.iter().fold(0, |all, &sum| all ^ _mm512_reduce_or_epi32(sum)) as f32
}

#[target_feature(enable = "avx512f")]
unsafe fn read_lines<const S: usize>(lines: &[Line]) -> u32 {
    let stream = lines.len() / S;
    let mut all = [_mm512_setzero_si512(); S];
    // SAFETY: S streams lie within the lines; prefetching may name any address.
    unsafe {
        let mut at = lines.as_ptr();
        for _ in 0..stream {
            for s in 0..S {
                let line = at.add(s * stream);
                _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(AHEAD).cast());
                all[s] = _mm512_xor_si512(all[s], _mm512_load_si512(line.cast()));
            }
            at = at.add(1);
        }
    }
    let mut one = _mm512_setzero_si512();
    for s in 0..S {
        one = _mm512_xor_si512(one, all[s]);
    }
    _mm512_reduce_or_epi32(one) as u32
}
