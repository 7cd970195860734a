//! The product that everything is made of: a few rows times a block of columns, `acc += x · w`.
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
use crate::number::{E4M3, bf16_to_f32};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

/// Columns of a panel.
pub(crate) const PANEL: usize = 16;

/// An encoding of weights that is decoded on the way into a product.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    /// Whether `scale` is used.
    const SCALED: bool;
    /// The value; `scale` is 1 where it is not used.
    fn decode(self, scale: f32) -> f32;
    /// Runs the block on a vector path that the machine has.
    #[cfg(target_arch = "x86_64")]
    fn vector(path: Path, block: Block<'_, Self>);
}

/// bfloat16.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Bf16(pub(crate) u16);

/// OCP e4m3fn, never NaN.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct E4m3(pub(crate) u8);

macro_rules! element {
    ($type:ty, $scaled:literal, |$value:ident, $scale:ident| $decode:expr) => {
        impl Element for $type {
            const SCALED: bool = $scaled;
            #[inline(always)]
            fn decode(self, $scale: f32) -> f32 {
                let $value = self;
                $decode
            }
            #[cfg(target_arch = "x86_64")]
            #[inline]
            fn vector(path: Path, block: Block<'_, Self>) {
                match path {
                    Path::Avx512 => avx512::run(block),
                    Path::Avx2 => avx2::run(block),
                    Path::Portable => portable(block),
                }
            }
        }
    };
}
element!(f32, false, |value, _scale| value);
element!(Bf16, false, |value, _scale| bf16_to_f32(value.0));
element!(E4m3, true, |value, scale| E4M3[usize::from(value.0)] * scale);

/// One block of a product; see the head of this file for how things lie.
pub(crate) struct Block<'a, T> {
    pub(crate) x: &'a [f32],
    pub(crate) x_stride: usize,
    pub(crate) rows: usize,
    pub(crate) w: &'a [T],
    pub(crate) k_stride: usize,
    pub(crate) panel_stride: usize,
    pub(crate) panels: usize,
    pub(crate) k: usize,
    /// Factors of the columns, panel by panel with `scale_stride` between; empty unless `T` is scaled.
    pub(crate) scale: &'a [f32],
    pub(crate) scale_stride: usize,
    pub(crate) acc: &'a mut [f32],
    pub(crate) acc_stride: usize,
}

impl<T: Element> Block<'_, T> {
    /// Whether every address that a kernel forms lies within its slice.
    fn fits(&self) -> bool {
        self.x.len() >= (self.rows - 1) * self.x_stride + self.k
            && self.w.len() >= (self.panels - 1) * self.panel_stride + (self.k - 1) * self.k_stride + PANEL
            && self.acc.len() >= (self.rows - 1) * self.acc_stride + self.panels * PANEL
            && (!T::SCALED || self.scale.len() >= (self.panels - 1) * self.scale_stride + PANEL)
    }
}

/// `acc += x · w` on the given path.
///
/// A block that exceeds its slices is a fault of this crate and stops the program rather than read beyond them.
pub(crate) fn run<T: Element>(path: Path, block: Block<'_, T>) {
    if block.rows == 0 || block.panels == 0 || block.k == 0 {
        return;
    }
    assert!(block.fits(), "a block of a product lies within its slices");
    #[cfg(target_arch = "x86_64")]
    T::vector(path, block);
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = path;
        portable(block);
    }
}

fn portable<T: Element>(b: Block<'_, T>) {
    let unit = [1.0f32; PANEL];
    for panel in 0..b.panels {
        let w = &b.w[panel * b.panel_stride..];
        let scale = if T::SCALED { &b.scale[panel * b.scale_stride..][..PANEL] } else { &unit };
        for row in 0..b.rows {
            let x = &b.x[row * b.x_stride..][..b.k];
            let out = &mut b.acc[row * b.acc_stride + panel * PANEL..][..PANEL];
            let mut acc = [0.0f32; PANEL];
            acc.copy_from_slice(out);
            for (k, &x) in x.iter().enumerate() {
                let w = &w[k * b.k_stride..][..PANEL];
                for ((a, &w), &s) in acc.iter_mut().zip(w).zip(scale) {
                    *a += x * w.decode(s);
                }
            }
            out.copy_from_slice(&acc);
        }
    }
}

#[cfg(test)]
mod tests;
