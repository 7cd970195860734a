//! Products with what is computed or decoded at the time: a few rows times a block of columns, `acc += x · w`, in f32.
//! Those with packed weights are in `panel`.
//!
//! Every element of `acc` is one chain over k in ascending order, so neither the number of rows nor the way rows and
//! columns are grouped changes a bit. Columns come in panels of 16; within a panel the columns of one k are adjacent:
//!
//! ```text
//! w[panel × panel_stride + k × k_stride + column]      column 0..16
//! acc[row × acc_stride + panel × 16 + column]
//! x[row × x_stride + k]
//! ```
//!
//! The vector paths add with one rounding (fused), the portable path with two.

use crate::context::Path;
use crate::panel::PANEL;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

/// One block of a product; see the head of this file for how things lie.
pub(crate) struct Block<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) x_stride: usize,
    pub(crate) rows: usize,
    pub(crate) w: &'a [f32],
    pub(crate) k_stride: usize,
    pub(crate) panel_stride: usize,
    pub(crate) panels: usize,
    pub(crate) k: usize,
    pub(crate) acc: &'a mut [f32],
    pub(crate) acc_stride: usize,
}

impl Block<'_> {
    /// Whether every address that a kernel forms lies within its slice.
    fn fits(&self) -> bool {
        self.x.len() >= (self.rows - 1) * self.x_stride + self.k
            && self.w.len() >= (self.panels - 1) * self.panel_stride + (self.k - 1) * self.k_stride + PANEL
            && self.acc.len() >= (self.rows - 1) * self.acc_stride + self.panels * PANEL
    }
}

/// `acc += x · w` on the given path.
///
/// A block that exceeds its slices is a fault of this crate and stops the program rather than read beyond them.
pub(crate) fn run(path: Path, block: Block<'_>) {
    if block.rows == 0 || block.panels == 0 || block.k == 0 {
        return;
    }
    assert!(block.fits(), "a block of a product lies within its slices");
    match path {
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => avx512::run(block),
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => avx2::run(block),
        _ => portable(block),
    }
}

fn portable(b: Block<'_>) {
    for panel in 0..b.panels {
        let w = &b.w[panel * b.panel_stride..];
        for row in 0..b.rows {
            let x = &b.x[row * b.x_stride..][..b.k];
            let out = &mut b.acc[row * b.acc_stride + panel * PANEL..][..PANEL];
            let mut acc = [0.0f32; PANEL];
            acc.copy_from_slice(out);
            for (k, &x) in x.iter().enumerate() {
                let w = &w[k * b.k_stride..][..PANEL];
                acc.iter_mut().zip(w).for_each(|(a, &w)| *a += x * w);
            }
            out.copy_from_slice(&acc);
        }
    }
}

#[cfg(test)]
mod tests;
