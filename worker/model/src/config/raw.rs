//! The keys of `config.json` as they are published, before they are understood.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{ConfigError, Indexer, Moe, Quantization, Scoring, check};
use crate::arch::Architecture;

/// Keys that Hadal reads. Absent and null are the same; others are ignored.
#[derive(Debug, Deserialize)]
pub(crate) struct Raw {
    pub(crate) model_type: Option<String>,
    pub(crate) architectures: Option<Vec<String>>,
    pub(crate) vocab_size: Option<usize>,
    pub(crate) hidden_size: Option<usize>,
    pub(crate) hidden_act: Option<String>,
    pub(crate) num_hidden_layers: Option<usize>,
    pub(crate) num_nextn_predict_layers: Option<usize>,
    pub(crate) num_attention_heads: Option<usize>,
    pub(crate) attention_bias: Option<bool>,
    pub(crate) q_lora_rank: Option<usize>,
    pub(crate) kv_lora_rank: Option<usize>,
    pub(crate) qk_nope_head_dim: Option<usize>,
    pub(crate) qk_rope_head_dim: Option<usize>,
    pub(crate) v_head_dim: Option<usize>,
    pub(crate) intermediate_size: Option<usize>,
    pub(crate) moe_intermediate_size: Option<usize>,
    pub(crate) n_routed_experts: Option<usize>,
    pub(crate) n_shared_experts: Option<usize>,
    pub(crate) num_experts_per_tok: Option<usize>,
    pub(crate) n_group: Option<usize>,
    pub(crate) topk_group: Option<usize>,
    pub(crate) topk_method: Option<String>,
    pub(crate) scoring_func: Option<String>,
    pub(crate) norm_topk_prob: Option<bool>,
    pub(crate) routed_scaling_factor: Option<f32>,
    pub(crate) first_k_dense_replace: Option<usize>,
    pub(crate) moe_layer_freq: Option<usize>,
    pub(crate) mlp_layer_types: Option<Vec<String>>,
    pub(crate) index_n_heads: Option<usize>,
    pub(crate) index_head_dim: Option<usize>,
    pub(crate) index_topk: Option<usize>,
    pub(crate) index_topk_freq: Option<usize>,
    pub(crate) index_skip_topk_offset: Option<usize>,
    pub(crate) indexer_types: Option<Vec<String>>,
    pub(crate) indexer_rope_interleave: Option<bool>,
    pub(crate) rope_interleave: Option<bool>,
    pub(crate) rms_norm_eps: Option<f32>,
    pub(crate) max_position_embeddings: Option<u32>,
    pub(crate) rope_theta: Option<f64>,
    pub(crate) rope_scaling: Option<RawRope>,
    pub(crate) rope_parameters: Option<RawRope>,
    pub(crate) tie_word_embeddings: Option<bool>,
    quantization_config: Option<RawQuantization>,
}

/// `rope_scaling` or `rope_parameters`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct RawRope {
    pub(crate) rope_theta: Option<f64>,
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) rope_type: Option<String>,
    pub(crate) factor: Option<f64>,
    pub(crate) original_max_position_embeddings: Option<f64>,
    pub(crate) beta_fast: Option<f64>,
    pub(crate) beta_slow: Option<f64>,
    pub(crate) mscale: Option<f64>,
    pub(crate) mscale_all_dim: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct RawQuantization {
    quant_method: Option<String>,
    fmt: Option<String>,
    weight_block_size: Option<Vec<usize>>,
}

