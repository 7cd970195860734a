//! One layer of DeepSeek-V3.2 as a configuration of its own: real sizes, and as many experts as one worker of an
//! expert-parallel group of sixteen holds.

use serde_json::{Value, json};

/// Layers of the whole model, for costs of it: the first three have an MLP as wide as nine experts, and so cost the same.
pub(super) const MODEL_LAYERS: usize = 61;

/// The sizes of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) q_rank: usize,
    pub(super) kv_rank: usize,
    pub(super) nope: usize,
    pub(super) rope: usize,
    pub(super) value: usize,
    pub(super) index_heads: usize,
    pub(super) index_dim: usize,
    pub(super) topk: usize,
    /// In eight groups, of which four stay.
    pub(super) experts: usize,
    pub(super) experts_per_token: usize,
    pub(super) expert_width: usize,
}

impl Shape {
    /// Of 256 experts a worker of sixteen holds sixteen, and of the rows of all sixteen it computes what its own rows
    /// make of its own experts here: the same number.
    pub(super) const V32: Shape = Shape {
        hidden: 7168,
        heads: 128,
        q_rank: 1536,
        kv_rank: 512,
        nope: 128,
        rope: 64,
        value: 128,
        index_heads: 64,
        index_dim: 128,
        topk: 2048,
        experts: 16,
        experts_per_token: 8,
        expert_width: 2048,
    };

    /// Small enough for a test.
    pub(super) const QUICK: Shape = Shape {
        hidden: 128,
        heads: 4,
        q_rank: 64,
        kv_rank: 64,
        nope: 32,
        rope: 16,
        value: 32,
        index_heads: 4,
        index_dim: 32,
        topk: 64,
        experts: 16,
        experts_per_token: 8,
        expert_width: 64,
    };

    /// `config.json` of a model of this one layer, with a vocabulary that costs nothing.
    pub(super) fn config(&self) -> Value {
        json!({
            "model_type": "deepseek_v32",
            "vocab_size": 256,
            "hidden_size": self.hidden,
            "num_hidden_layers": 1,
            "first_k_dense_replace": 0,
            "num_attention_heads": self.heads,
            "q_lora_rank": self.q_rank,
            "kv_lora_rank": self.kv_rank,
            "qk_nope_head_dim": self.nope,
            "qk_rope_head_dim": self.rope,
            "v_head_dim": self.value,
            "intermediate_size": 9 * self.expert_width,
            "n_routed_experts": self.experts,
            "n_shared_experts": 1,
            "num_experts_per_tok": self.experts_per_token,
            "moe_intermediate_size": self.expert_width,
            "n_group": 8,
            "topk_group": 4,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "norm_topk_prob": true,
            "routed_scaling_factor": 2.5,
            "index_n_heads": self.index_heads,
            "index_head_dim": self.index_dim,
            "index_topk": self.topk,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": super::CONTEXT_TOKENS,
            "rope_theta": 10_000,
            "rope_scaling": {
                "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
                "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
            },
            "quantization_config": { "quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128] },
        })
    }

    /// Weights of the layer, one byte each.
    pub(super) fn weights(&self) -> usize {
        let Shape { hidden, heads, q_rank, kv_rank, .. } = *self;
        let queries = q_rank * (hidden + heads * (self.nope + self.rope));
        let latents = hidden * (kv_rank + self.rope) + kv_rank * heads * (self.nope + self.value);
        let index = self.index_dim * (q_rank * self.index_heads + hidden);
        let experts = 3 * hidden * self.expert_width * (self.experts + 1);
        queries + latents + heads * self.value * hidden + index + experts
    }

    /// Bytes that a step works in for a row, about.
    pub(super) fn row_bytes(&self) -> usize {
        4 * (self.heads * (6 * self.kv_rank + 3 * (self.nope + self.rope)) + 12 * self.hidden)
    }

    /// Operations of absorbed attention of one query over so many rows.
    pub(super) fn absorbed_operations(&self, rows: usize) -> f64 {
        2.0 * (self.heads * (2 * self.kv_rank + self.rope)) as f64 * rows as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sizes_are_those_of_the_published_model() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/configs/deepseek-v3.2-exp.json");
        let published: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let ours = Shape::V32.config();
        // The vocabulary, the layers and the experts that are resident are this bench's own.
        let own =
            ["vocab_size", "num_hidden_layers", "first_k_dense_replace", "n_routed_experts", "quantization_config"];
        for (key, value) in ours.as_object().unwrap().iter().filter(|(key, _)| !own.contains(&key.as_str())) {
            assert!(value.as_f64().is_none() || value.as_f64() == published[key].as_f64(), "{key}");
            assert!(value.as_f64().is_some() || *value == published[key], "{key}: {value} {}", published[key]);
        }
        assert_eq!(published["num_hidden_layers"], MODEL_LAYERS);
    }
}
