//! One step of the model over a paged cache.
//!
//! Rows are the tokens of all slices, one after another. Each layer first encodes the step's rows into the cache, then
//! reads only encoded rows, also those of its own step; so a row's bits do not depend on where a chunk began.

mod attention;
mod draft;
mod indexer;
mod mlp;

use hadal_kernels::{Ctx, NotFinite, linear, rms_norm, rope_angles};
use hadal_types::{Attention, BLOCK_TOKENS, LayerId, Part};

use crate::cache::Cache;
use crate::model::Model;
use crate::probe::{Probe, Stage};
use crate::step::{Slice, Step};
use crate::workspace::Workspace;
pub(crate) use draft::draft;

/// A step that cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// More rows than the workspace has room for.
    #[error("a step of {rows} rows; the workspace has room for {rows_max}")]
    TooManyRows {
        /// Rows of the step.
        rows: usize,
        /// Rows of the workspace.
        rows_max: usize,
    },
    /// A slice without tokens.
    #[error("slice {slice} has no tokens")]
    Empty {
        /// Which slice.
        slice: usize,
    },
    /// A token that the vocabulary does not have.
    #[error("token {token} of slice {slice} is not in the vocabulary of {vocab}")]
    Token {
        /// Which slice.
        slice: usize,
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A sequence longer than the model takes.
    #[error("slice {slice} ends at {end} tokens; the model takes {context}")]
    TooLong {
        /// Which slice.
        slice: usize,
        /// Tokens of the sequence.
        end: u64,
        /// Tokens of the longest.
        context: u32,
    },
    /// More tokens of a slice kept than it has.
    #[error("slice {slice} has {tokens} tokens; {kept} of them cannot be kept")]
    Kept {
        /// Which slice.
        slice: usize,
        /// Tokens kept.
        kept: usize,
        /// Tokens of the slice.
        tokens: usize,
    },
    /// A page list that does not reach the slice's last token.
    #[error("slice {slice} needs {needed} {part} pages, but its list has {found}")]
    Pages {
        /// Which slice.
        slice: usize,
        /// The part.
        part: &'static str,
        /// Pages needed.
        needed: usize,
        /// Pages listed.
        found: usize,
    },
    /// A page that the cache does not have.
    #[error("slice {slice} names {part} page {page}; the cache has {pages}")]
    NoSuchPage {
        /// Which slice.
        slice: usize,
        /// The part.
        part: &'static str,
        /// The page.
        page: u32,
        /// Pages of the cache.
        pages: u32,
    },
}

/// A step, and the rows of its slices.
pub(crate) struct Batch<'a> {
    pub(crate) slices: &'a [Slice<'a>],
    pub(crate) rows: usize,
}

impl<'a> Batch<'a> {
    /// Each slice with its number and first row.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, usize, &'a Slice<'a>)> + use<'a> {
        let mut row = 0;
        self.slices.iter().enumerate().map(move |(number, slice)| {
            let first = row;
            row += slice.tokens.len();
            (number, first, slice)
        })
    }

    /// Whether any slice wants a choice of positions.
    pub(crate) fn chooses(&self) -> bool {
        self.slices.iter().any(|s| s.attention == Attention::Sparse)
    }

    /// The slice that a row belongs to, with its first row.
    pub(crate) fn slice_of(&self, row: usize) -> (usize, std::ops::Range<usize>) {
        let found = self.iter().find(|(_, first, s)| row < first + s.tokens.len());
        found.map_or((0, 0..0), |(number, first, s)| (number, first..first + s.tokens.len()))
    }

    /// Marks the slice of a row that failed. Its rows before that one are right and go on.
    pub(crate) fn mark(&self, failure: NotFinite, failures: &mut [Option<NotFinite>]) {
        let (slice, _) = self.slice_of(failure.row);
        if failures[slice].as_ref().is_none_or(|f| failure.row < f.row) {
            failures[slice] = Some(failure);
        }
    }
}

/// What every block of a layer needs.
pub(crate) struct Layer<'a> {
    pub(crate) model: &'a Model,
    /// Position among all layers, draft ones included.
    pub(crate) number: usize,
    pub(crate) batch: &'a Batch<'a>,
}