impl Raw {
    /// Reads a configuration.
    ///
    /// # Errors
    /// When it is no JSON object, or a key has a value of another type; names the key.
    pub(super) fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        serde_json::from_slice(json).map_err(|whole| {
            // serde tells where a wrong value stands and not what it is called: the key is found by reading each alone.
            let keys: Map<String, Value> = serde_json::from_slice(json).unwrap_or_default();
            let wrong = keys.into_iter().find_map(|(key, value)| {
                let alone = Value::Object(Map::from_iter([(key.clone(), value)]));
                serde_json::from_value::<Self>(alone).err().map(|error| format!("{key}: {error}"))
            });
            ConfigError::Json(wrong.unwrap_or_else(|| whole.to_string()))
        })
    }

    /// A key that must be there.
    pub(crate) fn need<T>(
        &self,
        key: &'static str,
        value: Option<T>,
        architecture: &Architecture,
    ) -> Result<T, ConfigError> {
        value.ok_or(ConfigError::MissingKey { key, architecture: architecture.name })
    }

    /// The experts; none where the configuration has none.
    pub(super) fn moe(&self, architecture: &Architecture) -> Result<Option<Moe>, ConfigError> {
        self.check_fixed()?;
        let Some(experts) = self.n_routed_experts else { return Ok(None) };
        let defaults = &architecture.gate;
        let method = self.topk_method.as_deref().unwrap_or(defaults.method);
        check(
            "topk_method",
            method,
            defaults.methods.contains(&method),
            format!("one of {}", defaults.methods.join(", ")),
        )?;
        let scoring = match self.scoring_func.as_deref() {
            None => defaults.scoring,
            Some("sigmoid") => Scoring::Sigmoid,
            Some("softmax") => Scoring::Softmax,
            Some(other) => return Err(value("scoring_func", other, "sigmoid or softmax")),
        };
        let moe = Moe {
            experts,
            experts_per_token: self.need("num_experts_per_tok", self.num_experts_per_tok, architecture)?,
            shared: self.n_shared_experts.unwrap_or(0),
            width: self.need("moe_intermediate_size", self.moe_intermediate_size, architecture)?,
            groups: if method == "greedy" { 1 } else { self.n_group.unwrap_or(1).max(1) },
            groups_kept: if method == "greedy" { 1 } else { self.topk_group.unwrap_or(1) },
            scoring,
            bias: method == "noaux_tc",
            normalise: self.norm_topk_prob.unwrap_or(defaults.normalise),
            scale: self.routed_scaling_factor.unwrap_or(1.0),
        };
        check_moe(&moe)?;
        Ok(Some(moe))
    }

    /// Values of keys for which there is one right one.
    fn check_fixed(&self) -> Result<(), ConfigError> {
        let act = self.hidden_act.as_deref().unwrap_or("silu");
        check("hidden_act", act, act == "silu", "silu")?;
        check("attention_bias", "true", !self.attention_bias.unwrap_or(false), "false")?;
        check("rope_interleave", "false", self.rope_interleave.unwrap_or(true), "true")
    }

    pub(super) fn indexer(&self, architecture: &Architecture) -> Result<Indexer, ConfigError> {
        Ok(Indexer {
            heads: self.need("index_n_heads", self.index_n_heads, architecture)?,
            dim: self.need("index_head_dim", self.index_head_dim, architecture)?,
            topk: self.need("index_topk", self.index_topk, architecture)?,
            interleaved: self.indexer_rope_interleave.unwrap_or(false),
        })
    }

    /// Which of the main layers are mixtures of experts.
    pub(super) fn sparse_layers(&self, main: usize, moe: bool) -> Result<Vec<bool>, ConfigError> {
        let expected = || format!("{main} of \"dense\" and \"sparse\"");
        if let Some(types) = &self.mlp_layer_types {
            check("mlp_layer_types", format!("a list of {}", types.len()), types.len() == main, expected())?;
            let known = types.iter().find(|t| !["dense", "sparse"].contains(&t.as_str()));
            if let Some(other) = known {
                return Err(value("mlp_layer_types", other, expected()));
            }
            let sparse = types.iter().any(|t| t == "sparse");
            check("n_routed_experts", "missing", moe || !sparse, "given, as mlp_layer_types has sparse layers")?;
            return Ok(types.iter().map(|t| t == "sparse").collect());
        }
        let frequency = self.moe_layer_freq.unwrap_or(1);
        check("moe_layer_freq", frequency, frequency > 0, "at least 1")?;
        let first = self.first_k_dense_replace.unwrap_or(0);
        Ok((0..main).map(|layer| moe && layer >= first && layer % frequency == 0).collect())
    }

    pub(super) fn quantization(&self) -> Result<Option<Quantization>, ConfigError> {
        let Some(raw) = &self.quantization_config else { return Ok(None) };
        let method = raw.quant_method.as_deref().unwrap_or("fp8");
        check("quantization_config.quant_method", method, method == "fp8", "fp8")?;
        let format = raw.fmt.as_deref().unwrap_or("e4m3");
        check("quantization_config.fmt", format, format == "e4m3", "e4m3")?;
        match raw.weight_block_size.as_deref().unwrap_or(&[128, 128]) {
            &[rows, columns] if rows > 0 && columns > 0 => Ok(Some(Quantization { block: [rows, columns] })),
            other => Err(value("quantization_config.weight_block_size", format!("{other:?}"), "two sizes above 0")),
        }
    }
}

fn check_moe(moe: &Moe) -> Result<(), ConfigError> {
    let Moe { experts, experts_per_token, groups, groups_kept, .. } = *moe;
    check("n_routed_experts", experts, (1..=1 << 12).contains(&experts), "between 1 and 4096")?;
    check("n_shared_experts", moe.shared, moe.shared <= 64, "at most 64")?;
    check("moe_intermediate_size", moe.width, (1..=1 << 18).contains(&moe.width), "between 1 and 262144")?;
    check("n_group", groups, experts % groups == 0, "a divisor of n_routed_experts")?;
    check("topk_group", groups_kept, (1..=groups).contains(&groups_kept), "between 1 and n_group")?;
    let most = groups_kept * (experts / groups);
    let expected = format!("between 1 and {most}, the experts of the groups kept");
    check("num_experts_per_tok", experts_per_token, (1..=most).contains(&experts_per_token), expected)?;
    let two = !moe.bias || groups == 1 || experts / groups >= 2;
    check("n_group", groups, two, "such that a group has two experts, by which noaux_tc ranks it")?;
    // DeepSeek's V2 code and transformers' disagree here, and no published model says which is right.
    let known = moe.scoring == Scoring::Sigmoid || !moe.normalise;
    check("norm_topk_prob", moe.normalise, known, "false with a softmax gate")
}

fn value(key: &'static str, found: impl ToString, expected: impl Into<String>) -> ConfigError {
    ConfigError::Value { key, found: found.to_string(), expected: expected.into() }
}
