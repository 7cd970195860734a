//! Multi-head latent attention in the absorbed form, the one form for every length.

use hadal_kernels::{
    AttentionRows, AttentionShape, Keys, Paged, Product, RopeLayout, linear, linear_many, mla_attention, rms_norm, rope,
};
use hadal_types::{Attention as Kind, Part, StoreId};

use super::{Layer, indexer, slot};
use crate::cache::Cache;
use crate::config::LayerChoice;
use crate::geometry::latent_codec;
use crate::probe::{Probe, Stage};
use crate::step::Slice;
use crate::weights::{Attention, Query};
use crate::workspace::{MlaBuffers, Workspace};

/// The latents' norms use this epsilon whatever `rms_norm_eps` says, as DeepSeek's code and transformers do.
const LATENT_EPS: f32 = 1e-6;

/// Reads `normed` and writes the step's rows, of every part, to the cache.
pub(super) fn write(
    layer: &Layer<'_>,
    weights: &Attention,
    cache: &mut Cache,
    ws: &mut Workspace,
    probe: &mut dyn Probe,
) {
    encode(layer, weights, cache, ws);
    probe.computed(Stage::Latents);
    if let Some(indexer) = &weights.indexer {
        indexer::write(layer, indexer, cache, ws);
        probe.computed(Stage::IndexKeys);
    }
}

/// Writes zeros to the first slot of a sequence, which the draft layer has no row for.
pub(super) fn write_nothing(layer: &Layer<'_>, slice: &Slice<'_>, cache: &mut Cache, ws: &mut Workspace) {
    let (model, config) = (layer.model, &layer.model.config);
    let nothing = &mut ws.mla.row[..config.latent_dim()];
    nothing.fill(0.0);
    let (latent, turned) = nothing.split_at(config.kv_rank);
    let pool = &mut cache.pools[latent_store(layer).0 as usize];
    let (page, slot) = slot(slice, Part::Latent, 0, pool.page_bytes);
    latent_codec(config, model.kv).encode(&mut pool.bytes[page..page + pool.page_bytes], slot, latent, turned);
    indexer::write_nothing(layer, slice, cache, ws);
}

/// Reads `normed` and the cache, in which the rows are, and leaves the block's answer in `answer`.
pub(super) fn read(layer: &Layer<'_>, weights: &Attention, cache: &Cache, ws: &mut Workspace, probe: &mut dyn Probe) {
    let (ctx, config, rows) = (&layer.model.ctx, &layer.model.config, layer.batch.rows);
    let normed = &ws.normed[..rows * config.hidden];
    queries(layer, weights, normed, &mut ws.mla);
    rotate_queries(layer, &mut ws.mla, (&ws.cos, &ws.sin));
    probe.computed(Stage::Queries);
    absorb(layer, weights, &mut ws.mla);
    probe.computed(Stage::Absorb);
    if let Some(indexer) = &weights.indexer {
        indexer::choose(layer, indexer, cache, ws, probe);
    }
    attend(layer, cache, ws);
    probe.computed(Stage::Attention);
    unabsorb(layer, weights, &mut ws.mla);
    probe.computed(Stage::Values);
    let values = &ws.mla.values[..rows * config.heads * config.v_dim];
    linear(ctx, &weights.output, values, &mut ws.answer[..rows * config.hidden]);
    probe.computed(Stage::Output);
}

fn queries(layer: &Layer<'_>, weights: &Attention, x: &[f32], b: &mut MlaBuffers) {
    let (ctx, config, rows) = (&layer.model.ctx, &layer.model.config, layer.batch.rows);
    let q = &mut b.q[..rows * config.heads * (config.nope + config.rope_dim)];
    match &weights.query {
        Query::Direct(w) => linear(ctx, w, x, q),
        Query::Latent { down, norm, up } => {
            let n = rows * norm.len();
            linear(ctx, down, x, &mut b.q_down[..n]);
            rms_norm(&b.q_down[..n], norm, LATENT_EPS, &mut b.q_latent[..n]);
            linear(ctx, up, &b.q_latent[..n], q);
        }
    }
}

/// Rotates the last numbers of each head and puts them behind the room of the absorbed query.
fn rotate_queries(layer: &Layer<'_>, b: &mut MlaBuffers, (cos, sin): (&[f32], &[f32])) {
    let config = &layer.model.config;
    let (heads, nope, turned, rank) = (config.heads, config.nope, config.rope_dim, config.kv_rank);
    let half = turned / 2;
    for row in 0..layer.batch.rows {
        let angles = row * half..(row + 1) * half;
        for head in row * heads..(row + 1) * heads {
            let from = &b.q[head * (nope + turned) + nope..][..turned];
            let to = &mut b.absorbed[head * (rank + turned) + rank..][..turned];
            to.copy_from_slice(from);
            rope(to, &cos[angles.clone()], &sin[angles.clone()], RopeLayout::Interleaved);
        }
    }
}

