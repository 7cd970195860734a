//! The product on AVX-512: 16 columns a register, up to 8 rows × 2 panels or 1 row × 4 panels at once.
#![allow(unsafe_code, reason = "vector instructions and unchecked addressing; the safe entry is `run`")]

use std::arch::x86_64::*;

use super::{Bf16, Block, E4m3, Element, PANEL};

/// How 16 weights become a register.
pub(super) trait Load: Element {
    /// # Safety
    /// 16 elements are readable at `w`, and the machine has AVX-512 F and VL, AVX2 and F16C.
    unsafe fn load(w: *const Self, scale: __m512) -> __m512;
}

impl Load for f32 {
    #[inline(always)]
    unsafe fn load(w: *const f32, _scale: __m512) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(w) }
    }
}

impl Load for Bf16 {
    #[inline(always)]
    unsafe fn load(w: *const Bf16, _scale: __m512) -> __m512 {
        // SAFETY: the caller's promise; Bf16 is a transparent u16.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(w.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
}

impl Load for E4m3 {
    /// The code is shifted into a half-precision number, whose bias is larger by 8: the value times 2^-8. `scale`
    /// carries the 2^8, so that the one rounding is that of value × scale. NaN codes never get here.
    #[inline(always)]
    unsafe fn load(w: *const E4m3, scale: __m512) -> __m512 {
        // SAFETY: the caller's promise; E4m3 is a transparent u8.
        unsafe {
            let codes = _mm256_cvtepu8_epi16(_mm_loadu_si128(w.cast()));
            let sign = _mm256_slli_epi16::<8>(_mm256_and_si256(codes, _mm256_set1_epi16(0x80)));
            let magnitude = _mm256_slli_epi16::<7>(_mm256_and_si256(codes, _mm256_set1_epi16(0x7f)));
            _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(sign, magnitude)), scale)
        }
    }
}

/// Runs a block that [`super::run`] has checked.
pub(super) fn run<T: Load>(b: Block<'_, T>) {
    // SAFETY: a `Ctx` names this path only where the machine has it, and `super::run` checked the bounds.
    unsafe { tiles(b) }
}

/// # Safety
/// The machine has the features, and `b.fits()`.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c")]
unsafe fn tiles<T: Load>(mut b: Block<'_, T>) {
    let mut row = 0;
    while row < b.rows {
        let left = b.rows - row;
        let (rows, wide) = match left {
            8.. => (8, 2),
            4.. => (4, 2),
            _ => (1, 4),
        };
        let mut panel = 0;
        while panel < b.panels {
            let panels = if b.panels - panel >= wide { wide } else { 1 };
            // SAFETY: row + rows <= b.rows and panel + panels <= b.panels, within which every address fits.
            unsafe {
                match (rows, panels) {
                    (8, 2) => tile::<T, 8, 2>(&mut b, row, panel),
                    (8, _) => tile::<T, 8, 1>(&mut b, row, panel),
                    (4, 2) => tile::<T, 4, 2>(&mut b, row, panel),
                    (4, _) => tile::<T, 4, 1>(&mut b, row, panel),
                    (_, 4) => tile::<T, 1, 4>(&mut b, row, panel),
                    _ => tile::<T, 1, 1>(&mut b, row, panel),
                }
            }
            panel += panels;
        }
        row += rows;
    }
}

/// # Safety
/// The machine has the features, `b.fits()`, `row + R <= b.rows` and `panel + P <= b.panels`.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c")]
unsafe fn tile<T: Load, const R: usize, const P: usize>(b: &mut Block<'_, T>, row: usize, panel: usize) {
    // SAFETY: every address is one of those that `fits` covers.
    unsafe {
        let x = b.x.as_ptr().add(row * b.x_stride);
        let w = b.w.as_ptr().add(panel * b.panel_stride);
        let out = b.acc.as_mut_ptr().add(row * b.acc_stride + panel * PANEL);
        let mut scale = [_mm512_set1_ps(1.0); P];
        if T::SCALED {
            for (p, s) in scale.iter_mut().enumerate() {
                let factors = _mm512_loadu_ps(b.scale.as_ptr().add((panel + p) * b.scale_stride));
                *s = _mm512_mul_ps(factors, _mm512_set1_ps(256.0));
            }
        }
        let mut acc = [[_mm512_setzero_ps(); P]; R];
        for (r, row) in acc.iter_mut().enumerate() {
            for (p, sums) in row.iter_mut().enumerate() {
                *sums = _mm512_loadu_ps(out.add(r * b.acc_stride + p * PANEL));
            }
        }
        for k in 0..b.k {
            let mut weights = [_mm512_setzero_ps(); P];
            for (p, weights) in weights.iter_mut().enumerate() {
                *weights = T::load(w.add(p * b.panel_stride + k * b.k_stride), scale[p]);
            }
            for (r, row) in acc.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*x.add(r * b.x_stride + k));
                for (sums, &weights) in row.iter_mut().zip(&weights) {
                    *sums = _mm512_fmadd_ps(x, weights, *sums);
                }
            }
        }
        for (r, row) in acc.iter().enumerate() {
            for (p, &sums) in row.iter().enumerate() {
                _mm512_storeu_ps(out.add(r * b.acc_stride + p * PANEL), sums);
            }
        }
    }
}
