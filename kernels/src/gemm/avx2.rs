//! The product on AVX2 with FMA: 16 columns in two registers, up to 4 rows × 1 panel or 1 row × 2 panels at once.
#![allow(unsafe_code, reason = "vector instructions and unchecked addressing; the safe entry is `run`")]

use std::arch::x86_64::*;

use super::{Bf16, Block, E4m3, Element, PANEL};

/// How 8 weights become a register.
pub(super) trait Load: Element {
    /// # Safety
    /// 8 elements are readable at `w`, and the machine has AVX2 and F16C.
    unsafe fn load(w: *const Self, scale: __m256) -> __m256;
}

impl Load for f32 {
    #[inline(always)]
    unsafe fn load(w: *const f32, _scale: __m256) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(w) }
    }
}

impl Load for Bf16 {
    #[inline(always)]
    unsafe fn load(w: *const Bf16, _scale: __m256) -> __m256 {
        // SAFETY: the caller's promise; Bf16 is a transparent u16.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(w.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
}

impl Load for E4m3 {
    /// By way of half precision, as in the AVX-512 kernel.
    #[inline(always)]
    unsafe fn load(w: *const E4m3, scale: __m256) -> __m256 {
        // SAFETY: the caller's promise; E4m3 is a transparent u8, and `loadl` reads 8 of them.
        unsafe {
            let codes = _mm_cvtepu8_epi16(_mm_loadl_epi64(w.cast()));
            let sign = _mm_slli_epi16::<8>(_mm_and_si128(codes, _mm_set1_epi16(0x80)));
            let magnitude = _mm_slli_epi16::<7>(_mm_and_si128(codes, _mm_set1_epi16(0x7f)));
            _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(sign, magnitude)), scale)
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
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tiles<T: Load>(mut b: Block<'_, T>) {
    let mut row = 0;
    while row < b.rows {
        let rows = if b.rows - row >= 4 { 4 } else { 1 };
        let mut panel = 0;
        while panel < b.panels {
            let panels = if rows == 1 && b.panels - panel >= 2 { 2 } else { 1 };
            // SAFETY: row + rows <= b.rows and panel + panels <= b.panels, within which every address fits.
            unsafe {
                match (rows, panels) {
                    (4, _) => tile::<T, 4, 1>(&mut b, row, panel),
                    (_, 2) => tile::<T, 1, 2>(&mut b, row, panel),
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
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<T: Load, const R: usize, const P: usize>(b: &mut Block<'_, T>, row: usize, panel: usize) {
    const HALF: usize = PANEL / 2;
    // SAFETY: every address is one of those that `fits` covers.
    unsafe {
        let x = b.x.as_ptr().add(row * b.x_stride);
        let w = b.w.as_ptr().add(panel * b.panel_stride);
        let out = b.acc.as_mut_ptr().add(row * b.acc_stride + panel * PANEL);
        let mut scale = [[_mm256_set1_ps(1.0); 2]; P];
        if T::SCALED {
            for (p, s) in scale.iter_mut().enumerate() {
                let factors = b.scale.as_ptr().add((panel + p) * b.scale_stride);
                s[0] = _mm256_mul_ps(_mm256_loadu_ps(factors), _mm256_set1_ps(256.0));
                s[1] = _mm256_mul_ps(_mm256_loadu_ps(factors.add(HALF)), _mm256_set1_ps(256.0));
            }
        }
        let mut acc = [[[_mm256_setzero_ps(); 2]; P]; R];
        for (r, row) in acc.iter_mut().enumerate() {
            for (p, sums) in row.iter_mut().enumerate() {
                let from = out.add(r * b.acc_stride + p * PANEL);
                *sums = [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(HALF))];
            }
        }
        for k in 0..b.k {
            for (p, scale) in scale.iter().enumerate() {
                let from = w.add(p * b.panel_stride + k * b.k_stride);
                let weights = [T::load(from, scale[0]), T::load(from.add(HALF), scale[1])];
                for (r, row) in acc.iter_mut().enumerate() {
                    let x = _mm256_set1_ps(*x.add(r * b.x_stride + k));
                    row[p] = [_mm256_fmadd_ps(x, weights[0], row[p][0]), _mm256_fmadd_ps(x, weights[1], row[p][1])];
                }
            }
        }
        for (r, row) in acc.iter().enumerate() {
            for (p, sums) in row.iter().enumerate() {
                let to = out.add(r * b.acc_stride + p * PANEL);
                _mm256_storeu_ps(to, sums[0]);
                _mm256_storeu_ps(to.add(HALF), sums[1]);
            }
        }
    }
}
