//! A checkpoint out of arbitrary bytes, for the fuzz target of the loader and for the tests that run its cases.
//!
//! ```text
//! config.json | SEPARATOR | index of shards, or nothing | SEPARATOR | the one shard
//! ```
//!
//! Whatever the bytes are, opening, describing and loading them ends in a model or in an error that names a file or a
//! tensor, and memory stays within a multiple of the bytes. A model that loads computes a step.

use std::sync::OnceLock;

use hadal_types::{Attention, Dtype, KvEncoding, Part};
use serde_json::{Value, json};

use crate::config::Config;
use crate::describe::{PlanOptions, describe};
use crate::files::{Files, Tensor, TensorType};
use crate::model::{LoadOptions, Model};
use crate::step::{Logits, Slice, Step};
use crate::weights::{LoadError, spec};

const SEPARATOR: &[u8] = b"\n--\n";
/// The shard's name if there is an index, and if there is none.
const SHARD: &str = "shard.safetensors";
const SINGLE: &str = "model.safetensors";
/// More is not given to a step: what a configuration may ask of a workspace is for the machine to decide.
const STEP_BYTES_MAX: u64 = 16 << 20;
/// Tensors that are counted for a description at most; a configuration can promise millions, which takes its time.
const DESCRIBED_MAX: usize = 10_000;

/// Opens, describes and loads a checkpoint, and computes a step with it if it is one.
pub fn loader(bytes: &[u8]) {
    let (config, rest) = cut(bytes);
    let (index, shard) = cut(rest);
    let mut files = vec![("config.json", config), ("tokenizer.json", &b"{}"[..]), (SHARD, shard), (SINGLE, shard)];
    if !index.is_empty() {
        files.push(("model.safetensors.index.json", index));
    }
    match Files::made_up(&files) {
        Ok(files) => opened(&files, bytes.len()),
        Err(error) => {
            let message = error.to_string();
            assert!(message.starts_with("made-up/") && message.contains(": "), "{message:?} names no file");
        }
    }
}

fn cut(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.windows(SEPARATOR.len()).position(|w| w == SEPARATOR) {
        Some(at) => (&bytes[..at], &bytes[at + SEPARATOR.len()..]),
        None => (bytes, &[]),
    }
}

fn opened(files: &Files, turn: usize) {
    files.tensors().for_each(|tensor| check_tensor(&tensor));
    let config = files.config();
    let kv = KvEncoding::ALL[turn / 2 % KvEncoding::ALL.len()];
    if config.layers.len() * config.moe.map_or(1, |m| m.experts) < DESCRIBED_MAX {
        // A plan may well be refused, with a reason.
        let _ = describe(config, &PlanOptions { kv, ..PlanOptions::default() });
    }
    let dtype = [Dtype::F32, Dtype::Bf16][turn % 2];
    match load(files, dtype, kv) {
        Ok(model) => step(&model),
        Err(error) => assert!(error.to_string().contains("tensor "), "{error} names no tensor"),
    }
}

fn load(files: &Files, dtype: Dtype, kv: KvEncoding) -> Result<Model, LoadError> {
    let path = crate::Path::Portable;
    Model::load(files, &LoadOptions { dtype, kv, path, pool: None, drafts: true, progress: &|_| {} })
}

fn check_tensor(tensor: &Tensor<'_>) {
    if let Some(each) = tensor.dtype.bytes() {
        assert_eq!(tensor.bytes.len(), tensor.shape.iter().product::<usize>() * each, "{}", tensor.name);
    }
    let values = tensor.to_f32();
    assert!(values.is_none_or(|v| v.len() == tensor.shape.iter().product::<usize>()), "{}", tensor.name);
}

