//! The product on AVX2 with FMA: 16 columns in two registers, up to 4 rows × 1 panel or 1 row × 2 panels at once.
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
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tiles(mut b: Block<'_>) {
    let mut row = 0;
    while row < b.rows {
        let rows = if b.rows - row >= 4 { 4 } else { 1 };
        let mut panel = 0;
        while panel < b.panels {
            let panels = if rows == 1 && b.panels - panel >= 2 { 2 } else { 1 };
            // SAFETY: row + rows <= b.rows and panel + panels <= b.panels, within which every address fits.
            unsafe {
                match (rows, panels) {
                    (4, _) => tile::<4, 1>(&mut b, row, panel),
                    (_, 2) => tile::<1, 2>(&mut b, row, panel),
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
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const R: usize, const P: usize>(b: &mut Block<'_>, row: usize, panel: usize) {
    const HALF: usize = PANEL / 2;
    // SAFETY: every address is one of those that `fits` covers.
    unsafe {
        let x = b.x.as_ptr().add(row * b.x_stride);
        let w = b.w.as_ptr().add(panel * b.panel_stride);
        let out = b.acc.as_mut_ptr().add(row * b.acc_stride + panel * PANEL);
        let mut acc = [[[_mm256_setzero_ps(); 2]; P]; R];
        for (r, row) in acc.iter_mut().enumerate() {
            for (p, sums) in row.iter_mut().enumerate() {
                let from = out.add(r * b.acc_stride + p * PANEL);
                *sums = [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(HALF))];
            }
        }
        for k in 0..b.k {
            for p in 0..P {
                let from = w.add(p * b.panel_stride + k * b.k_stride);
                let weights = [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(HALF))];
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
