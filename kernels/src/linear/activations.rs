//! Activations as tiles take them: rows in groups, the words of a group interleaved.

use std::ops::Range;

use crate::context::Ctx;
use crate::number::{f32_to_bf16, round_bf16};
use crate::panel::TILE_ROWS;

use super::depth::Depth;

/// What a word of activations is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    F32,
    /// An f32, rounded to bf16.
    Rounded,
    /// Two bf16.
    Pairs,
}

/// Rows in groups of nearly equal size, none above [`TILE_ROWS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Groups {
    rows: usize,
}

impl Groups {
    pub(crate) fn of(rows: usize) -> Self {
        Self { rows }
    }

    pub(crate) fn count(self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// The first row of a group; the number of rows for what comes after the last.
    pub(crate) fn start(self, group: usize) -> usize {
        let count = self.count().max(1);
        group * (self.rows / count) + group.min(self.rows % count)
    }

    /// The rows of a group.
    pub(crate) fn rows(self, group: usize) -> Range<usize> {
        self.start(group)..self.start(group + 1)
    }
}

/// Activations of a product, and how they are laid out for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout<'a> {
    /// [rows, k].
    pub(crate) x: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) k: usize,
    pub(crate) depth: Depth,
    pub(crate) words: Words,
}

impl Layout<'_> {
    /// How the rows are grouped.
    pub(crate) fn groups(&self) -> Groups {
        Groups::of(self.rows)
    }

    /// Words of a row that go with a line.
    pub(crate) fn line_words(&self) -> usize {
        match self.words {
            Words::Pairs => self.depth.line_k() / 2,
            Words::F32 | Words::Rounded => self.depth.line_k(),
        }
    }

    /// Words of a row.
    pub(crate) fn row_words(&self) -> usize {
        self.depth.lines() * self.line_words()
    }

    /// Whether the words are the same for both.
    pub(crate) fn same(&self, other: &Layout<'_>) -> bool {
        std::ptr::eq(self.x, other.x) && (self.depth, self.words) == (other.depth, other.words)
    }
}

/// Lays out the activations of every product, each in its own words.
pub(crate) fn lay_out(ctx: &Ctx, layouts: &[Layout<'_>], mut words: &mut [f32]) {
    let mut jobs = Vec::with_capacity(layouts.iter().map(|l| l.groups().count()).sum());
    for layout in layouts {
        for rows in (0..layout.groups().count()).map(|g| layout.groups().rows(g)) {
            let (out, rest) = words.split_at_mut(rows.len() * layout.row_words());
            jobs.push((layout, rows, out));
            words = rest;
        }
    }
    let work = layouts.iter().map(|l| l.x.len()).sum();
    ctx.for_each(work, &mut jobs, |(layout, rows, out)| group(layout, rows.clone(), out));
}

/// Lays out one group of rows.
fn group(layout: &Layout<'_>, rows: Range<usize>, out: &mut [f32]) {
    let count = rows.len();
    // Only where a block ends within a line are there words that no k belongs to.
    if layout.depth.lines() * layout.depth.line_k() != layout.k {
        out.fill(0.0);
    }
    for (at, row) in rows.enumerate() {
        let x = &layout.x[row * layout.k..][..layout.k];
        for block in 0..layout.depth.blocks() {
            let line = layout.depth.block_line(block);
            let x = &x[layout.depth.block_k(block)];
            let to = out[line * layout.line_words() * count..].iter_mut().skip(at).step_by(count);
            match layout.words {
                Words::F32 => to.zip(x).for_each(|(to, &x)| *to = x),
                Words::Rounded => to.zip(x).for_each(|(to, &x)| *to = round_bf16(x)),
                Words::Pairs => to.zip(x.chunks(2)).for_each(|(to, x)| *to = pair(x)),
            }
        }
    }
}

/// Two numbers, or one and zero, as bf16 in one word.
#[inline]
fn pair(x: &[f32]) -> f32 {
    let half = |i: usize| x.get(i).map_or(0, |&x| u32::from(f32_to_bf16(x)));
    f32::from_bits(half(1) << 16 | half(0))
}
