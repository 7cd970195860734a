//! Checkpoints of random weights, made up in memory: for benches, whose figures do not depend on what weights say.
//!
//! Every product keeps the size of its activations, so that nothing overflows and scores are spread; weights are in the
//! types in which a model of that configuration is published. One configuration gives one checkpoint.

use std::path::Path;

use half::bf16;
use serde_json::{Map, json};

use super::map::Bytes;
use super::{Files, OpenError, SINGLE, TensorType};
use crate::config::{Config, Quantization};
use crate::weights::spec::{self, Spec};

/// Uniform numbers in [-1, 1) times this have a variance of 1.
pub(crate) const UNIFORM: f32 = 1.732;
/// What the random codes of e4m3 below have as root of their mean square, about.
const CODES_RMS: f32 = 0.38;

/// A stream of random numbers by Lehmer and Marsaglia, fast rather than good.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self((seed << 1 | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// In [-1, 1).
    pub(crate) fn number(&mut self) -> f32 {
        (self.word() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

impl Files {
    /// Random weights for a `config.json`, without a tokenizer.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn synthetic(config: &[u8]) -> Result<Self, OpenError> {
        let origin = Path::new("(random weights)");
        let parsed =
            Config::parse(config).map_err(|source| OpenError::Config { path: origin.join("config.json"), source })?;
        let mut weights = Some(checkpoint(&parsed));
        Self::read(origin, &mut |name| {
            Ok(match name {
                "config.json" => Some(Bytes::Owned(config.to_vec())),
                "tokenizer.json" => Some(Bytes::Static(b"{}")),
                SINGLE => weights.take().map(Bytes::Owned),
                _ => None,
            })
        })
    }
}

/// A safetensors file.
fn checkpoint(config: &Config) -> Vec<u8> {
    let (mut header, mut data, mut random) = (Map::new(), Vec::new(), Random::new(0));
    let mut add = |name: String, dtype: TensorType, shape: &[usize], bytes: &mut dyn FnMut(&mut Vec<u8>)| {
        let begin = data.len();
        bytes(&mut data);
        let offsets = [begin, data.len()];
        header.insert(name, json!({ "dtype": dtype.name(), "shape": shape, "data_offsets": offsets }));
    };
    for spec in spec::tensors(config) {
        let count = spec.parameters() as usize;
        match (config.quantization, spec.shape.as_slice()) {
            (Some(Quantization { block }), &[n, k]) if spec.quantised => {
                add(spec.name.clone(), TensorType::E4m3, &[n, k], &mut |to| codes(count, &mut random, to));
                let scales = [n.div_ceil(block[0]), k.div_ceil(block[1])];
                let scale = (1.0 / CODES_RMS / (k as f32).sqrt()).to_le_bytes();
                let name = format!("{}_scale_inv", spec.name);
                add(name, TensorType::F32, &scales, &mut |to| to.extend(scale.repeat(scales[0] * scales[1])));
            }
            _ => {
                let dtype = if spec.exact { TensorType::F32 } else { TensorType::Bf16 };
                add(spec.name.clone(), dtype, &spec.shape, &mut |to| numbers(&spec, &mut random, to));
            }
        }
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = Vec::with_capacity(8 + header.len() + data.len());
    file.extend((header.len() as u64).to_le_bytes());
    file.extend(header.as_bytes());
    file.append(&mut data);
    file
}

/// Codes of e4m3 below 1, none of which is NaN.
fn codes(count: usize, random: &mut Random, to: &mut Vec<u8>) {
    let end = to.len() + count;
    to.reserve(count);
    while to.len() < end {
        let word = (random.word() & 0xb7b7_b7b7_b7b7_b7b7).to_le_bytes();
        to.extend(&word[..(end - to.len()).min(8)]);
    }
}

/// Norms are 1, biases 0, an embedding has a variance of 1, and the others that of their inputs' number.
fn numbers(spec: &Spec, random: &mut Random, to: &mut Vec<u8>) {
    let factor = match spec.shape.as_slice() {
        _ if spec.group == spec::Group::Embedding => UNIFORM,
        &[_, k] => UNIFORM / (k as f32).sqrt(),
        _ => 0.0,
    };
    let fixed = if spec.name.ends_with("bias") { 0.0 } else { 1.0 };
    for _ in 0..spec.parameters() {
        let value = if factor > 0.0 { random.number() * factor } else { fixed };
        match spec.exact {
            true => to.extend(value.to_le_bytes()),
            false => to.extend(bf16::from_f32(value).to_le_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::Arc;

    use hadal_types::{Attention, Dtype, KvEncoding, Part};

    use super::*;
    use crate::model::{LoadOptions, Model};
    use crate::probe::{Probe, Stage};
    use crate::step::{Logits, Slice, Step};
    use crate::testing::golden;
    use crate::{Cache, Pool};

    fn config(name: &str) -> Vec<u8> {
        std::fs::read(golden(name).join("config.json")).unwrap()
    }

    fn load(files: &Files) -> Model {
        let pool = Some(Arc::new(Pool::new(NonZeroUsize::new(2)).unwrap()));
        let path = hadal_kernels::Path::detect();
        let options =
            LoadOptions { dtype: Dtype::Bf16, kv: KvEncoding::Bf16, drafts: false, path, pool, progress: &|_| {} };
        Model::load(files, &options).unwrap()
    }

    #[derive(Default)]
    struct Stages(Vec<Stage>);

    impl Probe for Stages {
        fn written(&mut self, _: hadal_types::LayerId, _: &Cache) {}

        fn computed(&mut self, stage: Stage) {
            self.0.push(stage);
        }
    }

    #[test]
    fn every_architecture_loads_and_computes() {
        for name in ["deepseek_v32", "deepseek_v32-fp8", "glm_moe_dsa", "deepseek_v3", "deepseek_v2"] {
            let model = load(&Files::synthetic(&config(name)).unwrap());
            let mut cache = model.new_cache(&Part::ALL.map(|p| (p, 2)));
            cache.fill(&model);
            let mut ws = model.new_workspace(3);
            let slice = Slice {
                tokens: &[4, 5, 6],
                start: 100,
                pages: [&[1, 0], &[1, 0]],
                logits: Logits::All,
                attention: Attention::Sparse,
            };
            let mut stages = Stages::default();
            model.forward_probed(&Step { slices: vec![slice] }, &mut cache, &mut ws, &mut stages).unwrap();
            assert_eq!(ws.failure(0), None, "{name}");
            let logits = ws.logits(0);
            assert!(logits.iter().any(|&l| l != logits[0]) && logits.iter().all(|l| l.is_finite()), "{name}");
            for stage in [Stage::Queries, Stage::Attention, Stage::Output, Stage::Shared, Stage::Rest] {
                assert!(stages.0.contains(&stage), "{name}: {stage:?}");
            }
            assert_eq!(stages.0.contains(&Stage::IndexScan), model.config().indexer.is_some(), "{name}");
        }
    }

    #[test]
    fn one_configuration_is_one_checkpoint() {
        let make = |name| Files::synthetic(&config(name)).unwrap().fingerprint();
        assert_eq!(make("deepseek_v32-fp8"), make("deepseek_v32-fp8"));
        assert_ne!(make("deepseek_v32-fp8"), make("deepseek_v32"));
        assert!(matches!(Files::synthetic(b"{}"), Err(OpenError::Config { .. })));
    }

    #[test]
    fn rows_of_a_filled_cache_differ() {
        let model = load(&Files::synthetic(&config("deepseek_v32")).unwrap());
        let mut cache = model.new_cache(&Part::ALL.map(|p| (p, 3)));
        cache.fill(&model);
        for store in (0..model.geometry().stores.len() as u32).map(hadal_types::StoreId) {
            let mut rows: Vec<Vec<u8>> = Vec::new();
            for page in 0..3 {
                let bytes = cache.page(store, page).unwrap();
                rows.extend(bytes.chunks(bytes.len() / 64).map(<[u8]>::to_vec));
            }
            let count = rows.len();
            rows.sort();
            rows.dedup();
            assert_eq!((rows.len(), count), (192, 192));
        }
    }

    #[test]
    fn products_keep_the_size_of_their_input() {
        let mut random = Random::new(1);
        let n = 10_000;
        let numbers: Vec<f32> = (0..n).map(|_| random.number() * UNIFORM).collect();
        let rms = |values: &[f32]| (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
        assert!((rms(&numbers) - 1.0).abs() < 0.05, "{}", rms(&numbers));
        let mut bytes = Vec::new();
        codes(n, &mut random, &mut bytes);
        let codes: Vec<f32> = bytes.iter().map(|&b| hadal_kernels::number::e4m3_to_f32(b)).collect();
        assert_eq!(codes.len(), n);
        assert!((rms(&codes) / CODES_RMS - 1.0).abs() < 0.1, "{}", rms(&codes));
    }
}
