//! What a model is and needs, from its configuration alone: parameters, cache geometry, memory plan.

mod memory;
mod text;

use std::path::{Path, PathBuf};

use hadal_types::{Geometry, KvEncoding, Part, StoreClass};
use serde::Serialize;

use crate::config::{Config, ConfigError};
use crate::geometry::geometry;
use crate::weights::spec::{Group, Totals};
pub use memory::{MemoryPlan, PlanOptions};

/// Numbers of a model, counted by what they are for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Parameters {
    /// The main model without its indexers.
    pub main: u64,
    /// The indexers of the main model.
    pub indexer: u64,
    /// Draft layers (MTP), without copies of embedding and head.
    pub draft: u64,
    /// What one token is multiplied with in the main model without its indexers. Of the embedding it reads one row, so
    /// that table does not count.
    pub active: u64,
    /// Embedding and head.
    pub vocabulary: u64,
    /// Attention, without indexers.
    pub attention: u64,
    /// Dense MLPs, gates and shared experts.
    pub mlp: u64,
    /// Routed experts.
    pub experts: u64,
}

/// One part of the cache.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartSize {
    /// Its name.
    pub part: &'static str,
    /// Stores, one for each owner layer.
    pub stores: usize,
    /// Bytes of a row of one store.
    pub row_bytes: u64,
    /// Bytes that a token adds over all stores.
    pub token_bytes: f64,
    /// Bytes of a page: one block of every store.
    pub page_bytes: u64,
    /// Bytes for the planned context.
    pub request_bytes: u64,
}

/// What `hadal inspect` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Description {
    /// The architecture.
    pub architecture: &'static str,
    /// Main layers.
    pub layers: usize,
    /// Draft layers (MTP).
    pub draft_layers: usize,
    /// Layers that choose rows by an indexer of their own, of the main model.
    pub indexer_layers: usize,
    /// Rows that such a layer chooses; 0 where every row is read.
    pub index_topk: usize,
    /// Longest sequence, in tokens.
    pub context_tokens: u32,
    /// Size of the vocabulary.
    pub vocab: usize,
    /// Numbers.
    pub parameters: Parameters,
    /// How published weights are encoded.
    pub weights: &'static str,
    /// Encoding of the cache.
    pub kv: KvEncoding,
    /// The parts of the cache, without draft layers.
    pub parts: Vec<PartSize>,
    /// Bytes of a sequence of the planned context that one decode step reads.
    pub step_bytes: u64,
    /// The plan.
    pub memory: MemoryPlan,
    /// Stores and layers, without draft layers.
    pub geometry: Geometry,
}

/// A configuration that cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// Reading failed.
    #[error("{path}: {source}; give a model folder or its config.json")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration is refused.
    #[error("{path}: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ConfigError,
    },
    /// A plan that cannot be.
    #[error("{0}")]
    Plan(String),
}

/// Reads a configuration, given as a folder or as the path of its `config.json`, and describes it.
///
/// # Errors
/// When it cannot be read or is refused, or the plan does not fit the model.
pub fn describe_path(path: &Path, options: &PlanOptions) -> Result<Description, DescribeError> {
    let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    let json = std::fs::read(&path).map_err(|source| DescribeError::Io { path: path.clone(), source })?;
    let config = Config::parse(&json).map_err(|source| DescribeError::Config { path, source })?;
    describe(&config, options)
}

/// Describes a configuration.
///
/// # Errors
/// When the plan does not fit the model: no context, a longer one than the model's, no batch, more members than experts.
pub fn describe(config: &Config, options: &PlanOptions) -> Result<Description, DescribeError> {
    let totals = Totals::of(config);
    let mut main = config.clone();
    main.layers.retain(|l| !l.draft);
    let geometry = geometry(&main, options.kv);
    let memory = memory::plan(config, &totals, &geometry, options)?;
    let indexes = |l: &&crate::config::LayerPlan| !l.draft && l.choice == crate::config::LayerChoice::Own;
    Ok(Description {
        architecture: config.architecture.name,
        layers: config.main_layers(),
        draft_layers: config.draft_layers(),
        indexer_layers: config.layers.iter().filter(indexes).count(),
        index_topk: config.indexer.map_or(0, |i| i.topk),
        context_tokens: config.context_tokens,
        vocab: config.vocab,
        parameters: parameters(config, &totals),
        weights: if config.quantization.is_some() { "fp8 blocks with scales, the rest bf16" } else { "bf16" },
        kv: options.kv,
        parts: parts(&geometry, memory.context_tokens),
        step_bytes: step_bytes(&geometry, memory.context_tokens),
        memory,
        geometry,
    })
}

fn parameters(config: &Config, totals: &Totals) -> Parameters {
    let count = |groups: &[Group]| totals.sum(|group, draft| !draft && groups.contains(&group)).parameters;
    let total = totals.sum(|_, draft| !draft).parameters;
    let experts = count(&[Group::Routed]);
    let (used, all) = config.moe.map_or((0, 1), |m| (m.experts_per_token as u64, m.experts as u64));
    let indexer = count(&[Group::Indexer]);
    Parameters {
        main: total - indexer,
        indexer,
        draft: totals.sum(|_, draft| draft).parameters,
        // Every expert of a model has the same size.
        active: total - indexer - count(&[Group::Embedding]) - experts + experts / all * used,
        vocabulary: count(&[Group::Embedding, Group::Head]),
        attention: count(&[Group::Attention]),
        mlp: count(&[Group::Mlp, Group::Gate, Group::Shared]),
        experts,
    }
}

fn parts(geometry: &Geometry, tokens: u64) -> Vec<PartSize> {
    let blocks = hadal_types::blocks_for(tokens);
    let size = |part: Part| PartSize {
        part: part.name(),
        stores: geometry.stores_of(part).count(),
        row_bytes: geometry.stores_of(part).next().map_or(0, |(_, s)| s.row_bytes()),
        token_bytes: geometry.token_bytes(part),
        page_bytes: geometry.page_bytes(part),
        request_bytes: blocks * geometry.page_bytes(part),
    };
    geometry.parts().iter().map(size).collect()
}

/// Bytes of cache rows that a decode step reads at the end of a sequence: scored stores whole, chosen rows at most k.
fn step_bytes(geometry: &Geometry, tokens: u64) -> u64 {
    use hadal_types::{Choice, Rows};
    let row = |id| geometry.store(id).filter(|s| s.class() == StoreClass::Append).map_or(0, |s| s.row_bytes());
    let chosen = |choice: &Choice| match choice {
        Choice::Own { k, .. } => u64::from(*k),
        Choice::Reuse { layer } => geometry.layers.iter().find(|l| l.id == *layer).map_or(tokens, |l| match l.choice {
            Choice::Own { k, .. } => u64::from(k),
            _ => tokens,
        }),
        Choice::None => tokens,
    };
    let layer = |layer: &hadal_types::Layer| {
        let scored = if let Choice::Own { scores, .. } = layer.choice { tokens * row(scores) } else { 0 };
        let read = layer.reads.iter().map(|r| match r.rows {
            Rows::All => tokens * row(r.store),
            Rows::Chosen => tokens.min(chosen(&layer.choice)) * row(r.store),
        });
        scored + read.sum::<u64>()
    };
    geometry.layers.iter().map(layer).sum()
}

#[cfg(test)]
mod tests;
