//! Tiles on AVX2 with FMA: 16 outputs in two registers, up to 4 rows × 1 panel or 1 row × 2 panels at once.
#![allow(unsafe_code, reason = "vector instructions and unchecked addressing; the safe entry is `run`")]
#![allow(clippy::needless_range_loop, reason = "sums stay in registers only if each index is known to the compiler")]

use std::arch::x86_64::*;

use super::{Encoding, PANEL, Tile};

/// Outputs of a register.
const HALF: usize = PANEL / 2;
/// Lines that are asked for ahead of use in every stream.
const AHEAD: usize = 24;

/// How half a line of weights becomes numbers.
trait Widen {
    const SCALED: bool;
    /// k of a line.
    const K: usize;
    /// The weights of 8 outputs for each k; the rest is not used.
    ///
    /// # Safety
    /// 32 bytes are readable at `half`, and the machine has the features of [`tile`].
    unsafe fn widen(half: *const u32, scale: __m256) -> [__m256; 4];
}

struct F32;
struct Bf16;
struct E4m3;

impl Widen for F32 {
    const SCALED: bool = false;
    const K: usize = 1;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn widen(half: *const u32, _scale: __m256) -> [__m256; 4] {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_loadu_ps(half.cast()); 4] }
    }
}

impl Widen for Bf16 {
    const SCALED: bool = false;
    const K: usize = 2;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn widen(half: *const u32, _scale: __m256) -> [__m256; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            let bits = _mm256_loadu_si256(half.cast());
            let even = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits));
            let odd = _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(0xffff_0000u32 as i32)));
            [even, odd, even, odd]
        }
    }
}

impl Widen for E4m3 {
    const SCALED: bool = true;
    const K: usize = 4;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn widen(half: *const u32, scale: __m256) -> [__m256; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            let codes = _mm256_loadu_si256(half.cast());
            let zero = _mm256_setzero_si256();
            let [a, b] = e4m3_pairs(_mm256_unpacklo_epi8(codes, zero), scale);
            let [c, d] = e4m3_pairs(_mm256_unpackhi_epi8(codes, zero), scale);
            [a, b, c, d]
        }
    }
}

/// 8 outputs with two codes each, as [even k, odd k]. A code is shifted into a half-precision number, whose bias is
/// larger by 8: the value times 2^-8. `scale` carries the 2^8, so that the one rounding is that of value × scale. NaN
/// codes never get here.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn e4m3_pairs(codes: __m256i, scale: __m256) -> [__m256; 2] {
    let sign = _mm256_slli_epi16::<8>(_mm256_and_si256(codes, _mm256_set1_epi16(0x80)));
    let magnitude = _mm256_slli_epi16::<7>(_mm256_and_si256(codes, _mm256_set1_epi16(0x7f)));
    let halves = _mm256_or_si256(sign, magnitude);
    let even = _mm256_and_si256(halves, _mm256_set1_epi32(0xffff));
    let packed = _mm256_packus_epi32(even, _mm256_srli_epi32::<16>(halves));
    // Packing works within 128 bits: the middle quarters change places.
    let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
    let even = _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
    let odd = _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(packed));
    [_mm256_mul_ps(even, scale), _mm256_mul_ps(odd, scale)]
}

/// Runs a tile of f32 words that [`super::run`] has checked.
pub(super) fn run(t: &mut Tile<'_>) {
    // SAFETY: a `Ctx` names this path only where the machine has it, and `super::run` checked the bounds.
    unsafe {
        match t.encoding {
            Encoding::F32 => tiles::<F32>(t),
            Encoding::Bf16 => tiles::<Bf16>(t),
            Encoding::E4m3 => tiles::<E4m3>(t),
        }
    }
}

/// # Safety
/// The machine has the features of [`tile`], and `t.fits()`.
unsafe fn tiles<W: Widen>(t: &mut Tile<'_>) {
    let mut panel = 0;
    while panel < t.panels {
        let panels = if t.rows == 1 && t.panels - panel >= 2 { 2 } else { 1 };
        let mut row = 0;
        while row < t.rows {
            let rows = if t.rows - row >= 4 { 4 } else { 1 };
            // SAFETY: row + rows <= t.rows and panel + panels <= t.panels, within which every address fits.
            unsafe {
                match (rows, panels) {
                    (4, _) => tile::<W, 4, 1>(t, row, panel),
                    (_, 2) => tile::<W, 1, 2>(t, row, panel),
                    _ => tile::<W, 1, 1>(t, row, panel),
                }
            }
            row += rows;
        }
        panel += panels;
    }
}

/// # Safety
/// The machine has the features, `t.fits()`, `row + R <= t.rows` and `panel + P <= t.panels`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<W: Widen, const R: usize, const P: usize>(t: &mut Tile<'_>, row: usize, panel: usize) {
    // SAFETY: every address is one of those that `fits` covers; prefetching may name any.
    unsafe {
        let mut x = t.x.as_ptr().add(row);
        let mut lines = [t.lines.as_ptr(); P];
        for p in 0..P {
            lines[p] = lines[p].add((panel + p) * t.panel_lines);
        }
        let out = t.acc.as_mut_ptr().add(row * t.acc_stride + panel * PANEL);
        let mut sums = [[[_mm256_setzero_ps(); 2]; P]; R];
        for r in 0..R {
            for p in 0..P {
                let from = out.add(r * t.acc_stride + p * PANEL);
                sums[r][p] = [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(HALF))];
            }
        }
        let (mut from, mut block) = (0, 0);
        while from < t.steps {
            let to = if W::SCALED { t.block_end(from) } else { t.steps };
            let mut scale = [[_mm256_setzero_ps(); 2]; P];
            if W::SCALED {
                for p in 0..P {
                    let from = t.scale.as_ptr().add((panel + p) * t.scale_stride + block * PANEL);
                    let bias = _mm256_set1_ps(256.0);
                    scale[p][0] = _mm256_mul_ps(_mm256_loadu_ps(from), bias);
                    scale[p][1] = _mm256_mul_ps(_mm256_loadu_ps(from.add(HALF)), bias);
                }
            }
            for _ in from..to {
                for p in 0..P {
                    _mm_prefetch::<_MM_HINT_T0>(lines[p].wrapping_add(AHEAD).cast());
                    let halves = (*lines[p]).0.as_ptr();
                    let (low, high) = (W::widen(halves, scale[p][0]), W::widen(halves.add(HALF), scale[p][1]));
                    lines[p] = lines[p].add(1);
                    for k in 0..W::K {
                        for r in 0..R {
                            let x = _mm256_set1_ps(*x.add(k * t.rows + r));
                            sums[r][p][0] = _mm256_fmadd_ps(x, low[k], sums[r][p][0]);
                            sums[r][p][1] = _mm256_fmadd_ps(x, high[k], sums[r][p][1]);
                        }
                    }
                }
                // Past the end after the last line, where it is not read.
                x = x.wrapping_add(W::K * t.rows);
            }
            (from, block) = (to, block + 1);
        }
        for r in 0..R {
            for p in 0..P {
                let to = out.add(r * t.acc_stride + p * PANEL);
                _mm256_storeu_ps(to, sums[r][p][0]);
                _mm256_storeu_ps(to.add(HALF), sums[r][p][1]);
            }
        }
    }
}
