//! The lightning indexer: writes the step's index keys, and chooses the rows that attention reads, but for slices of
//! dense attention. Their keys are written all the same: a page has its rows in every part.

use hadal_kernels::{
    IndexQueries, IndexRows, IndexShape, NotFinite, Paged, RopeLayout, index_scores, index_select, layer_norm, linear,
    rope,
};
use hadal_types::{Attention, Choice, Part, StoreId};

use super::{Layer, exact, slot};
use crate::cache::{Cache, Pool};
use crate::config::Indexer;
use crate::geometry::index_codec;
use crate::probe::{Probe, Stage};
use crate::step::Slice;
use crate::weights::IndexerWeights;
use crate::workspace::Workspace;

/// Epsilon of the keys' norm, in every model.
const KEY_EPS: f32 = 1e-6;

/// Reads `normed` and writes the step's keys.
pub(super) fn write(layer: &Layer<'_>, weights: &IndexerWeights, cache: &mut Cache, ws: &mut Workspace) {
    if let Some(store) = store_of(layer) {
        encode(layer, weights, &mut cache.pools[store.0 as usize], ws);
    }
}

/// Writes zeros to the first slot of a sequence, if the layer has keys.
pub(super) fn write_nothing(layer: &Layer<'_>, slice: &Slice<'_>, cache: &mut Cache, ws: &mut Workspace) {
    let config = &layer.model.config;
    let (Some(store), Some(indexer)) = (store_of(layer), config.indexer) else { return };
    let key = &mut ws.index.key[..indexer.dim];
    key.fill(0.0);
    let pool = &mut cache.pools[store.0 as usize];
    let (page, slot) = slot(slice, Part::Index, 0, pool.page_bytes);
    index_codec(config, layer.model.kv).encode(&mut pool.bytes[page..page + pool.page_bytes], slot, key);
}

/// The index store of a layer that has an indexer of its own.
fn store_of(layer: &Layer<'_>) -> Option<StoreId> {
    match layer.model.geometry.layers[layer.number].choice {
        Choice::Own { scores, .. } => Some(scores),
        _ => None,
    }
}

/// Reads `normed`, the query latent and the keys; leaves the layer's choice in `choice`.
pub(super) fn choose(
    layer: &Layer<'_>,
    weights: &IndexerWeights,
    cache: &Cache,
    ws: &mut Workspace,
    probe: &mut dyn Probe,
) {
    let (Some(indexer), Some(store)) = (layer.model.config.indexer, store_of(layer)) else { return };
    if !layer.batch.chooses() {
        return;
    }
    project(layer, weights, &indexer, ws);
    probe.computed(Stage::IndexQueries);
    select(layer, &indexer, cache, store, ws);
    probe.computed(Stage::IndexScan);
    if probe.choices() {
        tell(layer, &indexer, &cache.pools[store.0 as usize], ws, probe);
    }
}

/// Gives the choices to a probe. For their margins all scores are computed once more: a choice does not keep them.
fn tell(layer: &Layer<'_>, indexer: &Indexer, pool: &Pool, ws: &Workspace, probe: &mut dyn Probe) {
    let (model, from) = (layer.model, layer.first_position());
    let shape = shape(layer, indexer);
    let margin = |slice: &Slice<'_>, row: usize, start: u32| {
        let keys = Paged::new(&pool.bytes, pool.page_bytes, slice.pages[Part::Index.index()]).ok()?;
        let q = &ws.index.q[row * shape.heads * indexer.dim..][..shape.heads * indexer.dim];
        let queries = IndexQueries { q, w: &ws.index.w[row * shape.heads..][..shape.heads] };
        let scores = index_scores(&model.ctx, &shape, &IndexRows { keys, start, rows: 1, from }, queries);
        Some(ws.choice.margins()[row].gap(&scores))
    };
    for (_, first, slice) in layer.batch.iter().filter(|(_, _, s)| s.attention == Attention::Sparse) {
        for (row, position) in (first..first + slice.tokens.len()).zip(slice.start..) {
            let margin = probe.details().then(|| margin(slice, row, position)).flatten();
            probe.chose(layer.id(), row, ws.choice.row(row), margin);
        }
    }
}

fn shape(layer: &Layer<'_>, indexer: &Indexer) -> IndexShape {
    let codec = index_codec(&layer.model.config, layer.model.kv);
    IndexShape { codec, heads: indexer.heads, k: indexer.topk }
}

