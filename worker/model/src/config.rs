//! `config.json`, parsed and checked: one structure for every architecture of the family.
//!
//! What the architectures have in common is read here; what they do not is in one file each under `arch`.

mod raw;

use crate::arch::{self, Architecture};
use crate::rope::{Rope, RopeError};
pub(crate) use raw::{Raw, RawRope};

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// No JSON, or a key of another type.
    #[error("not a model configuration: {0}")]
    Json(String),
    /// An architecture that Hadal does not have.
    #[error("unknown architecture {found:?}; Hadal serves {supported}")]
    UnknownArchitecture {
        /// `model_type`, or what stood in its place.
        found: String,
        /// Those in the registry.
        supported: String,
    },
    /// A key that must be there.
    #[error("{key} is missing, which {architecture} needs")]
    MissingKey {
        /// The key.
        key: &'static str,
        /// The architecture that needs it.
        architecture: &'static str,
    },
    /// A value that cannot be.
    #[error("{key} is {found}, but must be {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What stands there.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// The rotary embedding.
    #[error(transparent)]
    Rope(#[from] RopeError),
}

/// How the gate turns logits into scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// Each expert by itself (V3 and later).
    Sigmoid,
    /// Over all experts (V2).
    Softmax,
}

/// Experts and how they are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moe {
    /// Routed experts.
    pub experts: usize,
    /// Of which each token takes so many.
    pub experts_per_token: usize,
    /// Experts that every token takes, as one of `shared * width`.
    pub shared: usize,
    /// Width of one expert.
    pub width: usize,
    /// Groups of experts; 1 for none.
    pub groups: usize,
    /// Groups of which a token may take experts.
    pub groups_kept: usize,
    /// Logits to scores.
    pub scoring: Scoring,
    /// Whether a bias ranks the experts, and a group counts by its two best instead of its best (`noaux_tc`).
    pub bias: bool,
    /// Whether weights are normalised to a sum of one.
    pub normalise: bool,
    /// Factor on the weights.
    pub scale: f32,
}

/// The lightning indexer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indexer {
    /// Query heads.
    pub heads: usize,
    /// Numbers of a key.
    pub dim: usize,
    /// Rows chosen.
    pub topk: usize,
    /// Whether RoPE rotates neighbours, as MLA's does, instead of halves.
    pub interleaved: bool,
}

/// How a layer chooses the rows it attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerChoice {
    /// It takes all.
    All,
    /// It has an indexer of its own.
    Own,
    /// It takes what this layer chose.
    Reuse(usize),
}

/// One layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerPlan {
    /// Whether its MLP is a mixture of experts.
    pub moe: bool,
    /// How it chooses rows.
    pub choice: LayerChoice,
    /// Whether it is a draft layer (MTP).
    pub draft: bool,
}

/// Block-fp8 weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// Rows and columns that share a scale.
    pub block: [usize; 2],
}

/// A model's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which architecture.
    pub architecture: &'static Architecture,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the query latent; none where queries are projected at once.
    pub q_rank: Option<usize>,
    /// Width of the KV latent.
    pub kv_rank: usize,
    /// Numbers of a head without position.
    pub nope: usize,
    /// Numbers of a head with position.
    pub rope_dim: usize,
    /// Numbers of a head's value.
    pub v_dim: usize,
    /// Width of a dense MLP.
    pub mlp_width: usize,
    /// The experts, if any layer has them.
    pub moe: Option<Moe>,
    /// The indexer, if any layer has one.
    pub indexer: Option<Indexer>,
    /// Main layers, then draft layers.
    pub layers: Vec<LayerPlan>,
    /// Epsilon of the layers' norms.
    pub rms_eps: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Longest sequence.
    pub context_tokens: u32,
    /// Encoding of the weights, if they are not bf16 or f32.
    pub quantization: Option<Quantization>,
    /// Whether the head is the embedding.
    pub tied: bool,
}

