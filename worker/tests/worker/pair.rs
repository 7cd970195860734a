//! Prefill on one worker and decode on another give what one worker gives alone.

use hadal_proto::cluster as w;
use hadal_shell::Shell;
use hadal_shell::net::Exposure;
use hadal_shell::tls::{Tls, TlsFiles};
use hadal_types::Role;
use hadal_worker::start;

use crate::setup::{Router, config, is_idle, prompt, reference, sim, until, worker};

#[tokio::test]
async fn a_pair_answers_like_one_worker() {
    let engine = sim();
    let alone = worker(config(Role::Mixed, "alone"), &engine).await;
    let prefill = worker(config(Role::Prefill, "p"), &engine).await;
    let decode = worker(config(Role::Decode, "d"), &engine).await;
    let (one, two) = (Router::new(&alone, &engine), Router::new(&decode, &engine));
    // One block, block boundaries and their neighbours, several chunks.
    for (number, tokens) in [(1, 1), (2, 2), (3, 64), (4, 65), (5, 66), (6, 128), (7, 129), (8, 130), (9, 700)] {
        let asked = one.request(&format!("r{number}"), &prompt(number, tokens), 70);
        let expected = one.ask(asked.clone()).await;
        let answer = two.ask(w::GenerateRequest { prefill: Some(reference(&prefill)), ..asked }).await;
        assert_eq!((answer.tokens.len(), &answer.error), (70, &None));
        assert_eq!((&answer.tokens, &answer.logprobs), (&expected.tokens, &expected.logprobs), "prompt of {tokens}");
        let remote = answer.started.unwrap().prefill_worker;
        assert_eq!(remote, if tokens > 64 { "p" } else { "" });
    }
    until("pages come back", || is_idle(&alone) && is_idle(&prefill) && is_idle(&decode)).await;
}

#[tokio::test]
async fn forced_tokens_begin_the_output_which_then_goes_on_by_itself() {
    let engine = sim();
    let alone = worker(config(Role::Mixed, "alone"), &engine).await;
    let router = Router::new(&alone, &engine);
    let ask = |id: &'static str, forced: Vec<u32>| {
        let mut request = router.request(id, &prompt(1, 100), 20);
        request.sampling.as_mut().unwrap().forced_tokens = forced;
        router.ask(request)
    };
    let free = ask("free", Vec::new()).await;
    let agreed = ask("agreed", free.tokens[..7].to_vec()).await;
    assert_eq!((&agreed.tokens, &agreed.logprobs), (&free.tokens, &free.logprobs));
    let other = ask("other", vec![5; 20]).await;
    assert_eq!((other.tokens, other.error), (vec![5; 20], None));
    let refused = ask("refused", vec![5, engine.info().vocab_tokens]).await;
    assert_eq!(refused.error.unwrap().kind(), w::error::Kind::Invalid);
}

#[tokio::test]
async fn dense_requests_find_no_blocks_of_others_on_either_worker() {
    let engine = sim();
    let prefill = worker(config(Role::Prefill, "p"), &engine).await;
    let decode = worker(config(Role::Decode, "d"), &engine).await;
    let router = Router::new(&decode, &engine);
    let ask = |id: &'static str, dense: bool| {
        let mut request = router.request(id, &prompt(1, 500), 10);
        request.prefill = Some(reference(&prefill));
        request.context.as_mut().unwrap().dense = dense;
        router.ask(request)
    };
    for (id, dense, cached) in [("a", false, 0), ("b", true, 0), ("c", true, 448), ("d", false, 448)] {
        assert_eq!(ask(id, dense).await.started.unwrap().cached_tokens, cached, "{id}");
    }
}

#[tokio::test]
async fn requests_at_once_answer_like_requests_alone() {
    let engine = sim();
    let alone = worker(config(Role::Mixed, "alone"), &engine).await;
    let prefill = worker(config(Role::Prefill, "p"), &engine).await;
    let decode = worker(config(Role::Decode, "d"), &engine).await;
    let (one, two) = (Router::new(&alone, &engine), Router::new(&decode, &engine));
    let mut asked = Vec::new();
    let mut expected = Vec::new();
    for number in 0..12 {
        let request = one.request(&format!("r{number}"), &prompt(number, 50 + 23 * number), 30);
        expected.push(one.ask(request.clone()).await.tokens);
        asked.push(two.ask(w::GenerateRequest { prefill: Some(reference(&prefill)), ..request }));
    }
    let answers = futures_util::future::join_all(asked).await;
    let tokens: Vec<_> = answers.into_iter().map(|a| a.tokens).collect();
    assert_eq!(tokens, expected);
    until("pages come back", || is_idle(&prefill) && is_idle(&decode)).await;
}