impl Layer<'_> {
    fn id(&self) -> LayerId {
        LayerId(self.number as u32)
    }

    /// The first position that has a row in the layer's stores.
    fn first_position(&self) -> u32 {
        u32::from(self.model.config.layers[self.number].draft)
    }
}

/// Products whose activations are not rounded whatever the dtype: gates and the indexer's head weights, on which
/// choices depend.
pub(crate) fn exact(model: &Model) -> &Ctx {
    &model.exact
}

/// See [`Model::forward_probed`].
pub(crate) fn forward(
    model: &Model,
    step: &Step<'_>,
    cache: &mut Cache,
    ws: &mut Workspace,
    probe: &mut dyn Probe,
) -> Result<(), ForwardError> {
    check(model, step, cache, ws)?;
    let batch = Batch { slices: &step.slices, rows: step.rows() };
    ws.begin(&step.slices);
    if batch.rows == 0 {
        return Ok(());
    }
    embed(model, &batch, ws)?;
    angles(model, &batch, ws);
    for number in 0..model.config.main_layers() {
        let layer = Layer { model, number, batch: &batch };
        run_layer(&layer, cache, ws, probe);
        probe.written(layer.id(), cache);
    }
    find_failures(model, &batch, ws);
    finish(model, &batch, ws, probe);
    probe.computed(Stage::Rest);
    Ok(())
}

fn check(model: &Model, step: &Step<'_>, cache: &Cache, ws: &Workspace) -> Result<(), ForwardError> {
    let (rows, rows_max) = (step.rows(), ws.rows_max);
    if rows > rows_max {
        return Err(ForwardError::TooManyRows { rows, rows_max });
    }
    let (vocab, context) = (model.config.vocab, model.config.context_tokens);
    for (slice, s) in step.slices.iter().enumerate() {
        if s.tokens.is_empty() {
            return Err(ForwardError::Empty { slice });
        }
        if let Some(&token) = s.tokens.iter().find(|&&t| t as usize >= vocab) {
            return Err(ForwardError::Token { slice, token, vocab });
        }
        let end = u64::from(s.start) + s.tokens.len() as u64;
        if end > u64::from(context) {
            return Err(ForwardError::TooLong { slice, end, context });
        }
        for part in model.geometry.parts().iter() {
            check_pages(slice, part, s.pages[part.index()], end, cache.pages(part))?;
        }
    }
    Ok(())
}

fn check_pages(slice: usize, part: Part, list: &[u32], end: u64, pages: u32) -> Result<(), ForwardError> {
    let (needed, found) = (hadal_types::blocks_for(end) as usize, list.len());
    if found < needed {
        return Err(ForwardError::Pages { slice, part: part.name(), needed, found });
    }
    match list.iter().find(|&&p| p >= pages) {
        Some(&page) => Err(ForwardError::NoSuchPage { slice, part: part.name(), page, pages }),
        None => Ok(()),
    }
}

fn embed(model: &Model, batch: &Batch<'_>, ws: &mut Workspace) -> Result<(), ForwardError> {
    let width = model.config.hidden;
    for (slice, first, s) in batch.iter() {
        let rows = &mut ws.x[first * width..(first + s.tokens.len()) * width];
        model.weights.embedding.lookup(s.tokens, rows).map_err(|_| ForwardError::Token {
            slice,
            token: s.tokens.iter().copied().max().unwrap_or(0),
            vocab: model.config.vocab,
        })?;
    }
    Ok(())
}

/// Cosines and sines of every row's position.
fn angles(model: &Model, batch: &Batch<'_>, ws: &mut Workspace) {
    let rope = &model.config.rope;
    let half = rope.inv_freq.len();
    for (_, first, s) in batch.iter() {
        for (i, position) in (s.start..).take(s.tokens.len()).enumerate() {
            let at = (first + i) * half..(first + i + 1) * half;
            rope_angles(&rope.inv_freq, rope.angle_factor, position, &mut ws.cos[at.clone()], &mut ws.sin[at]);
        }
    }
}

