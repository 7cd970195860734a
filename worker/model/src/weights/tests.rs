//! Checkpoints whose tensors are not what their configuration promises.

use hadal_types::{Dtype, KvEncoding};
use serde_json::{Map, Value, json};

use super::*;
use crate::model::Model;
use crate::testing::golden;

/// A golden checkpoint as one header and its data, to be damaged by a test.
struct Checkpoint {
    config: Value,
    header: Map<String, Value>,
    data: Vec<u8>,
}

impl Checkpoint {
    fn read(name: &str) -> Self {
        let files = Files::open(&golden(name)).unwrap();
        let (mut header, mut data) = (Map::new(), Vec::new());
        for t in files.tensors() {
            let offsets = [data.len(), data.len() + t.bytes.len()];
            data.extend(t.bytes);
            header
                .insert(t.name.to_owned(), json!({"dtype": t.dtype.name(), "shape": t.shape, "data_offsets": offsets}));
        }
        let config = serde_json::from_slice(&files.small_file("config.json").unwrap().bytes).unwrap();
        Self { config, header, data }
    }

    fn load(&self) -> Result<Model, LoadError> {
        let header = serde_json::to_vec(&self.header).unwrap();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header);
        file.extend(&self.data);
        let config = serde_json::to_vec(&self.config).unwrap();
        let files = Files::embedded(&[
            ("config.json", config.leak()),
            ("tokenizer.json", b"{}"),
            ("model.safetensors", file.leak()),
        ]);
        let options = LoadOptions {
            dtype: Dtype::F32,
            kv: KvEncoding::F32,
            path: hadal_kernels::Path::Portable,
            drafts: true,
            pool: None,
            progress: &|_| {},
        };
        Model::load(&files.unwrap(), &options)
    }

    #[track_caller]
    fn refused(&self, parts: &[&str]) {
        let Err(error) = self.load() else { panic!("a damaged checkpoint loaded") };
        for part in parts {
            assert!(error.to_string().contains(part), "{part:?} is not in {error}");
        }
    }
}

const EXPERT: &str = "model.layers.2.mlp.experts.7.up_proj.weight";
const NORM: &str = "model.layers.1.self_attn.kv_a_layernorm.weight";

#[test]
fn a_missing_tensor_is_named() {
    let mut checkpoint = Checkpoint::read("deepseek_v32");
    checkpoint.header.remove(EXPERT);
    checkpoint.refused(&[EXPERT, "missing", "deepseek_v32"]);
}

#[test]
fn a_wrong_shape_is_named_with_both_shapes() {
    let mut checkpoint = Checkpoint::read("deepseek_v32");
    checkpoint.header[EXPERT]["shape"] = json!([64, 256]);
    checkpoint.refused(&[EXPERT, "[64, 256]", "[128, 128]"]);
    checkpoint.header[EXPERT]["shape"] = json!([128, 128, 1]);
    checkpoint.refused(&[EXPERT, "[128, 128, 1]"]);
}

#[test]
fn a_configuration_of_another_size_is_told_by_its_first_tensor() {
    let mut checkpoint = Checkpoint::read("deepseek_v32");
    checkpoint.config["vocab_size"] = json!(513);
    checkpoint.refused(&["model.embed_tokens.weight", "[512, 128]", "[513, 128]"]);
}

#[test]
fn a_wrong_type_is_named_with_those_allowed() {
    let mut checkpoint = Checkpoint::read("deepseek_v32");
    checkpoint.header[NORM]["dtype"] = json!("U16");
    checkpoint.refused(&[NORM, "a type that Hadal does not read", "BF16, F32 or F16"]);
}

#[test]
fn fp8_weights_need_scales_and_a_configuration_of_them() {
    let scale = format!("{EXPERT}_scale_inv");
    let mut checkpoint = Checkpoint::read("deepseek_v32-fp8");
    let kept = checkpoint.header.remove(&scale).unwrap();
    checkpoint.refused(&[&scale, "missing"]);
    checkpoint.header.insert(scale.clone(), kept);
    checkpoint.header[&scale]["shape"] = json!([1]);
    checkpoint.refused(&[&scale, "[1]", "[1, 1]"]);
    let mut checkpoint = Checkpoint::read("deepseek_v32-fp8");
    checkpoint.config["quantization_config"] = Value::Null;
    checkpoint.refused(&["F8_E4M3", "quantization_config"]);
}

#[test]
fn a_damaged_fp8_code_is_refused_by_the_tensors_name() {
    let mut checkpoint = Checkpoint::read("deepseek_v32-fp8");
    let begin = checkpoint.header[EXPERT]["data_offsets"][0].as_u64().unwrap() as usize;
    checkpoint.data[begin + 100] = 0x7f;
    checkpoint.refused(&[EXPERT]);
}

#[test]
fn a_checkpoint_without_its_draft_layer_loads() {
    let mut checkpoint = Checkpoint::read("deepseek_v32");
    checkpoint.header.retain(|name, _| !name.starts_with("model.layers.4."));
    let model = checkpoint.load().unwrap();
    assert!(!model.drafts());
    assert_eq!(model.geometry().layers.len(), 4);
}

#[test]
fn a_tied_head_is_the_embedding() {
    let mut checkpoint = Checkpoint::read("deepseek_v32");
    checkpoint.header.remove("lm_head.weight");
    checkpoint.refused(&["lm_head.weight"]);
    checkpoint.config["tie_word_embeddings"] = json!(true);
    checkpoint.load().unwrap();
}
