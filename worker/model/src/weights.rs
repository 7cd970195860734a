//! Weights in memory: read from a checkpoint, checked, and packed for the kernels as they are encoded.
//!
//! `kv_b_proj` is cut into two products a head, for the absorbed form of MLA: `key` takes a query into the latent
//! space, `value` takes the attended latent out of it.

mod loader;
pub(crate) mod spec;

use hadal_kernels::{Embedding, Expert, Linear};

use crate::config::{Config, LayerChoice};
use crate::files::Files;
use crate::model::LoadOptions;
pub use loader::LoadError;
use loader::Loader;

/// All weights of a model.
pub(crate) struct Weights {
    pub(crate) embedding: Embedding,
    /// Main layers, then draft layers.
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) norm: Vec<f32>,
    pub(crate) head: Linear,
    bytes: u64,
}

/// One layer.
pub(crate) struct LayerWeights {
    pub(crate) input_norm: Vec<f32>,
    pub(crate) attention: Attention,
    pub(crate) post_norm: Vec<f32>,
    pub(crate) mlp: Mlp,
    /// What joins a draft layer to the main model.
    pub(crate) join: Option<Join>,
}

/// Where queries come from.
pub(crate) enum Query {
    /// One projection.
    Direct(Linear),
    /// Through a latent, which the indexer reads too.
    Latent { down: Linear, norm: Vec<f32>, up: Linear },
}

/// MLA, absorbed.
pub(crate) struct Attention {
    pub(crate) query: Query,
    /// To latent and rotated key.
    pub(crate) latent: Linear,
    pub(crate) latent_norm: Vec<f32>,
    /// For each head, [rank, nope].
    pub(crate) key: Vec<Linear>,
    /// For each head, [v_dim, rank].
    pub(crate) value: Vec<Linear>,
    pub(crate) output: Linear,
    pub(crate) indexer: Option<IndexerWeights>,
}

/// The lightning indexer.
pub(crate) struct IndexerWeights {
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) key_norm: Vec<f32>,
    pub(crate) key_bias: Vec<f32>,
    pub(crate) heads: Linear,
}

/// A SwiGLU MLP: dense, shared or one of many.
pub(crate) struct Gated {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Gated {
    /// As the kernels take it.
    pub(crate) fn expert(&self) -> Expert<'_> {
        Expert { gate: &self.gate, up: &self.up, down: &self.down }
    }
}

/// What follows attention.
pub(crate) enum Mlp {
    Dense(Gated),
    Moe { gate: Linear, bias: Option<Vec<f32>>, shared: Option<Gated>, experts: Vec<Gated> },
}

/// How a draft layer's input is made of an embedding and the main model's last hidden row.
pub(crate) struct Join {
    pub(crate) embedding_norm: Vec<f32>,
    pub(crate) hidden_norm: Vec<f32>,
    pub(crate) both: Linear,
    pub(crate) norm: Vec<f32>,
}

impl Weights {
    /// Checks every tensor that the configuration promises, then packs them layer by layer.
    pub(crate) fn load(files: &Files, config: &Config, options: &LoadOptions<'_>) -> Result<Self, LoadError> {
        let loader = Loader::new(files, config, options)?;
        let embedding = loader.embedding("model.embed_tokens.weight")?;
        let head = loader.matrix(if config.tied { "model.embed_tokens.weight" } else { "lm_head.weight" })?;
        let norm = loader.vector("model.norm.weight")?;
        let layers = (0..config.layers.len()).map(|number| {
            let layer = layer(&loader, config, number);
            loader.report();
            layer
        });
        let layers = layers.collect::<Result<_, _>>()?;
        Ok(Self { embedding, layers, norm, head, bytes: loader.packed_bytes() })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn layer(loader: &Loader<'_>, config: &Config, number: usize) -> Result<LayerWeights, LoadError> {
    let plan = config.layers[number];
    let at = |name: &str| format!("model.layers.{number}.{name}");
    let join = || -> Result<Join, LoadError> {
        Ok(Join {
            embedding_norm: loader.vector(&at("enorm.weight"))?,
            hidden_norm: loader.vector(&at("hnorm.weight"))?,
            both: loader.linear(&at("eh_proj"))?,
            norm: loader.vector(&at("shared_head.norm.weight"))?,
        })
    };
    Ok(LayerWeights {
        input_norm: loader.vector(&at("input_layernorm.weight"))?,
        attention: attention(loader, config, &at("self_attn."), plan.choice == LayerChoice::Own)?,
        post_norm: loader.vector(&at("post_attention_layernorm.weight"))?,
        mlp: mlp(loader, config, &at("mlp"), plan.moe)?,
        join: if plan.draft { Some(join()?) } else { None },
    })
}

fn attention(loader: &Loader<'_>, config: &Config, at: &str, indexes: bool) -> Result<Attention, LoadError> {
    let linear = |name: &str| loader.linear(&format!("{at}{name}"));
    let vector = |name: &str| loader.vector(&format!("{at}{name}"));
    let query = match config.q_rank {
        None => Query::Direct(linear("q_proj")?),
        Some(_) => {
            Query::Latent { down: linear("q_a_proj")?, norm: vector("q_a_layernorm.weight")?, up: linear("q_b_proj")? }
        }
    };
    let both = config.nope + config.v_dim;
    let kv_b = |from: usize, to: usize, transposed: bool| {
        let rows = (0..config.heads).map(|head| head * both + from..head * both + to);
        loader.split(&format!("{at}kv_b_proj"), rows, transposed)
    };
    let indexer = || -> Result<IndexerWeights, LoadError> {
        Ok(IndexerWeights {
            query: linear("indexer.wq_b")?,
            key: linear("indexer.wk")?,
            key_norm: vector("indexer.k_norm.weight")?,
            key_bias: vector("indexer.k_norm.bias")?,
            heads: linear("indexer.weights_proj")?,
        })
    };
    Ok(Attention {
        query,
        latent: linear("kv_a_proj_with_mqa")?,
        latent_norm: vector("kv_a_layernorm.weight")?,
        key: kv_b(0, config.nope, true)?,
        value: kv_b(config.nope, both, false)?,
        output: linear("o_proj")?,
        indexer: if indexes && config.indexer.is_some() { Some(indexer()?) } else { None },
    })
}

fn mlp(loader: &Loader<'_>, config: &Config, at: &str, sparse: bool) -> Result<Mlp, LoadError> {
    let gated = |at: &str| -> Result<Gated, LoadError> {
        Ok(Gated {
            gate: loader.linear(&format!("{at}.gate_proj"))?,
            up: loader.linear(&format!("{at}.up_proj"))?,
            down: loader.linear(&format!("{at}.down_proj"))?,
        })
    };
    let Some(moe) = config.moe.as_ref().filter(|_| sparse) else {
        return Ok(Mlp::Dense(gated(at)?));
    };
    let bias = || loader.vector(&format!("{at}.gate.e_score_correction_bias"));
    let experts = (0..moe.experts).map(|e| gated(&format!("{at}.experts.{e}"))).collect::<Result<_, _>>()?;
    Ok(Mlp::Moe {
        gate: loader.linear(&format!("{at}.gate"))?,
        bias: if moe.bias { Some(bias()?) } else { None },
        shared: if moe.shared > 0 { Some(gated(&format!("{at}.shared_experts"))?) } else { None },
        experts,
    })
}

#[cfg(test)]
mod tests;