/// Queries and the heads' weights, of all rows. Those of dense ones are not used: only comparisons have any, and one
/// product for the whole step is simpler.
fn project(layer: &Layer<'_>, weights: &IndexerWeights, indexer: &Indexer, ws: &mut Workspace) {
    let (model, config, rows) = (layer.model, &layer.model.config, layer.batch.rows);
    let normed = &ws.normed[..rows * config.hidden];
    let latent = &ws.mla.q_latent[..rows * config.q_rank.unwrap_or(0)];
    let q = &mut ws.index.q[..rows * indexer.heads * indexer.dim];
    linear(&model.ctx, &weights.query, latent, q);
    // The rotated part comes first here; in MLA it comes last.
    let (turned, half) = (config.rope_dim, config.rope_dim / 2);
    for (row, heads) in q.chunks_exact_mut(indexer.heads * indexer.dim).enumerate() {
        let angles = row * half..(row + 1) * half;
        for head in heads.chunks_exact_mut(indexer.dim) {
            rope(&mut head[..turned], &ws.cos[angles.clone()], &ws.sin[angles.clone()], rope_layout(indexer));
        }
    }
    let w = &mut ws.index.w[..rows * indexer.heads];
    linear(exact(model), &weights.heads, normed, w);
    let factor = 1.0 / (indexer.heads as f32).sqrt();
    w.iter_mut().for_each(|w| *w *= factor);
}

fn rope_layout(indexer: &Indexer) -> RopeLayout {
    if indexer.interleaved { RopeLayout::Interleaved } else { RopeLayout::Half }
}

/// Computes, norms, rotates and writes the step's keys.
fn encode(layer: &Layer<'_>, weights: &IndexerWeights, pool: &mut Pool, ws: &mut Workspace) {
    let (config, rows) = (&layer.model.config, layer.batch.rows);
    let Some(indexer) = config.indexer else { return };
    let (dim, turned, half) = (indexer.dim, config.rope_dim, config.rope_dim / 2);
    let normed = &ws.normed[..rows * config.hidden];
    linear(&layer.model.ctx, &weights.key, normed, &mut ws.index.key[..rows * dim]);
    let keys = &mut ws.index.key_normed[..rows * dim];
    layer_norm(&ws.index.key[..rows * dim], &weights.key_norm, &weights.key_bias, KEY_EPS, keys);
    let codec = index_codec(config, layer.model.kv);
    for (_, first, slice) in layer.batch.iter() {
        for (row, position) in (first..first + slice.tokens.len()).zip(slice.start..) {
            let key = &mut keys[row * dim..(row + 1) * dim];
            let angles = row * half..(row + 1) * half;
            rope(&mut key[..turned], &ws.cos[angles.clone()], &ws.sin[angles], rope_layout(&indexer));
            let (page, slot) = slot(slice, Part::Index, position, pool.page_bytes);
            codec.encode(&mut pool.bytes[page..page + pool.page_bytes], slot, key);
        }
    }
}

/// Chooses for every row. From the first row of a slice whose scores are not numbers on, its rows are marked, and the
/// choice is made again with these reading the first position only, so that the others are not disturbed. Dense slices,
/// which read no choice, have the same in its place, so that rows of the choice are rows of the step.
fn select(layer: &Layer<'_>, indexer: &Indexer, cache: &Cache, store: StoreId, ws: &mut Workspace) {
    let (model, rows) = (layer.model, layer.batch.rows);
    let pool = &cache.pools[store.0 as usize];
    let shape = shape(layer, indexer);
    let queries =
        IndexQueries { q: &ws.index.q[..rows * indexer.heads * indexer.dim], w: &ws.index.w[..rows * indexer.heads] };
    // Each round marks one slice more, and with all of them marked nothing is scored.
    for _ in 0..=layer.batch.slices.len() {
        let sequences = sequences(layer, pool, &ws.failures);
        match index_select(&model.ctx, &shape, &sequences, queries, &mut ws.choice) {
            Ok(()) => return,
            Err(failure) => layer.batch.mark(failure, &mut ws.failures),
        }
    }
}

fn sequences<'a>(layer: &Layer<'a>, pool: &'a Pool, failures: &[Option<NotFinite>]) -> Vec<IndexRows<'a>> {
    let mut out = Vec::with_capacity(layer.batch.slices.len());
    for (number, first, slice) in layer.batch.iter() {
        let Ok(keys) = Paged::new(&pool.bytes, pool.page_bytes, slice.pages[Part::Index.index()]) else { continue };
        let right = failures[number].as_ref().map_or(slice.tokens.len(), |f| f.row - first);
        let scored = if slice.attention == Attention::Sparse { right } else { 0 };
        if scored > 0 {
            out.push(IndexRows { keys, start: slice.start, rows: scored, from: layer.first_position() });
        }
        let others = slice.tokens.len() - scored;
        out.extend((0..others).map(|_| IndexRows { keys, start: 0, rows: 1, from: 0 }));
    }
    out
}