#[tokio::test]
async fn a_cached_prefix_is_not_sent_again_and_changes_nothing() {
    let engine = sim();
    let prefill = worker(config(Role::Prefill, "p"), &engine).await;
    let decode = worker(config(Role::Decode, "d"), &engine).await;
    let router = Router::new(&decode, &engine);
    let ask = |id: &'static str| {
        let mut request = router.request(id, &prompt(1, 500), 10);
        request.prefill = Some(reference(&prefill));
        router.ask(request)
    };
    let (first, second) = (ask("a").await, ask("b").await);
    assert_eq!(first.tokens, second.tokens);
    assert_eq!(first.started.unwrap().cached_tokens, 0);
    // Seven full blocks of the 499 tokens before the last one.
    assert_eq!(second.started.unwrap().cached_tokens, 448);
}

#[tokio::test]
async fn a_continuation_goes_on_with_the_same_tokens() {
    let engine = sim();
    let prefill = worker(config(Role::Prefill, "p"), &engine).await;
    let first = worker(config(Role::Decode, "a"), &engine).await;
    let second = worker(config(Role::Decode, "b"), &engine).await;
    let router = Router::new(&first, &engine);
    let whole = router.ask(router.request("r", &prompt(3, 200), 40)).await;
    let mut rest = router.request("r", &prompt(3, 200), 40);
    rest.tokens.extend(&whole.tokens[..15]);
    rest.prefill = Some(reference(&prefill));
    let answer = Router::new(&second, &engine).ask(rest).await;
    assert_eq!(answer.tokens, whole.tokens[15..]);
}

#[tokio::test]
async fn a_request_for_another_class_model_life_or_role_is_refused() {
    let engine = sim();
    let prefill = worker(config(Role::Prefill, "p"), &engine).await;
    let decode = worker(config(Role::Decode, "d"), &engine).await;
    let router = Router::new(&decode, &engine);
    let asked = router.request("r", &prompt(1, 10), 5);
    let other_class = w::GenerateRequest { numerics_class: vec![9; 16], ..asked.clone() };
    let other_model = w::GenerateRequest { fingerprint: vec![9; 16], ..asked.clone() };
    let other_life = w::GenerateRequest { incarnation: decode.incarnation.0 ^ 1, ..asked.clone() };
    let mut answers = vec![Router::new(&prefill, &engine).ask(asked.clone()).await];
    for other in [other_class, other_model, other_life] {
        answers.push(router.ask(other).await);
    }
    let same_life = w::GenerateRequest { incarnation: decode.incarnation.0, ..asked };
    assert_eq!(router.ask(same_life).await.error, None);
    for answer in answers {
        let error = answer.error.expect("it is refused");
        assert_eq!(error.kind(), w::error::Kind::Mismatch, "{}", error.message);
        assert!(error.retryable);
    }
}

#[tokio::test]
async fn a_malformed_request_is_refused_in_words() {
    let engine = sim();
    let decode = worker(config(Role::Decode, "d"), &engine).await;
    let router = Router::new(&decode, &engine);
    let asked = router.request("r", &prompt(1, 10), 5);
    let negative = w::Sampling { temperature: -1.0, ..asked.sampling.clone().unwrap() };
    let wrong = [
        w::GenerateRequest { context: None, ..asked.clone() },
        w::GenerateRequest { sampling: None, ..asked.clone() },
        w::GenerateRequest { sampling: Some(negative), ..asked.clone() },
        w::GenerateRequest { tokens: vec![5, u32::MAX], prompt_tokens: 2, ..asked.clone() },
        w::GenerateRequest { tokens: vec![1; 64 * 65], prompt_tokens: 64 * 65, ..asked.clone() },
        w::GenerateRequest { tokens: Vec::new(), prompt_tokens: 0, ..asked.clone() },
        router.request("has a space", &prompt(1, 10), 5),
    ];
    for request in wrong {
        let error = router.ask(request).await.error.expect("it is refused");
        assert_eq!(error.kind(), w::error::Kind::Invalid, "{}", error.message);
        assert!(!error.retryable && !error.worker_fault && !error.message.is_empty());
    }
    assert!(router.ask(asked).await.error.is_none(), "the worker goes on");
}

/// An authority and one certificate for all workers.
fn certificates() -> Tls {
    let folder = tempfile::tempdir().unwrap();
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&key, &issuer).unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let files = TlsFiles {
        cert: write("cert.pem", leaf.pem()),
        key: write("key.pem", key.serialize_pem()),
        ca: write("ca.pem", root.pem()),
        name: None,
    };
    Tls::load(&files).unwrap().unwrap()
}

