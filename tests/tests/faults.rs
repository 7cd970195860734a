//! Parts that die, freeze, come late or do not fit: streams go on with exactly the tokens of an undisturbed run, and
//! what is left of the cluster serves.

use anyhow::{Context, Result};
use hadal_proto::PROTOCOL_VERSION;
use hadal_proto::cluster as w;
use hadal_proto::cluster::coordinator_client::CoordinatorClient;
use hadal_proto::cluster::worker_client::WorkerClient;
use hadal_proto::v1::{GenerateRequest, SamplingOptions};
use hadal_tests::client::{Client, ServingStatus, greedy, request, tokens};
use hadal_tests::cluster::{BUNDLED, Cluster, Plan, flags, fleet_until};
use hadal_tests::process::Process;
use hadal_tests::{PATIENCE, golden, http};
use tokio::time::timeout;

fn sampled(max_tokens: u32, seed: u64) -> SamplingOptions {
    SamplingOptions { temperature: Some(1.0), seed: Some(seed), ..greedy(max_tokens) }
}

/// Requests of one test: prompts that cross to the decode worker and prompts that are computed there.
fn requests(model: &str, max_tokens: u32) -> Vec<GenerateRequest> {
    (0..6).map(|i| request(model, &tokens(i, 40 + 60 * i), sampled(max_tokens, u64::from(i)))).collect()
}

/// Streams all `requests` at once; calls the disturbance when every stream has begun; gives all answers.
async fn disturbed(
    client: &mut Client,
    requests: &[GenerateRequest],
    disturbance: impl Future<Output = Result<()>>,
) -> Result<Vec<hadal_tests::client::Answer>> {
    let mut streams = Vec::new();
    for request in requests {
        let mut stream = client.open(request.clone()).await?;
        stream.until_tokens(3).await?;
        streams.push(stream);
    }
    disturbance.await?;
    let mut answers = Vec::new();
    for stream in streams {
        answers.push(stream.rest().await?);
    }
    Ok(answers)
}

