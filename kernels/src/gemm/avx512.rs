//! The product on AVX-512: 16 columns a register, up to 8 rows × 2 panels or 1 row × 4 panels at once.
#![allow(unsafe_code, reason = "vector instructions and unchecked addressing; the safe entry is `run`")]

use std::arch::x86_64::*;

use super::Block;
use crate::panel::PANEL;

/// Runs a block that [`super::run`] has checked.
pub(super) fn run(b: Block<'_>) {
    // SAFETY: a `Ctx` names this path only where the machine has it, and `super::run` checked the bounds.
    unsafe { tiles(b) }
}

/// # Safety
/// The machine has the features, and `b.fits()`.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c")]
unsafe fn tiles(mut b: Block<'_>) {
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
                    (8, 2) => tile::<8, 2>(&mut b, row, panel),
                    (8, _) => tile::<8, 1>(&mut b, row, panel),
                    (4, 2) => tile::<4, 2>(&mut b, row, panel),
                    (4, _) => tile::<4, 1>(&mut b, row, panel),
                    (_, 4) => tile::<1, 4>(&mut b, row, panel),
                    _ => tile::<1, 1>(&mut b, row, panel),
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
unsafe fn tile<const R: usize, const P: usize>(b: &mut Block<'_>, row: usize, panel: usize) {
    // SAFETY: every address is one of those that `fits` covers.
    unsafe {
        let x = b.x.as_ptr().add(row * b.x_stride);
        let w = b.w.as_ptr().add(panel * b.panel_stride);
        let out = b.acc.as_mut_ptr().add(row * b.acc_stride + panel * PANEL);
        let mut acc = [[_mm512_setzero_ps(); P]; R];
        for (r, row) in acc.iter_mut().enumerate() {
            for (p, sums) in row.iter_mut().enumerate() {
                *sums = _mm512_loadu_ps(out.add(r * b.acc_stride + p * PANEL));
            }
        }
        for k in 0..b.k {
            let mut weights = [_mm512_setzero_ps(); P];
            for (p, weights) in weights.iter_mut().enumerate() {
                *weights = _mm512_loadu_ps(w.add(p * b.panel_stride + k * b.k_stride));
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
