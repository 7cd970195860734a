//! The draft layer (MTP): its rows for the positions after those of a step, and logits of the tokens after them.
//!
//! The row of position `p` joins the token there with the main model's last hidden row of `p - 1`, turns by `p`, lies
//! in slot `p`, sees the positions 1 to `p`, and gives logits for `p + 1`. Position 0 has no token before it; its slot
//! holds zeros, which nobody reads, so that a block's bytes depend on its tokens alone.
//!
//! A draft layer's rows in the cache are made of its input alone, so rows without logits cost neither attention nor MLP.

use hadal_kernels::{linear, rms_norm};
use hadal_types::LayerId;

use super::{Batch, ForwardError, Layer, angles, attention, check_pages, embed, finish_layer};
use crate::cache::Cache;
use crate::model::Model;
use crate::probe::OnLayer;
use crate::step::{Draft, Logits, Slice, Step};
use crate::weights::Join;
use crate::workspace::Workspace;

/// See [`Model::draft`].
pub(crate) fn draft(
    model: &Model,
    (step, drafts): (&Step<'_>, &[Draft]),
    cache: &mut Cache,
    ws: &mut Workspace,
    on_layer: &mut dyn FnMut(LayerId, &Cache),
) -> Result<(), ForwardError> {
    let number = model.config.main_layers();
    let Some(join) = model.weights.layers.get(number).and_then(|l| l.join.as_ref()) else { return Ok(()) };
    check(model, step, drafts, cache)?;
    let mut tokens = std::mem::take(&mut ws.draft_tokens);
    collect_tokens(step, drafts, &mut tokens);
    let slices = written(step, drafts, &tokens);
    let batch = Batch { slices: &slices, rows: tokens.len() };
    let layer = Layer { model, number, batch: &batch };
    write(&layer, (step, drafts), join, cache, ws)?;
    on_layer(LayerId(number as u32), cache);
    read(&layer, join, cache, ws);
    ws.lay_out_drafts(step, drafts);
    ws.draft_tokens = tokens;
    Ok(())
}

/// Every next token has a page, and is one of the vocabulary.
fn check(model: &Model, step: &Step<'_>, drafts: &[Draft], cache: &Cache) -> Result<(), ForwardError> {
    for (slice, (s, draft)) in step.slices.iter().zip(drafts).enumerate().filter(|(_, (_, d))| d.kept > 0) {
        let (kept, tokens) = (draft.kept, s.tokens.len());
        if kept > tokens {
            return Err(ForwardError::Kept { slice, kept, tokens });
        }
        let Some(token) = draft.next else { continue };
        if token as usize >= model.config.vocab {
            return Err(ForwardError::Token { slice, token, vocab: model.config.vocab });
        }
        let end = u64::from(s.start) + kept as u64 + 1;
        for part in model.geometry.parts().iter() {
            check_pages(slice, part, s.pages[part.index()], end, cache.pages(part))?;
        }
    }
    Ok(())
}

/// The tokens of all draft rows, slice by slice.
fn collect_tokens(step: &Step<'_>, drafts: &[Draft], tokens: &mut Vec<u32>) {
    tokens.clear();
    for (slice, draft) in step.slices.iter().zip(drafts).filter(|(_, d)| d.kept > 0) {
        tokens.extend_from_slice(&slice.tokens[1..draft.kept]);
        tokens.extend(draft.next);
    }
}

/// The draft rows of each slice that has some.
fn written<'a>(step: &Step<'a>, drafts: &[Draft], tokens: &'a [u32]) -> Vec<Slice<'a>> {
    let mut rest = tokens;
    let rows = step.slices.iter().zip(drafts).filter(|(_, draft)| draft.rows() > 0);
    rows.map(|(slice, draft)| {
        let (tokens, others) = rest.split_at(draft.rows());
        rest = others;
        Slice { tokens, start: slice.start + 1, pages: slice.pages, logits: draft.logits, attention: slice.attention }
    })
    .collect()
}

/// Computes the layer's input and writes its rows to the cache.
fn write(
    layer: &Layer<'_>,
    (step, drafts): (&Step<'_>, &[Draft]),
    join: &Join,
    cache: &mut Cache,
    ws: &mut Workspace,
) -> Result<(), ForwardError> {
    let (model, batch) = (layer.model, layer.batch);
    for slice in step.slices.iter().zip(drafts).filter(|(s, d)| s.start == 0 && d.kept > 0).map(|(s, _)| s) {
        attention::write_nothing(layer, slice, cache, ws);
    }
    ws.begin(batch.slices);
    if batch.rows == 0 {
        return Ok(());
    }
    embed(model, batch, ws)?;
    angles(model, batch, ws);
    let (width, eps, n) = (model.config.hidden, model.config.rms_eps, batch.rows * model.config.hidden);
    let mut both = std::mem::take(&mut ws.join);
    let mut rows = both.chunks_exact_mut(2 * width).zip(ws.x.chunks_exact(width));
    let mut first = 0;
    for (slice, draft) in step.slices.iter().zip(drafts) {
        let hidden = ws.hidden[first * width..].chunks_exact(width).take(draft.rows());
        first += slice.tokens.len();
        // Hidden rows come first, or the end of a slice would cost one of `rows`.
        for (h, (both, x)) in hidden.zip(rows.by_ref()) {
            rms_norm(x, &join.embedding_norm, eps, &mut both[..width]);
            rms_norm(h, &join.hidden_norm, eps, &mut both[width..]);
        }
    }
    linear(&model.ctx, &join.both, &both[..2 * n], &mut ws.x[..n]);
    ws.join = both;
    let weights = &model.weights.layers[layer.number];
    rms_norm(&ws.x[..n], &weights.input_norm, eps, &mut ws.normed[..n]);
    attention::write(layer, &weights.attention, cache, ws, &mut OnLayer(&mut |_, _| {}));
    Ok(())
}

/// Computes the rows whose logits are wanted to their end.
fn read(layer: &Layer<'_>, join: &Join, cache: &mut Cache, ws: &mut Workspace) {
    let model = layer.model;
    let (width, eps) = (model.config.hidden, model.config.rms_eps);
    let mut slices = Vec::with_capacity(layer.batch.slices.len());
    let mut rows = 0;
    for (_, first, slice) in layer.batch.iter() {
        let wanted = slice.logits.rows(slice.tokens.len());
        if wanted == 0 {
            continue;
        }
        let left_out = slice.tokens.len() - wanted;
        let from = (first + left_out) * width..(first + slice.tokens.len()) * width;
        ws.x.copy_within(from.clone(), rows * width);
        ws.normed.copy_within(from, rows * width);
        rows += wanted;
        let start = slice.start + left_out as u32;
        slices.push(Slice { tokens: &slice.tokens[left_out..], start, logits: Logits::All, ..slice.clone() });
    }
    let batch = Batch { slices: &slices, rows };
    ws.begin(&slices);
    if rows == 0 {
        return;
    }
    angles(model, &batch, ws);
    finish_layer(&Layer { batch: &batch, ..*layer }, cache, ws, &mut OnLayer(&mut |_, _| {}));
    let n = rows * width;
    rms_norm(&ws.x[..n], &join.norm, eps, &mut ws.normed[..n]);
    let normed = std::mem::take(&mut ws.normed);
    linear(&model.ctx, &model.weights.head, &normed[..n], ws.logits_mut());
    ws.normed = normed;
}