#[tokio::test]
async fn a_pair_answers_over_tls_and_strangers_are_kept_out() {
    let engine = sim();
    let tls = certificates();
    let shell = || Shell { exposure: Exposure { tls: Some(tls.clone()), insecure: false }, ..Shell::local() };
    let prefill = start(config(Role::Prefill, "p"), engine.clone(), shell()).await.unwrap();
    let decode = start(config(Role::Decode, "d"), engine.clone(), shell()).await.unwrap();
    let plain = Router::new(&decode, &engine);
    let mut asked = plain.request("r", &prompt(1, 300), 5);
    asked.prefill = Some(reference(&prefill));
    assert!(plain.client.clone().generate(asked.clone()).await.is_err(), "without a certificate");
    let router = Router::over(&decode, &engine, Some(&tls));
    let answer = router.ask(asked).await;
    assert_eq!((answer.tokens.len(), answer.error), (5, None));
    assert_eq!(answer.started.unwrap().prefill_worker, "p");
}

#[tokio::test]
async fn an_answer_of_one_token_does_not_cut_its_own_transfer_short() {
    let engine = sim();
    let (ours, theirs) = (Shell::local(), Shell::local());
    let prefill = start(config(Role::Prefill, "p"), engine.clone(), theirs.clone()).await.unwrap();
    let decode = start(config(Role::Decode, "d"), engine.clone(), ours.clone()).await.unwrap();
    let router = Router::new(&decode, &engine);
    for number in 0..40 {
        let mut request = router.request(&format!("r{number}"), &prompt(number, 200), 1);
        request.prefill = Some(reference(&prefill));
        assert_eq!(router.ask(request).await.error, None);
    }
    until("pages come back", || is_idle(&decode) && is_idle(&prefill)).await;
    let count = |shell: &Shell, line: &str| hadal_shell::metrics::render([&shell.metrics]).lines().any(|l| l == line);
    for (shell, line) in [
        (&ours, "hadal_worker_transfers_total{direction=\"received\",outcome=\"ok\"} 40"),
        (&theirs, "hadal_worker_transfers_total{direction=\"sent\",outcome=\"ok\"} 40"),
        (&theirs, "hadal_worker_requests_total{leg=\"prefill\",outcome=\"ok\"} 40"),
    ] {
        assert!(count(shell, line), "{line} is not in\n{}", hadal_shell::metrics::render([&shell.metrics]));
    }
}

#[tokio::test]
async fn a_prefill_worker_of_another_life_is_not_the_one_that_was_named() {
    let engine = sim();
    let prefill = worker(config(Role::Prefill, "p"), &engine).await;
    let decode = worker(config(Role::Decode, "d"), &engine).await;
    let router = Router::new(&decode, &engine);
    let mut request = router.request("r", &prompt(1, 300), 5);
    request.prefill = Some(w::WorkerRef { incarnation: prefill.incarnation.0 ^ 1, ..reference(&prefill) });
    let answer = router.ask(request).await;
    assert_eq!((answer.tokens.len(), answer.error), (5, None));
    assert_eq!(answer.started.unwrap().prefill_worker, "", "the decode worker computes");
}

#[tokio::test]
async fn what_happened_is_counted() {
    let engine = sim();
    let shell = Shell::local();
    let prefill = worker(config(Role::Prefill, "p"), &engine).await;
    let decode = start(config(Role::Decode, "d"), engine.clone(), shell.clone()).await.unwrap();
    let router = Router::new(&decode, &engine);
    let mut request = router.request("r", &prompt(1, 300), 5);
    request.prefill = Some(reference(&prefill));
    router.ask(request).await;
    until("pages come back", || is_idle(&decode)).await;
    let text = hadal_shell::metrics::render([&shell.metrics]);
    for line in [
        "hadal_worker_requests_total{leg=\"generate\",outcome=\"ok\"} 1",
        "hadal_worker_transfers_total{direction=\"received\",outcome=\"ok\"} 1",
        // Five blocks of 300 tokens.
        "hadal_worker_kv_bytes_total{direction=\"received\",part=\"index\"} 2560",
        "hadal_worker_kv_bytes_total{direction=\"received\",part=\"latent\"} 10240",
        "hadal_worker_tokens_total{phase=\"decode\"} 5",
        "hadal_worker_drafting 1",
        "hadal_worker_pages{part=\"index\",state=\"used\"} 0",
        "hadal_worker_ttft_seconds_count 1",
        "hadal_worker_tpot_seconds_count 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}