fn step(model: &Model) {
    const TOKENS: [u32; 3] = [0; 3];
    let pages = |part: Part| model.geometry().page_bytes(part);
    let bytes = model.workspace_bytes(TOKENS.len()) + Part::ALL.map(pages).iter().sum::<u64>();
    if bytes > STEP_BYTES_MAX {
        return;
    }
    let has = |part: Part| model.geometry().parts().contains(part);
    let pages = Part::ALL.map(|part| if has(part) { &[0][..] } else { &[] });
    let slice = Slice { tokens: &TOKENS, start: 0, pages, logits: Logits::Last, attention: Attention::Sparse };
    let mut cache = model.new_cache(&Part::ALL.map(|part| (part, 1)));
    let mut workspace = model.new_workspace(TOKENS.len());
    let computed = model.forward(&Step { slices: vec![slice] }, &mut cache, &mut workspace, &mut |_, _| ());
    if computed.is_ok() && workspace.failure(0).is_none() {
        // They need not be finite: whoever draws a token looks.
        assert_eq!(workspace.logits(0).len(), model.vocab() as usize);
    }
}

/// Whole checkpoints of every architecture, of a few KB each: where a fuzzer begins.
pub fn seeds() -> &'static [Vec<u8>] {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let quantised = json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 8]}});
        let scaled = json!({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}});
        let shared = json!({"indexer_types": ["full", "shared"], "num_nextn_predict_layers": 1});
        [
            seed("deepseek_v32", json!({"num_nextn_predict_layers": 1}), false),
            seed("deepseek_v32", quantised, true),
            seed("glm_moe_dsa", shared, false),
            seed("deepseek_v3", scaled, false),
            seed("deepseek_v2", json!({"q_lora_rank": null, "norm_topk_prob": false, "topk_method": "greedy"}), true),
        ]
        .into_iter()
        .flatten()
        .collect()
    })
}

/// One of them, with an index of shards if `sharded`. None if the configuration is refused, which a test would notice.
fn seed(architecture: &str, changes: Value, sharded: bool) -> Option<Vec<u8>> {
    let mut json = json!({
        "model_type": architecture, "vocab_size": 5, "hidden_size": 8, "intermediate_size": 6,
        "moe_intermediate_size": 4, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
        "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "num_hidden_layers": 2,
        "num_attention_heads": 2, "q_lora_rank": 6, "kv_lora_rank": 8, "qk_nope_head_dim": 4,
        "qk_rope_head_dim": 4, "v_head_dim": 3, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 2,
        "max_position_embeddings": 64, "rope_theta": 10000.0,
    });
    if let (Some(json), Value::Object(changes)) = (json.as_object_mut(), changes) {
        json.extend(changes);
    }
    let json = json.to_string();
    let config = Config::parse(json.as_bytes()).ok()?;
    let (mut header, mut map, mut data) = (serde_json::Map::new(), serde_json::Map::new(), Vec::new());
    let mut put = |name: String, dtype: TensorType, shape: &[usize]| {
        let begin = data.len();
        let numbers = shape.iter().product::<usize>();
        for i in 0..numbers {
            match dtype {
                TensorType::E4m3 => data.push((i % 16) as u8 + 0x30),
                TensorType::F32 => data.extend((0.25 + (i % 3) as f32).to_le_bytes()),
                _ => data.extend(half::bf16::from_f32((i % 7) as f32 - 3.0).to_le_bytes()),
            }
        }
        map.insert(name.clone(), SHARD.into());
        header.insert(name, json!({"dtype": dtype.name(), "shape": shape, "data_offsets": [begin, data.len()]}));
    };
    for spec in spec::tensors(&config) {
        match config.quantization {
            Some(q) if spec.quantised => {
                let scales = [spec.shape[0].div_ceil(q.block[0]), spec.shape[1].div_ceil(q.block[1])];
                put(format!("{}_scale_inv", spec.name), TensorType::F32, &scales);
                put(spec.name, TensorType::E4m3, &spec.shape);
            }
            _ => put(spec.name, if spec.exact { TensorType::F32 } else { TensorType::Bf16 }, &spec.shape),
        }
    }
    let index = if sharded { json!({ "weight_map": map }).to_string() } else { String::new() };
    let header = Value::Object(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    let parts = [json.as_bytes(), SEPARATOR, index.as_bytes(), SEPARATOR, &length, header.as_bytes(), &data];
    Some(parts.concat())
}

#[cfg(test)]
mod tests;
