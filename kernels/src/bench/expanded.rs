//! Dense MLA by heads, the rival of the absorbed form in prefill: keys and values are taken out of the latent space for
//! one head, once for a chunk of queries, and attention costs 192 + 128 numbers a key in place of 576 + 512. The engine
//! has no use for it: it keeps one form for every length.
//!
//! Of one head, `expand` turns the whole context into lines of pairs (layout in `attention::flash`) and `attend` runs
//! any number of queries over them. Costs of a chunk follow: an expansion for each head, and as much attention as it
//! has queries. Both take bf16 pairs alone, and so AVX-512.
//!
//! Products of the expansion come out with keys in lanes, as lines of scores want them, by giving latents the part of
//! weights; and with outputs in lanes, as lines of values do, by giving them the part of activations.

use std::ops::Range;

use hadal_types::{Dtype, KvEncoding};

use crate::attention::avx512::{lay_out, lines_of, pair_up};
use crate::attention::flash::{Flash, groups, plain};
use crate::cache::{LatentCodec, PAGE_ROWS};
use crate::context::{Ctx, Path};
use crate::panel::{self, Encoding, Line, PANEL, Tile};
use crate::scratch;

/// Queries of one job at most: their numbers stay in the second-level cache.
const JOB_ROWS: usize = 128;
/// Keys of half a line.
const HALF: usize = PANEL / 2;
/// Lines along the latent that a product takes at once, and panels: they stay in the first-level cache.
const STEP_LINES: usize = 128;
const STEP_PANELS: usize = 2;

/// The sizes of a head.
#[derive(Clone, Copy, Debug)]
pub struct ExpandedShape {
    /// Numbers of a latent.
    pub rank: usize,
    /// Numbers of a key that come from the latent, and those that are rotated.
    pub nope: usize,
    /// Rotated numbers of a key.
    pub rope: usize,
    /// Numbers of a value.
    pub value: usize,
    /// Factor of the scores before the softmax.
    pub scale: f32,
}

/// One head over a context of latents.
pub struct Expanded {
    ctx: Ctx,
    shape: ExpandedShape,
    codec: LatentCodec,
    /// Latent rows, [keys, rank + rope] as bf16.
    context: Vec<u8>,
    keys: usize,
    /// Weights of keys as activations and of values as lines.
    key_words: Vec<f32>,
    value_lines: Vec<Line>,
    /// What [`Expanded::expand`] makes: keys and values of each tile.
    tiles: Vec<Line>,
}

impl Expanded {
    /// `context` is [keys, rank + rope], `w_key` [nope, rank], `w_value` [rank, value]. None where there are no pairs.
    pub fn new(ctx: &Ctx, shape: ExpandedShape, context: &[f32], w_key: &[f32], w_value: &[f32]) -> Option<Self> {
        if ctx.dtype() != Dtype::Bf16 || !panel::takes_pairs(ctx.path(), Encoding::Bf16) {
            return None;
        }
        let codec = LatentCodec::new(KvEncoding::Bf16, shape.rank, shape.rope);
        let keys = context.len() / codec.width();
        let mut rows = vec![0; keys * codec.row_bytes()];
        for (row, values) in rows.chunks_exact_mut(codec.row_bytes()).zip(context.chunks_exact(codec.width())) {
            let (latent, rope) = values.split_at(shape.rank);
            codec.encode(row, 0, latent, rope);
        }
        let pairs = shape.rank.div_ceil(2);
        let mut key_words = vec![0.0; shape.nope * pairs];
        for group in groups(0..shape.nope) {
            let words = &mut key_words[group.start * pairs..];
            lay_out(&w_key[group.start * shape.rank..], shape.rank, [group.len(), shape.rank], words);
        }
        let mut value_lines = vec![Line::ZERO; shape.value.div_ceil(PANEL) * pairs];
        pair_up(w_value, shape.value, [shape.rank, shape.value], pairs, &mut value_lines);
        let tiles = vec![Line::ZERO; keys.div_ceil(PAGE_ROWS) * tile_lines(&shape)];
        Some(Self { ctx: ctx.clone(), shape, codec, context: rows, keys, key_words, value_lines, tiles })
    }

    /// Operations of [`Expanded::expand`].
    pub fn expansion_operations(&self) -> f64 {
        2.0 * (self.keys * self.shape.rank * (self.shape.nope + self.shape.value)) as f64
    }

    /// Operations of [`Expanded::attend`] with so many queries.
    pub fn attention_operations(&self, rows: usize) -> f64 {
        2.0 * (rows * self.keys * (self.shape.nope + self.shape.rope + self.shape.value)) as f64
    }

    /// Takes every key and value out of the latent space.
    pub fn expand(&mut self) {
        let (shape, codec) = (self.shape, self.codec);
        let (words, lines, path) = (&self.key_words, &self.value_lines, self.ctx.path());
        let rows = self.context.chunks(codec.row_bytes() * PAGE_ROWS);
        let mut jobs: Vec<_> = rows.zip(self.tiles.chunks_exact_mut(tile_lines(&shape))).collect();
        self.ctx.for_each(usize::MAX, &mut jobs, |(rows, tile)| {
            let tile_of = Expansion { path, shape, codec, words, lines };
            tile_of.run(rows, tile);
        });
    }