impl Config {
    /// Parses and checks a `config.json`.
    ///
    /// # Errors
    /// Names the key and what is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let raw = Raw::parse(json)?;
        let architecture = arch::find(&raw)?;
        let moe = raw.moe(architecture)?;
        let layers = layer_plans(&raw, architecture, moe.is_some())?;
        let indexes = layers.iter().any(|l| l.choice != LayerChoice::All);
        let config = Self {
            architecture,
            vocab: raw.need("vocab_size", raw.vocab_size, architecture)?,
            hidden: raw.need("hidden_size", raw.hidden_size, architecture)?,
            heads: raw.need("num_attention_heads", raw.num_attention_heads, architecture)?,
            q_rank: raw.q_lora_rank,
            kv_rank: raw.need("kv_lora_rank", raw.kv_lora_rank, architecture)?,
            nope: raw.need("qk_nope_head_dim", raw.qk_nope_head_dim, architecture)?,
            rope_dim: raw.need("qk_rope_head_dim", raw.qk_rope_head_dim, architecture)?,
            v_dim: raw.need("v_head_dim", raw.v_head_dim, architecture)?,
            mlp_width: raw.need("intermediate_size", raw.intermediate_size, architecture)?,
            moe,
            indexer: if indexes { Some(raw.indexer(architecture)?) } else { None },
            layers,
            rms_eps: raw.rms_norm_eps.unwrap_or(1e-6),
            rope: Rope::new(&raw)?,
            context_tokens: raw.need("max_position_embeddings", raw.max_position_embeddings, architecture)?,
            quantization: raw.quantization()?,
            tied: raw.tie_word_embeddings.unwrap_or(false),
        };
        config.validate()?;
        Ok(config)
    }

    /// Layers of the main model.
    pub fn main_layers(&self) -> usize {
        self.layers.iter().filter(|l| !l.draft).count()
    }

    /// Draft layers.
    pub fn draft_layers(&self) -> usize {
        self.layers.len() - self.main_layers()
    }

    /// Numbers of a latent row: latent and rotated key.
    pub fn latent_dim(&self) -> usize {
        self.kv_rank + self.rope_dim
    }

    /// Factor on attention scores.
    pub fn attention_scale(&self) -> f32 {
        let width = (self.nope + self.rope_dim) as f64;
        (self.rope.score_factor / width.sqrt()) as f32
    }

    fn validate(&self) -> Result<(), ConfigError> {
        // No published size comes near these, and with them the bytes of a whole model still fit 64 bits.
        let sizes = [
            ("vocab_size", self.vocab, 1 << 20),
            ("hidden_size", self.hidden, 1 << 18),
            ("num_attention_heads", self.heads, 1 << 12),
            ("q_lora_rank", self.q_rank.unwrap_or(1), 1 << 18),
            ("kv_lora_rank", self.kv_rank, 1 << 18),
            ("qk_nope_head_dim", self.nope, 1 << 13),
            ("qk_rope_head_dim", self.rope_dim, 1 << 13),
            ("v_head_dim", self.v_dim, 1 << 13),
            ("intermediate_size", self.mlp_width, 1 << 18),
        ];
        for (key, n, most) in sizes {
            check(key, n, (1..=most).contains(&n), format!("between 1 and {most}"))?;
        }
        check("qk_rope_head_dim", self.rope_dim, self.rope_dim.is_multiple_of(2), "even")?;
        check("max_position_embeddings", self.context_tokens, self.context_tokens > 0, "at least 1")?;
        check("rms_norm_eps", self.rms_eps, self.rms_eps > 0.0 && self.rms_eps < 0.1, "above 0 and below 0.1")?;
        if let Some(indexer) = &self.indexer {
            check("index_n_heads", indexer.heads, (1..=1024).contains(&indexer.heads), "between 1 and 1024")?;
            let fits = indexer.dim >= self.rope_dim && indexer.dim <= 1024;
            check("index_head_dim", indexer.dim, fits, "at least qk_rope_head_dim and at most 1024")?;
            check("index_topk", indexer.topk, (1..=1 << 20).contains(&indexer.topk), "between 1 and 1048576")?;
            if self.q_rank.is_none() {
                return Err(ConfigError::MissingKey { key: "q_lora_rank", architecture: self.architecture.name });
            }
        }
        Ok(())
    }
}

/// A check with its error.
pub(crate) fn check(
    key: &'static str,
    found: impl ToString,
    ok: bool,
    expected: impl Into<String>,
) -> Result<(), ConfigError> {
    if ok {
        return Ok(());
    }
    Err(ConfigError::Value { key, found: found.to_string(), expected: expected.into() })
}

/// Main layers, then draft layers, which are mixtures with an indexer of their own wherever the model has these.
fn layer_plans(raw: &Raw, architecture: &'static Architecture, moe: bool) -> Result<Vec<LayerPlan>, ConfigError> {
    const LAYERS_MAX: usize = 512;
    let main = raw.need("num_hidden_layers", raw.num_hidden_layers, architecture)?;
    check("num_hidden_layers", main, (1..=LAYERS_MAX).contains(&main), "between 1 and 512")?;
    let drafts = raw.num_nextn_predict_layers.unwrap_or(0);
    check("num_nextn_predict_layers", drafts, drafts <= 8, "at most 8")?;
    let choices = (architecture.choices)(raw, main)?;
    let sparse = raw.sparse_layers(main, moe)?;
    let draft_choice = if choices.contains(&LayerChoice::Own) { LayerChoice::Own } else { LayerChoice::All };
    let mut layers: Vec<LayerPlan> =
        choices.into_iter().zip(sparse).map(|(choice, moe)| LayerPlan { moe, choice, draft: false }).collect();
    layers.resize(main + drafts, LayerPlan { moe, choice: draft_choice, draft: true });
    Ok(layers)
}

#[cfg(test)]
mod tests;
