//! A real checkpoint: prefill and decode on different workers give the bits of one worker, and drafts change none.

use std::sync::Arc;

use hadal_model::{Files, LoadOptions, Model, Path};
use hadal_proto::cluster as w;
use hadal_shell::Shell;
use hadal_types::{Dtype, KvEncoding, Role, SamplingParams};
use hadal_worker::{Config, Engine, start};

use crate::setup::{Answer, Router, config, is_idle, reference, until, worker};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/deepseek_v32");

fn engine(kv: KvEncoding, drafts: bool) -> Engine {
    let files = Files::open(FOLDER.as_ref()).unwrap();
    let dtype = if kv == KvEncoding::F32 { Dtype::F32 } else { Dtype::Bf16 };
    let options = LoadOptions { dtype, kv, path: Path::detect(), drafts, pool: None, progress: &|_| {} };
    Engine::model(Arc::new(Model::load(&files, &options).unwrap()), &files, "tiny")
}

fn small(config: Config) -> Config {
    Config { kv_tokens: Some(32 * 64), ..config }
}

async fn a_pair_gives_the_bits_of_one_worker(kv: KvEncoding, drafts: bool) {
    let engine = engine(kv, drafts);
    let vocab = engine.info().vocab_tokens;
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
    a_pair_gives_the_bits_of_one_worker(KvEncoding::F32, false).await;
}

#[tokio::test]
async fn with_a_bf16_cache() {
    a_pair_gives_the_bits_of_one_worker(KvEncoding::Bf16, true).await;
}

#[tokio::test]
async fn with_int8_index_keys() {
    a_pair_gives_the_bits_of_one_worker(KvEncoding::Int8Index, true).await;
}

#[tokio::test]
async fn with_an_fp8_cache() {
    a_pair_gives_the_bits_of_one_worker(KvEncoding::Fp8, true).await;
}

/// Answers of all at once, so that their rows share steps.
async fn ask_all(router: &Router, prefill: Option<&w::WorkerRef>, asked: &[(Vec<u32>, SamplingParams)]) -> Vec<Answer> {
    let ask = |(i, (prompt, sampling)): (usize, &(Vec<u32>, SamplingParams))| {
        let request = router.request(&format!("r{i}"), prompt, 1);
        router.ask(w::GenerateRequest { sampling: Some(sampling.into()), prefill: prefill.cloned(), ..request })
    };
    let answers = futures_of(asked.iter().enumerate().map(ask)).await;
    assert!(answers.iter().all(|a| a.error.is_none()), "{answers:?}");
    answers
}

/// Waits for all of them, together.
async fn futures_of<T, F: Future<Output = T>>(futures: impl Iterator<Item = F>) -> Vec<T> {
    let mut futures: Vec<_> = futures.map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|context| {
        for (future, value) in futures.iter_mut().filter(|(_, value)| value.is_none()) {
            if let std::task::Poll::Ready(ready) = future.as_mut().poll(context) {
                *value = Some(ready);
            }
        }
        if futures.iter().all(|(_, value)| value.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    futures.into_iter().filter_map(|(_, value)| value).collect()
}

/// Greedy, sampled, penalised; and each once more with what came out first forced, so that drafts of it are right.
fn kinds(vocab: u32, first: &[Answer]) -> Vec<(Vec<u32>, SamplingParams)> {
    let base = SamplingParams { max_tokens: 70, seed: 3, logprobs: Some(2), ..SamplingParams::default() };
    let kinds = [
        SamplingParams { temperature: 0.0, ..base.clone() },
        SamplingParams { top_p: 0.9, top_k: 40, ..base.clone() },
        SamplingParams { temperature: 0.7, repetition_penalty: 1.3, frequency_penalty: 0.4, ..base },
    ];
    let forced: Vec<Vec<u32>> = first.iter().map(|a| a.tokens[..50].to_vec()).collect();
    let prompt = |i: usize| (0..30 + 61 * i as u32).map(|t| (t * t + 77 * i as u32) % vocab).collect();
    let asked = kinds.into_iter().enumerate().map(|(i, kind)| {
        let forced = forced.get(i).cloned().unwrap_or_default();
        (prompt(i), SamplingParams { forced, ..kind })
    });
    asked.collect()
}

#[tokio::test]
async fn drafts_change_neither_tokens_nor_log_probabilities() {
    for &kv in KvEncoding::ALL {
        let (plain, drafting) = (engine(kv, false), engine(kv, true));
        let vocab = plain.info().vocab_tokens;
        let without = worker(small(config(Role::Mixed, "plain")), &plain).await;
        let shell = Shell::local();
        let with = start(small(config(Role::Mixed, "drafting")), drafting.clone(), shell.clone()).await.unwrap();
        let prefill = worker(Config { step_tokens: 50, ..small(config(Role::Prefill, "p")) }, &drafting).await;
        let (plain, drafting) = (Router::new(&without, &plain), Router::new(&with, &drafting));
        let mut expected = Vec::new();
        for _ in 0..2 {
            let asked = kinds(vocab, &expected);
            let mut answers = ask_all(&plain, None, &asked).await;
            let elsewhere = reference(&prefill);
            for prefill in [None, Some(&elsewhere)] {
                let found = ask_all(&drafting, prefill, &asked).await;
                for (found, expected) in found.iter().zip(&answers) {
                    assert_eq!((&found.tokens, &found.logprobs), (&expected.tokens, &expected.logprobs), "{kv}");
                }
            }
            expected.append(&mut answers);
        }
        let text = hadal_shell::metrics::render([&shell.metrics]);
        let drafts = |result: &str| -> f64 {
            let line = format!("hadal_worker_draft_tokens_total{{result=\"{result}\"}} ");
            text.lines().find_map(|l| l.strip_prefix(&line)).unwrap().parse().unwrap()
        };
        assert!(drafts("accepted") >= 75.0 && drafts("refused") > 0.0, "{text}");
        until("pages come back", || is_idle(&with) && is_idle(&prefill)).await;
    }
}