/// Takes the unrotated part of each head's query into the latent space.
fn absorb(layer: &Layer<'_>, weights: &Attention, b: &mut MlaBuffers) {
    let (config, rows) = (&layer.model.config, layer.batch.rows);
    let (heads, nope, rank) = (config.heads, config.nope, config.kv_rank);
    let (q_width, width) = (nope + config.rope_dim, config.latent_dim());
    for head in 0..heads {
        for row in 0..rows {
            let from = &b.q[(row * heads + head) * q_width..][..nope];
            b.head_in[(head * rows + row) * nope..][..nope].copy_from_slice(from);
        }
    }
    by_head(layer, &weights.key, b);
    for head in 0..heads {
        for row in 0..rows {
            let from = &b.head_out[(head * rows + row) * rank..][..rank];
            b.absorbed[(row * heads + head) * width..][..rank].copy_from_slice(from);
        }
    }
}

/// Takes each head's attended latent out of the latent space.
fn unabsorb(layer: &Layer<'_>, weights: &Attention, b: &mut MlaBuffers) {
    let (config, rows) = (&layer.model.config, layer.batch.rows);
    let (heads, rank, v) = (config.heads, config.kv_rank, config.v_dim);
    for head in 0..heads {
        for row in 0..rows {
            let from = &b.attended[(row * heads + head) * rank..][..rank];
            b.head_in[(head * rows + row) * rank..][..rank].copy_from_slice(from);
        }
    }
    by_head(layer, &weights.value, b);
    for head in 0..heads {
        for row in 0..rows {
            let from = &b.head_out[(head * rows + row) * v..][..v];
            b.values[(row * heads + head) * v..][..v].copy_from_slice(from);
        }
    }
}

/// One product for each head, from [heads, rows, k] to [heads, rows, n].
fn by_head(layer: &Layer<'_>, weights: &[hadal_kernels::Linear], b: &mut MlaBuffers) {
    let rows = layer.batch.rows;
    let Some(first) = weights.first() else { return };
    let (from, to) = (rows * first.k(), rows * first.n());
    let inputs = b.head_in.chunks_exact(from);
    let outputs = b.head_out.chunks_exact_mut(to);
    let mut products: Vec<Product<'_>> =
        weights.iter().zip(inputs).zip(outputs).map(|((w, x), out)| Product { w, x, out }).collect();
    linear_many(&layer.model.ctx, &mut products);
}

/// Computes the step's latent rows and writes them to their pages.
fn encode(layer: &Layer<'_>, weights: &Attention, cache: &mut Cache, ws: &mut Workspace) {
    let (model, config, rows) = (layer.model, &layer.model.config, layer.batch.rows);
    let (rank, width, half) = (config.kv_rank, config.latent_dim(), config.rope_dim / 2);
    linear(&model.ctx, &weights.latent, &ws.normed[..rows * config.hidden], &mut ws.mla.row[..rows * width]);
    let codec = latent_codec(config, model.kv);
    let pool = &mut cache.pools[latent_store(layer).0 as usize];
    for (_, first, slice) in layer.batch.iter() {
        for (row, position) in (first..first + slice.tokens.len()).zip(slice.start..) {
            let (raw, turned) = ws.mla.row[row * width..(row + 1) * width].split_at_mut(rank);
            let latent = &mut ws.mla.latent[row * rank..(row + 1) * rank];
            rms_norm(raw, &weights.latent_norm, LATENT_EPS, latent);
            let angles = row * half..(row + 1) * half;
            rope(turned, &ws.cos[angles.clone()], &ws.sin[angles], RopeLayout::Interleaved);
            let (page, slot) = slot(slice, Part::Latent, position, pool.page_bytes);
            codec.encode(&mut pool.bytes[page..page + pool.page_bytes], slot, latent, turned);
        }
    }
}

fn attend(layer: &Layer<'_>, cache: &Cache, ws: &mut Workspace) {
    let (model, config) = (layer.model, &layer.model.config);
    let pool = &cache.pools[latent_store(layer).0 as usize];
    let all = config.layers[layer.number].choice == LayerChoice::All;
    let sequences: Vec<AttentionRows<'_>> = layer
        .batch
        .iter()
        .filter_map(|(_, first, slice)| {
            // Pages were checked before the first layer, so that none is missing here.
            let cache = Paged::new(&pool.bytes, pool.page_bytes, slice.pages[Part::Latent.index()]).ok()?;
            let dense = all || slice.attention == Kind::Dense;
            let keys = if dense { Keys::All } else { Keys::Chosen { choice: &ws.choice, first } };
            Some(AttentionRows {
                cache,
                start: slice.start,
                rows: slice.tokens.len(),
                from: layer.first_position(),
                keys,
            })
        })
        .collect();
    let shape =
        AttentionShape { codec: latent_codec(config, model.kv), heads: config.heads, scale: config.attention_scale() };
    let rows = layer.batch.rows * config.heads;
    let q = &ws.mla.absorbed[..rows * config.latent_dim()];
    mla_attention(&model.ctx, &shape, &sequences, q, &mut ws.mla.attended[..rows * config.kv_rank]);
}

/// The latent store that a layer owns and reads.
fn latent_store(layer: &Layer<'_>) -> StoreId {
    layer.model.geometry.layers[layer.number].reads.first().map_or(StoreId(0), |r| r.store)
}