/// What does not depend on where and when it was computed.
fn choices(answers: &[hadal_tests::client::Answer]) -> Vec<&hadal_tests::client::Choice> {
    answers.iter().map(|answer| &answer.choices[&0]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_killed_decode_worker_go_on_elsewhere_with_the_same_tokens() -> Result<()> {
    let name = "deepseek_v32";
    let mut cluster = Cluster::start(Plan::exact(&golden(name))).await?;
    let mut client = cluster.client().await?;
    let requests = requests(name, 200);
    let expected = disturbed(&mut client, &requests, async { Ok(()) }).await?;
    let killed = disturbed(&mut client, &requests, async {
        let id = cluster.busiest("decode").await?;
        let worker = cluster.named(&id).context("it is one of ours")?;
        worker.signal("KILL").await?;
        worker.ended().await?;
        Ok(())
    });
    let answers = killed.await?;
    assert_eq!(choices(&answers), choices(&expected));
    let retried = http::metric(cluster.router.address("http")?, "hadal_router_retries_total", &[r#"reason="lost""#]);
    assert!(retried.await? >= 1.0, "no stream was disturbed");
    let view = cluster.pages_back().await?;
    assert_eq!(view.workers.len(), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_of_a_killed_prefill_worker_are_computed_elsewhere_with_the_same_tokens() -> Result<()> {
    // A step of the prompt is as long as it takes the test to notice that it runs.
    let plan = Plan::sim_prefilling("2ms", "1ms");
    let mut cluster = Cluster::start(plan).await?;
    let mut client = cluster.client().await?;
    let long = tokens(1, 1500);
    let stream = client.open(request(BUNDLED, &long, greedy(40))).await?;
    let id = cluster.busiest("prefill").await?;
    let worker = cluster.named(&id).context("it is one of ours")?;
    worker.signal("KILL").await?;
    worker.ended().await?;
    let answer = stream.rest().await?;
    // Now the prompt is cached; nothing is disturbed any more.
    let again = client.generate(request(BUNDLED, &long, greedy(40))).await?;
    assert_eq!(answer.choices, again.choices);
    assert_eq!(answer.tokens().len(), 40);
    assert!(failed_transfers(&cluster).await? >= 1.0, "no prompt was disturbed");
    let view = cluster.pages_back().await?;
    assert_eq!(view.workers.len(), 3);
    Ok(())
}

/// Prompts that the decode workers did not get from a prefill worker.
async fn failed_transfers(cluster: &Cluster) -> Result<f64> {
    let mut failed = 0.0;
    for worker in cluster.workers.iter().filter(|w| w.ready["role"] == "decode") {
        let (address, name) = (worker.address("metrics")?, "hadal_worker_transfers_total");
        let received = r#"direction="received""#;
        failed += http::metric(address, name, &[received]).await?;
        failed -= http::metric(address, name, &[received, r#"outcome="ok""#]).await?;
    }
    Ok(failed)
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_of_a_frozen_prefill_worker_are_computed_elsewhere_with_the_same_tokens() -> Result<()> {
    let mut plan = Plan { coordinator: flags("--lost-after 400ms"), ..Plan::sim_prefilling("2ms", "1ms") };
    plan.worker.extend(flags("--kv-stall 500ms --peer-timeout 500ms"));
    let mut cluster = Cluster::start(plan).await?;
    let mut client = cluster.client().await?;
    let long = tokens(1, 1500);
    let stream = client.open(request(BUNDLED, &long, greedy(40))).await?;
    let id = cluster.busiest("prefill").await?;
    cluster.named(&id).context("it is one of ours")?.signal("STOP").await?;
    let answer = stream.rest().await?;
    assert!(failed_transfers(&cluster).await? >= 1.0, "no prompt was disturbed");
    cluster.named(&id).context("it is one of ours")?.signal("CONT").await?;
    let again = client.generate(request(BUNDLED, &long, greedy(40))).await?;
    assert_eq!(answer.choices, again.choices);
    cluster.fleet_until("it is back", |view| view.workers.len() == 4).await?;
    cluster.pages_back().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_router_leaves_no_pages_taken() -> Result<()> {
    let mut cluster = Cluster::start(Plan::sim("2ms")).await?;
    let mut client = cluster.client().await?;
    let mut streams = Vec::new();
    for request in requests(BUNDLED, 5000) {
        let mut stream = client.open(request).await?;
        stream.until_tokens(1).await?;
        streams.push(stream);
    }
    cluster.router.signal("KILL").await?;
    cluster.router.ended().await?;
    cluster.pages_back().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_coordinator_delays_new_requests_and_nothing_else() -> Result<()> {
    let plan = Plan { coordinator: flags("--lost-after 200ms"), ..Plan::sim("2ms") };
    let cluster = Cluster::start(plan).await?;
    let mut client = cluster.client().await?;
    let mut running = client.open(request(BUNDLED, &tokens(1, 100), greedy(500))).await?;
    running.until_tokens(3).await?;
    cluster.coordinator.signal("STOP").await?;
    let mut other = cluster.client().await?;
    let delayed = tokio::spawn(async move { other.generate(request(BUNDLED, &tokens(2, 100), greedy(20))).await });
    // Several times as long as a worker may be silent.
    running.until_tokens(400).await?;
    assert!(!delayed.is_finished());
    cluster.coordinator.signal("CONT").await?;
    assert_eq!(timeout(PATIENCE, delayed).await???.tokens().len(), 20);
    assert_eq!(running.rest().await?.tokens().len(), 500);
    cluster.fleet_until("all workers are in", |view| view.workers.len() == 4).await?;
    cluster.pages_back().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_workers_of_one_name_the_later_one_serves() -> Result<()> {
    let mut cluster = Cluster::start(Plan { prefill: 0, decode: 1, ..Plan::sim("1ms") }).await?;
    let second = cluster.worker("decode-0").await?;
    let address = second.address("grpc")?.to_string();
    let view = cluster.fleet_until("the later one is in", |v| v.workers.iter().any(|w| w.grpc_address == address));
    assert_eq!(view.await?.workers.len(), 1);
    let first = cluster.named("decode-0").context("it is ours")?;
    first.until_says(&["refuses this worker", "decode-0", "registered again"]).await?;
    let mut client = cluster.client().await?;
    assert_eq!(client.generate(request(BUNDLED, &tokens(1, 100), greedy(20))).await?.tokens().len(), 20);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_worker_is_taken_out_and_comes_back() -> Result<()> {
    let mut plan = Plan { coordinator: flags("--lost-after 400ms"), ..Plan::sim("1ms") };
    plan.router = flags("--worker-timeout 500ms");
    let mut cluster = Cluster::start(plan).await?;
    let mut client = cluster.client().await?;
    let expected = client.generate(request(BUNDLED, &tokens(2, 300), greedy(20))).await?;

    for id in ["decode-0", "prefill-0"] {
        cluster.named(id).context("it is ours")?.signal("STOP").await?;
        let out = cluster.fleet_until("it is taken out", |v| v.workers.iter().all(|w| w.id != id)).await?;
        assert_eq!(out.workers.len(), 3);
        for seed in 0..4 {
            let answer = client.generate(request(BUNDLED, &tokens(2, 300), sampled(20, seed))).await?;
            assert_eq!(answer.tokens(), expected.tokens(), "the engine draws no tokens at random");
        }
        cluster.named(id).context("it is ours")?.signal("CONT").await?;
        cluster.fleet_until("it is back", |v| v.workers.len() == 4).await?;
    }
    // With the other one gone, it is the one that answers.
    let other = cluster.named("decode-1").context("it is ours")?;
    other.signal("KILL").await?;
    other.ended().await?;
    let answer = client.generate(request(BUNDLED, &tokens(3, 20), greedy(20))).await?;
    assert_eq!(answer.tokens().len(), 20);
    cluster.pages_back().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_frozen_decode_worker_go_on_elsewhere() -> Result<()> {
    let plan = Plan { coordinator: flags("--lost-after 400ms"), ..Plan::sim("2ms") };
    let mut cluster = Cluster::start(plan).await?;
    let mut client = cluster.client().await?;
    let requests = requests(BUNDLED, 300);
    let expected = disturbed(&mut client, &requests, async { Ok(()) }).await?;
    let frozen = disturbed(&mut client, &requests, async {
        let id = cluster.busiest("decode").await?;
        cluster.named(&id).context("it is one of ours")?.signal("STOP").await
    });
    assert_eq!(choices(&frozen.await?), choices(&expected));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_worker_registers_as_a_new_incarnation_and_is_used() -> Result<()> {
    let mut cluster = Cluster::start(Plan { decode: 1, ..Plan::sim("1ms") }).await?;
    let mut client = cluster.client().await?;
    let before = client.generate(request(BUNDLED, &tokens(4, 200), greedy(30))).await?;
    let incarnation = |view: &w::FleetView| view.workers.iter().find(|w| w.id == "decode-0").map(|w| w.incarnation);
    let view = cluster.fleet_until("it is there", |view| incarnation(view).is_some()).await?;
    let first = incarnation(&view).context("it was there")?;
    let worker = cluster.named("decode-0").context("it is ours")?;
    worker.signal("KILL").await?;
    worker.ended().await?;
    cluster.fleet_until("it is taken out", |view| incarnation(view).is_none()).await?;

    let _again = cluster.worker("decode-0").await?;
    let back = cluster.fleet_until("it is back", |view| incarnation(view).is_some()).await?;
    assert_ne!(incarnation(&back), Some(first));
    let after = client.generate(request(BUNDLED, &tokens(4, 200), greedy(30))).await?;
    assert_eq!(after.choices, before.choices);
    cluster.pages_back().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn router_and_workers_wait_for_a_coordinator_that_is_not_there() -> Result<()> {
    let logs = tempfile::tempdir()?;
    let place = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = place.local_addr()?.to_string();
    drop(place);
    let plan = Plan::sim("1ms");
    let router = Process::start(logs.path(), "router", &plan.router_args(&address)).await?;
    let worker = Process::start(logs.path(), "decode-0", &plan.worker_args(&address, "decode-0")).await?;
    router.until_says(&["waiting for the coordinator", &address]).await?;
    worker.until_says(&["no coordinator", &address]).await?;
    for (part, says) in [(router.address("http")?, "coordinator"), (worker.address("metrics")?, "coordinator")] {
        let ready = http::send(part, "GET", "/ready", "").await?;
        assert_eq!(ready.status, 503, "{}", ready.text);
        assert!(ready.text.contains(says), "{}", ready.text);
        assert_eq!(http::send(part, "GET", "/health", "").await?.status, 200);
    }

    let mut client = Client::connect(router.address("grpc")?).await?;
    let early = tokio::spawn(async move { client.generate(request(BUNDLED, &tokens(5, 20), greedy(10))).await });
    // It is there, and waits, before anything could answer it.
    until_waiting(&router).await?;
    let _coordinator = Process::start(logs.path(), "coordinator", &plan.coordinator_args(&address)).await?;
    let answer = timeout(PATIENCE, early).await???;
    assert_eq!(answer.tokens().len(), 10);
    assert_eq!(http::send(router.address("http")?, "GET", "/ready", "").await?.status, 200);
    assert_eq!(http::send(worker.address("metrics")?, "GET", "/ready", "").await?.status, 200);
    Ok(())
}

/// Until the router has a request that waits.
async fn until_waiting(router: &Process) -> Result<()> {
    http::until_metric(router.address("http")?, "hadal_router_requests_waiting", &[], |waiting| waiting >= 1.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_was_killed_is_replaced_and_nothing_else_notices() -> Result<()> {
    let mut cluster = Cluster::start(Plan::sim("2ms")).await?;
    let mut client = cluster.client().await?;
    let mut running = client.open(request(BUNDLED, &tokens(6, 200), greedy(400))).await?;
    running.until_tokens(3).await?;
    cluster.coordinator.signal("KILL").await?;
    cluster.coordinator.ended().await?;
    // Placed when there is a coordinator again.
    let mut other = cluster.client().await?;
    let waiting = tokio::spawn(async move { other.generate(request(BUNDLED, &tokens(7, 100), greedy(20))).await });
    until_waiting(&cluster.router).await?;
    cluster.restart_coordinator().await?;
    assert_eq!(timeout(PATIENCE, waiting).await???.tokens().len(), 20);
    cluster.fleet_until("all workers are registered again", |view| view.workers.len() == 4).await?;

    let answer = running.rest().await?;
    let again = client.generate(request(BUNDLED, &tokens(6, 200), greedy(400))).await?;
    assert_eq!(answer.choices, again.choices);
    let retries = http::metric(cluster.router.address("http")?, "hadal_router_retries_total", &[r#"reason="lost""#]);
    assert_eq!(retries.await?, 0.0, "no stream depends on the coordinator");
    cluster.pages_back().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_another_protocol_version_is_refused_with_both_versions() -> Result<()> {
    let cluster = Cluster::start(Plan { prefill: 0, decode: 1, ..Plan::sim("1ms") }).await?;
    let address = cluster.coordinator.address("grpc")?;
    let mut coordinator = CoordinatorClient::connect(format!("http://{address}")).await?;
    let register = w::Register { protocol_version: 99, worker_id: "stranger".into(), ..Default::default() };
    let report = w::WorkerReport { report: Some(w::worker_report::Report::Register(register)) };
    let mut commands = coordinator.attach(tokio_stream::iter([report])).await?.into_inner();
    let first = timeout(PATIENCE, commands.message()).await??.and_then(|c| c.command);
    let Some(w::coordinator_command::Command::Refused(refused)) = first else { panic!("not refused: {first:?}") };
    assert!(refused.reason.contains("version 99"), "{}", refused.reason);
    assert!(refused.reason.contains(&format!("speaks {PROTOCOL_VERSION}")), "{}", refused.reason);
    assert!(timeout(PATIENCE, commands.message()).await??.is_none(), "the stream ends");

    cluster.fleet_until("it is not in", |view| view.workers.len() == 1).await?;
    let mut client = cluster.client().await?;
    assert_eq!(client.generate(request(BUNDLED, &tokens(8, 10), greedy(5))).await?.tokens().len(), 5);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_different_numerics_or_layout_exchange_no_rows() -> Result<()> {
    let name = "deepseek_v32";
    let plan = Plan { prefill: 1, decode: 1, ..Plan::exact(&golden(name)) };
    let exact = Cluster::start(plan.clone()).await?;
    let mut client = exact.client().await?;
    let long = tokens(9, 300);
    let expected = client.generate(request(name, &long, greedy(20))).await?;
    drop(exact);

    // The same checkpoint, and a prefill worker that rounds.
    let mut cluster = Cluster::start(Plan { prefill: 0, ..plan }).await?;
    let mut args = Plan::of(0, 0, "--dtype bf16 --kv fp8 --threads 1")
        .worker_args(&cluster.coordinator.address("grpc")?.to_string(), "prefill-0");
    args.extend(["--model".to_owned(), golden(name).display().to_string()]);
    let other = Process::start(&cluster.logs(), "prefill-0", &args).await?;
    cluster.workers.push(other);
    let view = cluster.fleet_until("both are registered", |view| view.workers.len() == 2).await?;
    let mut client = cluster.client().await?;
    let answer = client.generate(request(name, &long, greedy(20))).await?;
    assert_eq!(answer.choices, expected.choices);
    for worker in &cluster.workers {
        assert_eq!(http::metric(worker.address("metrics")?, "hadal_worker_kv_bytes_total", &[]).await?, 0.0);
    }

    // Asked all the same, it refuses in words.
    let of = |role: &str| view.workers.iter().find(|w| w.role == role).context("both roles are there");
    let (prefill, decode) = (of("prefill")?, of("decode")?);
    let good = prefill_request(prefill);
    let wrong_class = w::PrefillRequest { numerics_class: decode.numerics_class.clone(), ..good.clone() };
    let wrong_layout = w::PrefillRequest { layout: "other-7".into(), ..good };
    for (bad, says) in [(wrong_class, "numerics class"), (wrong_layout, "other-7")] {
        let error = prefill_error(&prefill.grpc_address, bad).await?;
        assert_eq!(error.kind(), w::error::Kind::Mismatch, "{error:?}");
        assert!(error.message.contains(says) && error.message.contains(" here"), "{error:?}");
    }
    let mismatches =
        http::metric(cluster.workers[1].address("metrics")?, "hadal_worker_errors_total", &[r#"kind="mismatch""#]);
    assert_eq!(mismatches.await?, 2.0);
    assert_eq!(client.generate(request(name, &long, greedy(20))).await?.choices, expected.choices);
    cluster.pages_back().await?;
    Ok(())
}

fn prefill_request(worker: &w::FleetWorker) -> w::PrefillRequest {
    w::PrefillRequest {
        context: Some(w::RequestContext { request_id: "by-hand".into(), ..Default::default() }),
        fingerprint: worker.fingerprint.clone(),
        numerics_class: worker.numerics_class.clone(),
        layout: "replaced".into(),
        tokens: tokens(1, 100),
        lease_id: vec![7; 16],
        lease_ms: 10_000,
        ..Default::default()
    }
}

/// The error that a Prefill call is answered with.
async fn prefill_error(address: &str, request: w::PrefillRequest) -> Result<w::Error> {
    let mut worker = WorkerClient::connect(format!("http://{address}")).await?;
    let mut events = worker.prefill(request).await?.into_inner();
    match timeout(PATIENCE, events.message()).await??.and_then(|e| e.event) {
        Some(w::prefill_event::Event::Error(error)) => Ok(error),
        other => anyhow::bail!("accepted: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_a_first_worker() -> Result<()> {
    let mut cluster = Cluster::start(Plan { prefill: 0, decode: 1, ..Plan::sim("1ms") }).await?;
    let worker = cluster.named("decode-0").context("it is ours")?;
    worker.signal("KILL").await?;
    worker.ended().await?;
    let coordinator = cluster.coordinator.address("grpc")?.to_string();
    fleet_until(&coordinator, "nobody is left", |view| view.workers.is_empty()).await?;
    let mut client = cluster.client().await?;
    client.until_health(ServingStatus::NotServing).await?;
    let waiting = tokio::spawn(async move { client.generate(request(BUNDLED, &tokens(1, 10), greedy(5))).await });
    until_waiting(&cluster.router).await?;
    let ready = http::send(cluster.router.address("http")?, "GET", "/ready", "").await?;
    assert!(ready.status == 503 && ready.text.contains("no worker is registered"), "{}", ready.text);
    let _worker = cluster.worker("decode-1").await?;
    assert_eq!(timeout(PATIENCE, waiting).await???.tokens().len(), 5);
    Ok(())
}
