//! Streams that end early: every page comes back on both sides.

use std::time::Duration;

use hadal_proto::cluster as w;
use hadal_proto::cluster::worker_client::WorkerClient;
use hadal_types::Role;
use hadal_worker::{Config, Engine, SimConfig};
use tokio_stream::StreamExt;
use tonic::transport::Endpoint;

use crate::setup::{LONG, Router, config, is_idle, prompt, reference, sim, until, worker};

/// A small generator, so that a failing run can be repeated.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

#[tokio::test]
async fn random_cancellations_give_every_page_back_on_both_sides() {
    let engine = sim();
    let prefill = worker(config(Role::Prefill, "p"), &engine).await;
    let decode = worker(config(Role::Decode, "d"), &engine).await;
    let router = Router::new(&decode, &engine);
    let mut state = 5;
    for round in 0..100_u32 {
        let streams = (0..10).map(|i| {
            let number = round * 10 + i;
            let mut request =
                router.request(&format!("r{number}"), &prompt(number, 30 + random(&mut state) as u32 % 300), 50);
            request.prefill = Some(reference(&prefill));
            let events = random(&mut state) % 12;
            let router = &router;
            async move {
                let mut stream = router.open(request).await;
                for _ in 0..events {
                    if stream.next().await.is_none() {
                        return;
                    }
                }
            }
        });
        futures_util::future::join_all(streams).await;
    }
    until("pages come back", || is_idle(&decode) && is_idle(&prefill)).await;
    let answer = router.ask(router.request("after", &prompt(1, 100), 5)).await;
    assert_eq!(answer.tokens.len(), 5);
}

#[tokio::test]
async fn a_deadline_ends_a_request_and_frees_its_pages() {
    let slow = SimConfig { step: Duration::from_millis(20), ..SimConfig::instant() };
    let engine = Engine::sim(slow, None, "sim");
    let prefill = worker(config(Role::Prefill, "p"), &engine).await;
    let decode = worker(config(Role::Decode, "d"), &engine).await;
    let router = Router::new(&decode, &engine);
    let mut request = router.request("r", &prompt(1, 300), 1000);
    request.prefill = Some(reference(&prefill));
    request.context.as_mut().unwrap().deadline_ms = 150;
    let error = router.ask(request).await.error.expect("it takes longer than that");
    assert_eq!(error.kind(), w::error::Kind::Deadline);
    until("pages come back", || is_idle(&decode) && is_idle(&prefill)).await;
}

#[tokio::test]
async fn a_prefill_that_nobody_fetches_ends_with_this_workers_own_lease() {
    let engine = sim();
    let short = Config { prefill_lease: Duration::from_millis(100), ..config(Role::Prefill, "p") };
    let prefill = worker(short, &engine).await;
    let router = Router::new(&prefill, &engine);
    let asked = router.request("r", &prompt(1, 300), 1);
    let request = w::PrefillRequest {
        context: asked.context,
        fingerprint: asked.fingerprint,
        numerics_class: asked.numerics_class,
        layout: engine.info().geometry.layout.clone(),
        tokens: asked.tokens,
        lease_id: vec![1; 16],
        lease_ms: u64::MAX,
        ..Default::default()
    };
    let mut events = router.client.clone().prefill(request).await.unwrap().into_inner();
    let mut last = None;
    while let Some(event) = tokio::time::timeout(LONG, events.next()).await.expect("the lease ends") {
        last = event.unwrap().event;
    }
    assert!(matches!(last, Some(w::prefill_event::Event::Error(_))), "{last:?}");
    until("pages come back", || is_idle(&prefill)).await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_ended_and_delays_nobody() {
    let engine = sim();
    let limited = Config { output_tokens_max: 100, ..config(Role::Mixed, "m") };
    let worker = worker(limited, &engine).await;
    let router = Router::new(&worker, &engine);
    // A narrow window, and answers larger than what the server buffers for a connection.
    let endpoint = Endpoint::from_shared(format!("http://{}", worker.grpc_address)).unwrap();
    let narrow = endpoint.initial_stream_window_size(4096).connect_lazy();
    let mut request = router.request("slow", &prompt(1, 10), 4000);
    request.sampling.as_mut().unwrap().logprobs = Some(20);
    let mut stalled = WorkerClient::new(narrow).generate(request).await.unwrap().into_inner();
    let quick = router.ask(router.request("quick", &prompt(2, 100), 200)).await;
    assert_eq!(quick.tokens.len(), 200);
    until("the slow one is ended", || worker.request_ids().is_empty()).await;
    let mut last = None;
    while let Some(event) = tokio::time::timeout(LONG, stalled.next()).await.unwrap() {
        last = event.unwrap().event;
    }
    let Some(w::generate_event::Event::Error(error)) = last else { panic!("not an error but {last:?}") };
    assert!(error.message.contains("--output-tokens-max"), "{}", error.message);
}

#[tokio::test]
async fn a_full_worker_says_busy_at_once() {
    let slow = SimConfig { step: Duration::from_millis(5), ..SimConfig::instant() };
    let engine = Engine::sim(slow, None, "sim");
    let worker = worker(Config { kv_tokens: Some(4 * 64), ..config(Role::Mixed, "m") }, &engine).await;
    let router = Router::new(&worker, &engine);
    let mut first = router.open(router.request("a", &prompt(1, 180), 50)).await;
    first.next().await.unwrap().unwrap();
    let error = router.ask(router.request("b", &prompt(2, 180), 50)).await.error.expect("no room");
    assert_eq!(error.kind(), w::error::Kind::Busy);
    assert!(error.retryable);
}

#[tokio::test]
async fn a_draining_worker_finishes_what_runs_and_refuses_what_comes() {
    let slow = SimConfig { step: Duration::from_millis(2), ..SimConfig::instant() };
    let engine = Engine::sim(slow, None, "sim");
    let prefill = worker(config(Role::Prefill, "p"), &engine).await;
    let decode = worker(config(Role::Decode, "d"), &engine).await;
    let router = Router::new(&decode, &engine);
    let mut request = router.request("running", &prompt(1, 200), 100);
    request.prefill = Some(reference(&prefill));
    let running = router.ask(request.clone());
    tokio::pin!(running);
    tokio::select! {
        answer = &mut running => panic!("too early: {answer:?}"),
        () = until("it runs", || !decode.request_ids().is_empty()) => {}
    }
    decode.drain();
    let late = async {
        loop {
            let answer = router.ask(router.request("late", &prompt(2, 10), 1)).await;
            if let Some(error) = answer.error {
                return error;
            }
        }
    };
    let (answer, error) = tokio::join!(running, late);
    assert_eq!((answer.tokens.len(), answer.error), (100, None));
    assert_eq!(error.kind(), w::error::Kind::Draining);
    assert!(error.retryable);
    decode.join(LONG).await.unwrap();
    prefill.join(LONG).await.unwrap();
}
