//! Products with packed weights: a few rows times some panels of 16 outputs, `acc += x · w`.
//!
//! A panel is a run of lines. A line is 64 bytes, and holds the weights of the panel's 16 outputs for 1, 2 or 4
//! consecutive k, in the order in which the vector units take them:
//!
//! ```text
//! f32     [16 outputs]                                 1 k
//! bf16    [16 outputs][2 k]                            2 k     a pair is what vdpbf16ps adds up
//! e4m3    [4][2 pairs of k][4 outputs][2 k]            4 k     widened, one line of bf16 for each pair
//! ```
//!
//! Activations are words of 32 bits, interleaved over the rows of a tile, `x[word × rows + row]`. A word is an f32, of
//! one k, or two bf16, of two k, the lower k in the lower half.
//!
//! Every element of `acc` is one chain along k in ascending order, so neither the number of rows nor the way in which
//! rows, panels and steps are grouped changes a bit:
//!
//! ```text
//! words are f32        acc = acc + x × w                e4m3: w = code × scale, rounded
//! words are pairs      acc = (acc + x1 × w1) + x0 × w0  e4m3: the same over the codes of a scale block, from 0;
//!                                                             then acc = acc + sum × scale
//! ```
//!
//! The vector paths add with one rounding (fused), the portable path with two. Pairs exist on AVX-512 alone, whose
//! instruction takes subnormal numbers for zero.

use crate::context::Path;
use crate::number::{bf16_to_f32, e4m3_to_f32};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::{e4m3_halves, transpose};

/// Outputs of a panel.
pub(crate) const PANEL: usize = 16;
/// Rows of a tile at most: their sums fit the registers.
pub(crate) const TILE_ROWS: usize = 12;

/// Weights of a panel for some k, on a cache line of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u32; PANEL]);

impl Line {
    /// No weights.
    pub(crate) const ZERO: Line = Line([0; PANEL]);

    /// Puts a code of e4m3 at output `column` and the line's k `k`.
    #[inline]
    pub(crate) fn put_e4m3(&mut self, column: usize, k: usize, code: u8) {
        let (word, shift) = e4m3_place(column, k);
        self.0[word] |= u32::from(code) << shift;
    }

    /// The code of e4m3 at output `column` and the line's k `k`.
    #[inline]
    pub(crate) fn e4m3(&self, column: usize, k: usize) -> u8 {
        let (word, shift) = e4m3_place(column, k);
        (self.0[word] >> shift) as u8
    }
}

/// Word of a line and lowest bit in it.
#[inline]
fn e4m3_place(column: usize, k: usize) -> (usize, usize) {
    (column / 4 * 4 + k / 2 * 2 + column % 4 / 2, (column % 2 * 2 + k % 2) * 8)
}

/// What the numbers of a line are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    F32,
    Bf16,
    E4m3,
}

impl Encoding {
    /// k of a line.
    pub(crate) fn line_k(self) -> usize {
        match self {
            Encoding::F32 => 1,
            Encoding::Bf16 => 2,
            Encoding::E4m3 => 4,
        }
    }

    /// One weight, before its scale.
    pub(crate) fn value(self, line: &Line, column: usize, k: usize) -> f32 {
        match self {
            Encoding::F32 => f32::from_bits(line.0[column]),
            Encoding::Bf16 => bf16_to_f32((line.0[column] >> (16 * k)) as u16),
            Encoding::E4m3 => e4m3_to_f32(line.e4m3(column, k)),
        }
    }
}