    /// Attention of queries `q`, [rows, nope + rope], which see every key, to `out`, [rows, value].
    pub fn attend(&self, q: &[f32], out: &mut [f32]) {
        let ExpandedShape { nope, rope, value, scale, .. } = self.shape;
        let width = nope + rope;
        let rows = (q.len() / width).div_ceil(self.ctx.threads()).clamp(1, JOB_ROWS);
        self.ctx.for_each_chunk(usize::MAX, out, rows * value, |job, out| {
            let rows_here = out.len() / value;
            let q = &q[job * rows * width..][..rows_here * width];
            let flash = Flash::new(self.ctx.path(), rows_here, [nope, rope], value, scale);
            let key_lines = flash.lines()[0];
            flash.with(q, |state| {
                for (i, tile) in self.tiles.chunks_exact(tile_lines(&self.shape)).enumerate() {
                    let (keys, values) = tile.split_at(key_lines);
                    let count = (self.keys - i * PAGE_ROWS).min(PAGE_ROWS);
                    flash.score(keys, &|_| count, &mut std::iter::empty(), state);
                    flash.add(values, 0..rows_here, count, state);
                }
                flash.finish(state, out);
            });
        });
    }
}

/// Lines of a tile of keys and values.
fn tile_lines(s: &ExpandedShape) -> usize {
    PAGE_ROWS / PANEL * (s.nope.div_ceil(2) + s.rope.div_ceil(2)) + s.value.div_ceil(PANEL) * PAGE_ROWS / 2
}

/// What turns a tile of latents into keys and values.
struct Expansion<'a> {
    path: Path,
    shape: ExpandedShape,
    codec: LatentCodec,
    words: &'a [f32],
    lines: &'a [Line],
}

impl Expansion<'_> {
    fn run(&self, rows: &[u8], tile: &mut [Line]) {
        let ExpandedShape { rank, nope, rope, value, .. } = self.shape;
        let (latent, rotated) = (rank.div_ceil(2), rope.div_ceil(2));
        let (pairs, width) = (nope.div_ceil(2) + rotated, value.next_multiple_of(PANEL));
        let panel = latent + rotated;
        let (keys, values) = tile.split_at_mut(PAGE_ROWS / PANEL * pairs);
        scratch::with_lines(PAGE_ROWS / PANEL * panel + rank.div_ceil(PANEL) * PAGE_ROWS / 2, |lent| {
            let (lines, unused) = lent.split_at_mut(PAGE_ROWS / PANEL * panel);
            self.turn(rows, lines, unused);
            scratch::with(PAGE_ROWS * (nope + width + latent), |numbers| {
                numbers.fill(0.0);
                let (k, rest) = numbers.split_at_mut(PAGE_ROWS * nope);
                let (v, words) = rest.split_at_mut(PAGE_ROWS * width);
                let product = Weights { lines, panel_lines: panel, panels: PAGE_ROWS / PANEL, pairs: latent };
                product.multiply(self.path, self.words, groups(0..nope), k);
                pair_up(k, PAGE_ROWS, [nope, PAGE_ROWS], pairs, keys);
                for (keys, lines) in keys.chunks_exact_mut(pairs).zip(lines.chunks_exact(panel)) {
                    keys[pairs - rotated..].copy_from_slice(&lines[latent..]);
                }
                halve(lines, panel, words);
                let product = Weights { lines: self.lines, panel_lines: latent, panels: width / PANEL, pairs: latent };
                let groups = (0..PAGE_ROWS).step_by(HALF).map(|key| key..key + HALF);
                product.multiply(self.path, words, groups, v);
                pair_up(v, width, [PAGE_ROWS, value], PAGE_ROWS / 2, values);
            });
        });
    }

    /// Latent rows as lines of keys; what a last tile lacks is zeros. Lines of values have no use here.
    fn turn(&self, rows: &[u8], lines: &mut [Line], unused: &mut [Line]) {
        let mut stored = [&rows[..0]; PAGE_ROWS];
        stored.iter_mut().zip(rows.chunks_exact(self.codec.row_bytes())).for_each(|(to, row)| *to = row);
        lines.fill(Line::ZERO);
        lines_of(&self.codec, &stored[..rows.len() / self.codec.row_bytes()], lines, unused);
    }
}

/// The 16 keys of each line of latents as two groups of 8 rows of activations, [8 groups][pairs][8 rows].
fn halve(lines: &[Line], panel: usize, words: &mut [f32]) {
    let pairs = words.len() / PAGE_ROWS;
    for (group, words) in words.chunks_exact_mut(pairs * HALF).enumerate() {
        let lines = &lines[group / 2 * panel..][..pairs];
        for (words, line) in words.chunks_exact_mut(HALF).zip(lines) {
            let half = &line.0[group % 2 * HALF..][..HALF];
            words.iter_mut().zip(half).for_each(|(to, &word)| *to = f32::from_bits(word));
        }
    }
}

/// Lines as one side of a product.
struct Weights<'a> {
    lines: &'a [Line],
    panel_lines: usize,
    panels: usize,
    pairs: usize,
}

impl Weights<'_> {
    /// `acc += words · lines`, with `words` [group][pairs][rows] and `acc` [rows, panels × 16].
    fn multiply(&self, path: Path, words: &[f32], groups: impl Iterator<Item = Range<usize>> + Clone, acc: &mut [f32]) {
        let stride = self.panels * PANEL;
        for panel in (0..self.panels).step_by(STEP_PANELS) {
            for line in (0..self.pairs).step_by(STEP_LINES) {
                for group in groups.clone() {
                    let tile = Tile {
                        x: &words[group.start * self.pairs + line * group.len()..],
                        rows: group.len(),
                        lines: &self.lines[panel * self.panel_lines + line..],
                        panel_lines: self.panel_lines,
                        panels: STEP_PANELS.min(self.panels - panel),
                        acc: &mut acc[group.start * stride + panel * PANEL..],
                        acc_stride: stride,
                        ..plain(STEP_LINES.min(self.pairs - line))
                    };
                    panel::run(path, tile);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
