//! The cache geometry of a model: which stores its layers own, and which they read.
//!
//! Every layer owns a latent store. A layer that chooses by an indexer of its own also owns an index store; one that
//! reuses a choice, or reads everything, does not. Main layers come first, draft layers last, and so do their stores.

use hadal_kernels::{IndexCodec, LatentCodec};
use hadal_types::{
    Choice, Encoding, Field, Geometry, Keep, KvEncoding, Layer, LayerId, Part, Placement, Read, Rows, Store, StoreId,
};

use crate::config::{Config, LayerChoice};

/// The geometry of a configuration in one encoding, with the draft layers that it has.
pub fn geometry(config: &Config, encoding: KvEncoding) -> Geometry {
    let mut stores = Vec::new();
    let mut layers: Vec<Layer> = Vec::new();
    for (number, plan) in config.layers.iter().enumerate() {
        let owner = LayerId(number as u32);
        let mut own = |part| {
            let (record, placement) = record(config, encoding, part);
            stores.push(Store { owner, part, stride: 1, record, placement, keep: Keep::All });
            StoreId(stores.len() as u32 - 1)
        };
        let choice = match (plan.choice, &config.indexer) {
            (LayerChoice::Own, Some(indexer)) => Choice::Own { scores: own(Part::Index), k: indexer.topk as u32 },
            (LayerChoice::Reuse(of), Some(_)) => Choice::Reuse { layer: LayerId(of as u32) },
            _ => Choice::None,
        };
        let rows = if choice == Choice::None { Rows::All } else { Rows::Chosen };
        let reads = vec![Read { store: own(Part::Latent), rows }];
        layers.push(Layer { id: owner, reads, choice, draft: plan.draft });
    }
    Geometry { layout: layout(config, encoding), stores, layers }
}

/// The encoding of latent rows.
pub(crate) fn latent_codec(config: &Config, encoding: KvEncoding) -> LatentCodec {
    LatentCodec::new(encoding, config.kv_rank, config.rope_dim)
}

/// The encoding of index keys.
pub(crate) fn index_codec(config: &Config, encoding: KvEncoding) -> IndexCodec {
    IndexCodec::new(encoding, config.indexer.map_or(0, |i| i.dim))
}

/// The fields of a row and how rows lie in a page.
fn record(config: &Config, encoding: KvEncoding, part: Part) -> (Vec<Field>, Placement) {
    let (latent, index) = (latent_codec(config, encoding), index_codec(config, encoding));
    match part {
        Part::Latent => (latent.record(), latent.placement()),
        Part::Index => (index.record(), index.placement()),
    }
}

/// The layout's name spells the records out, so that two models or versions whose bytes differ cannot share it. Index
/// keys are stored as they are scored, not rotated by a Hadamard matrix, and scales are exact (amax / 448 of fp8, amax /
/// 127 of int8).
fn layout(config: &Config, encoding: KvEncoding) -> String {
    let part = |part: Part| {
        let (record, placement) = record(config, encoding, part);
        let fields: Vec<String> = record.iter().map(|f| format!("{}{}", encoding_name(f.encoding), f.count)).collect();
        let apart = if placement == Placement::FieldsApart { ".apart" } else { "" };
        format!("-{}.{}{apart}", part.name(), fields.join("."))
    };
    let index = if config.indexer.is_some() { part(Part::Index) } else { String::new() };
    let rounding = match encoding {
        KvEncoding::Fp8 => "-amax448",
        KvEncoding::Int8Index => "-amax127",
        KvEncoding::F32 | KvEncoding::Bf16 => "",
    };
    let drafts = if config.draft_layers() > 0 { "-drafts" } else { "" };
    format!("{encoding}{}{index}{rounding}{drafts}", part(Part::Latent))
}

fn encoding_name(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::F32 => "f32x",
        Encoding::Bf16 => "bf16x",
        Encoding::E4m3 => "e4m3x",
        Encoding::I8 => "i8x",
    }
}

#[cfg(test)]
mod tests;
