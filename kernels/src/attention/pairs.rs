//! Products from pairs of bf16, on AVX-512.
//!
//! Queries are rounded to bf16; rows are taken as they are stored, or of fp8 as code × scale rounded to bf16; weights
//! are rounded to bf16, and it is the rounded ones that their sum adds up, so that they are parts of one. A score adds
//! the pairs of the latent and then those of the rotated part, a result the pairs of keys; an odd last number, or key,
//! is paired with zero. Within a pair the higher comes first, each sum rounded once, subnormal numbers zero: see
//! `panel`.
//!
//! A tile's rows are turned into lines once, for all rows of scores of the job: the heads of one query or, where a
//! sequence's queries read everything, of several. `flash` does the rest.

use std::ops::Range;

use super::avx512::lines_of;
use super::flash::{Flash, State};
use super::{AttentionShape, Queries, Seen, TILE};
use crate::cache::PAGE_ROWS;
use crate::context::Ctx;
use crate::panel::Line;
use crate::scratch;

/// What a job works with.
struct Job<'a> {
    shape: &'a AttentionShape,
    queries: &'a Queries<'a>,
    seen: Seen<'a>,
    flash: Flash,
}

/// The stored rows of a tile.
struct Rows<'a> {
    rows: [&'a [u8]; TILE],
    count: usize,
}

pub(super) fn attend(ctx: &Ctx, shape: &AttentionShape, queries: &Queries<'_>, out: &mut [f32]) {
    let (rank, rope) = (shape.codec.rank(), shape.codec.rope());
    let flash = Flash::new(ctx.path(), queries.count * queries.heads, [rank, rope], rank, shape.scale);
    let job = Job { shape, queries, seen: queries.seen(), flash };
    flash.with(queries.q, |state| {
        scratch::with_lines(flash.lines().iter().sum(), |lines| {
            let (keys, values) = lines.split_at_mut(flash.lines()[0]);
            job.run(keys, values, state);
        });
        flash.finish(state, out);
    });
}

impl<'a> Job<'a> {
    fn run(&self, keys: &mut [Line], values: &mut [Line], state: &mut State<'_>) {
        let mut tile = self.seen.tile(0);
        let mut rows = self.rows_of(tile.clone());
        while !tile.is_empty() {
            lines_of(&self.shape.codec, &rows.rows[..rows.count], keys, values);
            let next = self.seen.tile(tile.end);
            rows = self.rows_of(next.clone());
            // A query reads one key more than the one before it.
            let count = |query: usize| {
                let end = (self.seen.count + query + 1).saturating_sub(self.queries.count).min(tile.end);
                end.saturating_sub(tile.start)
            };
            let mut asked = rows.rows[..rows.count].iter().copied();
            self.flash.score(keys, &|row| count(row / self.queries.heads), &mut asked, state);
            self.add(values, tile.len(), &count, state);
            tile = next;
        }
    }

    /// Adds a tile of `all` keys, of which each query reads its count.
    fn add(&self, values: &[Line], all: usize, count: &dyn Fn(usize) -> usize, state: &mut State<'_>) {
        let (queries, heads) = (self.queries.count, self.queries.heads);
        if count(0) == all {
            return self.flash.add(values, 0..queries * heads, all, state);
        }
        for query in (0..queries).filter(|&q| count(q) > 0) {
            self.flash.add(values, query * heads..(query + 1) * heads, count(query), state);
        }
    }

    /// Where the rows of some keys are stored.
    fn rows_of(&self, keys: Range<usize>) -> Rows<'a> {
        let mut rows = Rows { rows: [&[]; TILE], count: keys.len() };
        for (row, key) in rows.rows.iter_mut().zip(keys) {
            let position = self.seen.position(key);
            *row = self.shape.codec.row(self.queries.sequence.cache.page_of(position), position % PAGE_ROWS);
        }
        rows
    }
}
