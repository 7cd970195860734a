//! A real checkpoint: prefill and decode on different workers give the bits of one worker.

use std::sync::Arc;

use hadal_model::{Files, LoadOptions, Model, Path};
use hadal_proto::cluster as w;
use hadal_types::{Dtype, KvEncoding, Role};
use hadal_worker::{Config, Engine};

use crate::setup::{Router, config, is_idle, reference, until, worker};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/deepseek_v32");

async fn a_pair_gives_the_bits_of_one_worker(kv: KvEncoding) {
    let files = Files::open(FOLDER.as_ref()).unwrap();
    let dtype = if kv == KvEncoding::F32 { Dtype::F32 } else { Dtype::Bf16 };
    let options = LoadOptions { dtype, kv, path: Path::detect(), drafts: false, pool: None, progress: &|_| {} };
    let model = Arc::new(Model::load(&files, &options).unwrap());
    let engine = Engine::model(model, &files, "tiny");
    let vocab = engine.info().vocab_tokens;
    let small = |config: Config| Config { kv_tokens: Some(32 * 64), ..config };
    // Another chunk size on each, which must change nothing.
    let alone = worker(small(config(Role::Mixed, "alone")), &engine).await;
    let prefill = worker(Config { step_tokens: 50, ..small(config(Role::Prefill, "p")) }, &engine).await;
    let decode = worker(small(config(Role::Decode, "d")), &engine).await;
    let (one, two) = (Router::new(&alone, &engine), Router::new(&decode, &engine));
    for (number, tokens) in [(1, 66), (2, 150), (3, 257)] {
        let prompt: Vec<u32> = (0..tokens).map(|i| (i * i + 31 * number) % vocab).collect();
        let asked = one.request(&format!("r{number}"), &prompt, 12);
        let expected = one.ask(asked.clone()).await;
        assert_eq!((expected.error.clone(), expected.tokens.len()), (None, 12));
        let answer = two.ask(w::GenerateRequest { prefill: Some(reference(&prefill)), ..asked }).await;
        assert_eq!(answer.started.unwrap().prefill_worker, "p");
        assert_eq!((answer.tokens, answer.logprobs), (expected.tokens, expected.logprobs));
    }
    until("pages come back", || is_idle(&decode) && is_idle(&prefill)).await;
}

#[tokio::test]
async fn with_an_f32_cache() {
    a_pair_gives_the_bits_of_one_worker(KvEncoding::F32).await;
}

#[tokio::test]
async fn with_a_bf16_cache() {
    a_pair_gives_the_bits_of_one_worker(KvEncoding::Bf16).await;
}

#[tokio::test]
async fn with_int8_index_keys() {
    a_pair_gives_the_bits_of_one_worker(KvEncoding::Int8Index).await;
}

#[tokio::test]
async fn with_an_fp8_cache() {
    a_pair_gives_the_bits_of_one_worker(KvEncoding::Fp8).await;
}