/// One call; see the head of this file for how things lie.
pub(crate) struct Tile<'a> {
    pub(crate) encoding: Encoding,
    /// Words, and whether each is a pair of bf16.
    pub(crate) x: &'a [f32],
    pub(crate) pairs: bool,
    /// Up to [`TILE_ROWS`].
    pub(crate) rows: usize,
    /// From the first line of the first panel, with `panel_lines` from panel to panel.
    pub(crate) lines: &'a [Line],
    pub(crate) panel_lines: usize,
    pub(crate) panels: usize,
    /// Lines to take of each panel.
    pub(crate) steps: usize,
    /// Lines of the first scale block, and of the others.
    pub(crate) first_steps: usize,
    pub(crate) block_steps: usize,
    /// Factors of the outputs for each scale block, with `scale_stride` from panel to panel; empty without scales.
    pub(crate) scale: &'a [f32],
    pub(crate) scale_stride: usize,
    /// Sums, [rows, panels, 16] with `acc_stride` from row to row.
    pub(crate) acc: &'a mut [f32],
    pub(crate) acc_stride: usize,
}

impl Tile<'_> {
    /// Words of a row that go with a line.
    fn line_words(&self) -> usize {
        if self.pairs { self.encoding.line_k() / 2 } else { self.encoding.line_k() }
    }

    /// The end of the scale block that begins at line `from`.
    #[inline]
    fn block_end(&self, from: usize) -> usize {
        let length = if from == 0 { self.first_steps } else { self.block_steps };
        (from + length.max(1)).min(self.steps)
    }

    /// Whether every address that a kernel forms lies within its slice.
    fn fits(&self) -> bool {
        let blocks = 1 + self.steps.saturating_sub(self.first_steps.max(1)).div_ceil(self.block_steps.max(1));
        let scales = match self.encoding {
            Encoding::E4m3 => (self.panels - 1) * self.scale_stride + blocks * PANEL,
            Encoding::F32 | Encoding::Bf16 => 0,
        };
        self.rows <= TILE_ROWS
            && !(self.pairs && self.encoding == Encoding::F32)
            && self.x.len() >= self.steps * self.line_words() * self.rows
            && self.lines.len() >= (self.panels - 1) * self.panel_lines + self.steps
            && self.scale.len() >= scales
            && self.acc.len() >= (self.rows - 1) * self.acc_stride + self.panels * PANEL
    }
}

/// Whether a path multiplies pairs of bf16 with such weights.
pub(crate) fn takes_pairs(path: Path, encoding: Encoding) -> bool {
    path == Path::Avx512 && encoding != Encoding::F32
}

/// `acc += x · w` on the given path, which is AVX-512 where words are pairs.
///
/// A tile that exceeds its slices is a fault of this crate and stops the program rather than read beyond them.
pub(crate) fn run(path: Path, mut tile: Tile<'_>) {
    if tile.rows == 0 || tile.panels == 0 || tile.steps == 0 {
        return;
    }
    assert!(tile.fits(), "a tile of a product lies within its slices");
    assert!(!tile.pairs || takes_pairs(path, tile.encoding), "a path without pairs is given none");
    match path {
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => avx512::run(&mut tile),
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => avx2::run(&mut tile),
        _ => portable(&mut tile),
    }
}

/// Has the memory fetch these bytes, where that can be said.
pub(crate) fn ask_for(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    avx512::ask_for(bytes);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

fn portable(t: &mut Tile<'_>) {
    let line_k = t.encoding.line_k();
    for panel in 0..t.panels {
        let lines = &t.lines[panel * t.panel_lines..][..t.steps];
        let mut scale = [1.0; PANEL];
        let (mut block, mut end) = (0, 0);
        for (step, line) in lines.iter().enumerate() {
            if t.encoding == Encoding::E4m3 && step == end {
                scale.copy_from_slice(&t.scale[panel * t.scale_stride + block * PANEL..][..PANEL]);
                (block, end) = (block + 1, t.block_end(step));
            }
            for k in 0..line_k {
                let mut w = scale;
                for (column, w) in w.iter_mut().enumerate() {
                    *w *= t.encoding.value(line, column, k);
                }
                let x = &t.x[(step * line_k + k) * t.rows..][..t.rows];
                for (row, &x) in x.iter().enumerate() {
                    let sums = &mut t.acc[row * t.acc_stride + panel * PANEL..][..PANEL];
                    sums.iter_mut().zip(&w).for_each(|(sum, &w)| *sum += x * w);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