fn run_layer(layer: &Layer<'_>, cache: &mut Cache, ws: &mut Workspace, probe: &mut dyn Probe) {
    let (width, eps) = (layer.model.config.hidden, layer.model.config.rms_eps);
    let weights = &layer.model.weights.layers[layer.number];
    let n = layer.batch.rows * width;
    rms_norm(&ws.x[..n], &weights.input_norm, eps, &mut ws.normed[..n]);
    probe.computed(Stage::Rest);
    attention::write(layer, &weights.attention, cache, ws, probe);
    finish_layer(layer, cache, ws, probe);
}

/// A layer from the point on where its rows are in the cache and its normed input in `normed`.
fn finish_layer(layer: &Layer<'_>, cache: &Cache, ws: &mut Workspace, probe: &mut dyn Probe) {
    let (width, eps) = (layer.model.config.hidden, layer.model.config.rms_eps);
    let weights = &layer.model.weights.layers[layer.number];
    let n = layer.batch.rows * width;
    attention::read(layer, &weights.attention, cache, ws, probe);
    hadal_kernels::add(&mut ws.x[..n], &ws.answer[..n]);
    silence_failed(layer.batch, width, ws);
    rms_norm(&ws.x[..n], &weights.post_norm, eps, &mut ws.normed[..n]);
    probe.computed(Stage::Rest);
    mlp::run(layer, &weights.mlp, ws, probe);
    hadal_kernels::add(&mut ws.x[..n], &ws.answer[..n]);
    if probe.details() {
        probe.hidden(layer.id(), &mut ws.x[..n]);
    }
}

/// Rows of a slice from the one that failed on go on as zeros, which disturb nobody.
fn silence_failed(batch: &Batch<'_>, width: usize, ws: &mut Workspace) {
    for (slice, first, s) in batch.iter() {
        if let Some(failure) = &ws.failures[slice] {
            ws.x[failure.row * width..(first + s.tokens.len()) * width].fill(0.0);
        }
    }
}

/// Marks the slices whose residual stream is not finite: without logits nobody else would see it.
fn find_failures(model: &Model, batch: &Batch<'_>, ws: &mut Workspace) {
    let width = model.config.hidden;
    for (_, first, s) in batch.iter() {
        let rows = &ws.x[first * width..(first + s.tokens.len()) * width];
        if let Some(at) = rows.iter().position(|v| !v.is_finite()) {
            batch.mark(NotFinite { what: "hidden states", row: first + at / width }, &mut ws.failures);
        }
    }
}

/// The last norm, of all rows where a draft layer needs them, and the head, of the rows whose logits are wanted.
fn finish(model: &Model, batch: &Batch<'_>, ws: &mut Workspace, probe: &mut dyn Probe) {
    let (width, eps) = (model.config.hidden, model.config.rms_eps);
    let n = batch.rows * width;
    if model.config.draft_layers() > 0 {
        rms_norm(&ws.x[..n], &model.weights.norm, eps, &mut ws.hidden[..n]);
    }
    if probe.details() {
        rms_norm(&ws.x[..n], &model.weights.norm, eps, &mut ws.normed[..n]);
        probe.last_hidden(&ws.normed[..n]);
    }
    let mut wanted = 0;
    for (_, first, s) in batch.iter() {
        let end = first + s.tokens.len();
        let from = end - s.logits.rows(s.tokens.len());
        let to = &mut ws.normed[wanted * width..(wanted + end - from) * width];
        rms_norm(&ws.x[from * width..end * width], &model.weights.norm, eps, to);
        wanted += end - from;
    }
    if wanted > 0 {
        let normed = std::mem::take(&mut ws.normed);
        linear(&model.ctx, &model.weights.head, &normed[..wanted * width], ws.logits_mut());
        ws.normed = normed;
    }
}

/// Where a position of a slice lies: offset of its page in a pool, and its slot.
pub(crate) fn slot(slice: &Slice<'_>, part: Part, position: u32, page_bytes: usize) -> (usize, usize) {
    let page = slice.pages[part.index()][(position / BLOCK_TOKENS) as usize];
    (page as usize * page_bytes, (position % BLOCK_TOKENS) as usize)
}
