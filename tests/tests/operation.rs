//! Running it: drains and signals, deadlines, metrics, configuration, refusals at the start.

use anyhow::{Context, Result};
use hadal_proto::cluster as w;
use hadal_tests::client::{Client, greedy, request, tokens};
use hadal_tests::cluster::{BUNDLED, Cluster, Plan, flags};
use hadal_tests::process::{self, Process};
use hadal_tests::{PATIENCE, golden, http};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_decode_worker_that_drains_finishes_its_streams_and_gets_no_new_ones() -> Result<()> {
    let mut cluster = Cluster::start(Plan::sim("2ms")).await?;
    let mut client = cluster.client().await?;
    let mut running = client.open(request(BUNDLED, &tokens(1, 200), greedy(300))).await?;
    running.until_tokens(3).await?;
    let id = cluster.busiest("decode").await?;
    cluster.named(&id).context("it is ours")?.signal("TERM").await?;
    let drains = |w: &w::FleetWorker| w.id != id || w.draining;
    cluster.fleet_until("it drains", |view| view.workers.iter().all(drains)).await?;
    for seed in 2..6 {
        let answer = client.generate(request(BUNDLED, &tokens(seed, 100), greedy(10))).await?;
        assert_eq!(answer.tokens().len(), 10);
    }
    let answer = running.rest().await?;
    assert_eq!(answer.tokens().len(), 300);
    let worker = cluster.named(&id).context("it is ours")?;
    assert_eq!(worker.ended().await?.code(), Some(0), "{}", worker.log());
    let retries = http::metric(cluster.router.address("http")?, "hadal_router_retries_total", &[]).await?;
    assert_eq!(retries, 0.0, "no stream was disturbed");
    let view = cluster.pages_back().await?;
    assert_eq!(view.workers.len(), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefill_worker_that_drains_finishes_its_prompts() -> Result<()> {
    let plan = Plan { prefill: 1, decode: 1, ..Plan::sim_prefilling("1ms", "1ms") };
    let mut cluster = Cluster::start(plan).await?;
    let mut client = cluster.client().await?;
    let mut stream = client.open(request(BUNDLED, &tokens(1, 1000), greedy(10))).await?;
    let id = cluster.busiest("prefill").await?;
    let worker = cluster.named(&id).context("it is ours")?;
    worker.signal("TERM").await?;
    stream.until_tokens(10).await?;
    assert_eq!(worker.ended().await?.code(), Some(0), "{}", worker.log());
    stream.rest().await?;
    let decode = cluster.named("decode-0").context("it is ours")?.address("metrics")?;
    assert_eq!(http::metric(decode, "hadal_worker_recomputes_total", &[]).await?, 0.0);
    assert!(http::metric(decode, "hadal_worker_kv_bytes_total", &[r#"direction="received""#]).await? > 0.0);
    // Without it, the decode worker computes prompts.
    assert_eq!(client.generate(request(BUNDLED, &tokens(2, 100), greedy(10))).await?.tokens().len(), 10);
    cluster.pages_back().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_drains_finishes_its_streams_and_takes_nothing_new() -> Result<()> {
    let mut cluster = Cluster::start(Plan { prefill: 0, decode: 1, ..Plan::sim("2ms") }).await?;
    let mut client = cluster.client().await?;
    let http = cluster.router.address("http")?;
    let mut running = client.open(request(BUNDLED, &tokens(1, 50), greedy(300))).await?;
    running.until_tokens(3).await?;
    let body = json!({"model": BUNDLED, "prompt": [3, 4, 5], "max_tokens": 300, "ignore_eos": true, "temperature": 0});
    let over_http = tokio::spawn(async move { http::send(http, "POST", "/v1/completions", &body.to_string()).await });
    cluster.fleet_until("both run", |view| view.workers.iter().any(|w| w.requests == 2)).await?;
    cluster.router.signal("TERM").await?;
    cluster.router.until_says(&["draining"]).await?;
    let status = client.refused(request(BUNDLED, &tokens(2, 50), greedy(5))).await?;
    // Refused by the router, or by a connection that takes no more calls: a call that crosses its GOAWAY is Internal.
    let crossed = status.code() == Code::Internal && format!("{status:?}").contains("GoAway");
    assert!(crossed || matches!(status.code(), Code::Unavailable | Code::Cancelled), "{status:?}");
    assert_eq!(running.rest().await?.tokens().len(), 300);
    let answer = timeout(PATIENCE, over_http).await???;
    assert_eq!(answer.json()?["usage"]["completion_tokens"], 300, "{}", answer.text);
    assert_eq!(cluster.router.ended().await?.code(), Some(0), "{}", cluster.router.log());
    assert!(TcpStream::connect(http).await.is_err(), "it listens no more");
    cluster.pages_back().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_ends_at_a_signal_and_streams_go_on() -> Result<()> {
    let mut cluster = Cluster::start(Plan { prefill: 0, decode: 1, ..Plan::sim("2ms") }).await?;
    let mut client = cluster.client().await?;
    let mut running = client.open(request(BUNDLED, &tokens(1, 50), greedy(300))).await?;
    running.until_tokens(3).await?;
    cluster.coordinator.signal("TERM").await?;
    assert_eq!(cluster.coordinator.ended().await?.code(), Some(0), "{}", cluster.coordinator.log());
    assert_eq!(running.rest().await?.tokens().len(), 300);
    // The others end in order, too, though nobody coordinates them.
    for part in cluster.workers.iter_mut().chain([&mut cluster.router]) {
        part.signal("TERM").await?;
        assert_eq!(part.ended().await?.code(), Some(0), "{}", part.log());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_drain_at_once() -> Result<()> {
    let mut cluster = Cluster::start(Plan { prefill: 0, decode: 1, ..Plan::sim("20ms") }).await?;
    let mut client = cluster.client().await?;
    let mut running = client.open(request(BUNDLED, &tokens(1, 50), greedy(9000))).await?;
    running.until_tokens(1).await?;
    for part in [&mut cluster.workers[0], &mut cluster.router] {
        part.signal("TERM").await?;
        part.until_says(&["draining"]).await?;
        part.signal("INT").await?;
        assert_eq!(part.ended().await?.code(), Some(130), "{}", part.log());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_in_use_are_named_by_every_part() -> Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let lines = [
        ("--grpc", "coordinator"),
        ("--metrics", "coordinator --grpc 127.0.0.1:0"),
        ("--http", "router --grpc 127.0.0.1:0"),
        ("--grpc", "router --http 127.0.0.1:0"),
        ("--grpc", "worker --engine sim"),
        ("--transfer", "worker --engine sim"),
        ("--metrics", "worker --engine sim"),
        ("--http", "up --grpc 127.0.0.1:0"),
    ];
    for (flag, line) in lines {
        let mut args = flags(line);
        args.extend([flag.to_owned(), address.clone()]);
        let ended = process::run(&args).await?;
        assert_eq!(ended.code, Some(69), "{line}: {}", ended.stderr);
        let says = format!("{flag} {address}: the port is in use");
        assert!(ended.stderr.contains(&says), "{line}: {}", ended.stderr);
        assert_eq!(ended.stdout, "", "{line}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn internal_listeners_are_not_exposed_by_accident() -> Result<()> {
    let lines = [
        ("--grpc", "coordinator"),
        ("--metrics", "coordinator --grpc 127.0.0.1:0"),
        ("--grpc", "worker --engine sim"),
        ("--transfer", "worker --engine sim"),
        ("--metrics", "worker --engine sim"),
    ];
    for (flag, line) in lines {
        let mut args = flags(line);
        args.extend([flag, "0.0.0.0:0"].map(str::to_owned));
        let ended = process::run(&args).await?;
        assert_eq!(ended.code, Some(78), "{line}: {}", ended.stderr);
        for says in [flag, "0.0.0.0:0", "--tls-cert", "--insecure"] {
            assert!(ended.stderr.contains(says), "{line} does not say {says}: {}", ended.stderr);
        }
    }
    let logs = tempfile::tempdir()?;
    let mut open = Process::start(logs.path(), "open", &flags("coordinator --grpc 0.0.0.0:0 --insecure")).await?;
    open.signal("TERM").await?;
    assert_eq!(open.ended().await?.code(), Some(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_configures_a_part_and_flags_win() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("part.toml");
    let config = ["--config".to_owned(), file.display().to_string()];
    let with = |line: &str| flags(line).into_iter().chain(config.clone()).collect::<Vec<_>>();

    std::fs::write(&file, "grpc = \"127.0.0.1:0\"\nheartbeat = \"50ms\"\nlost_after = \"2s\"\n")?;
    let coordinator = Process::start(folder.path(), "coordinator", &with("coordinator")).await?;
    let address = coordinator.address("grpc")?.to_string();
    let worker = format!(
        "role = \"decode\"\nid = \"from-the-file\"\nengine = \"sim\"\nkv_tokens = 640\ncoordinator = \"{address}\"\n\
         [sim]\nstep = \"1ms\"\n"
    );
    std::fs::write(&file, worker)?;
    let worker = Process::start(folder.path(), "worker", &with("worker")).await?;
    assert_eq!((&worker.ready["id"], &worker.ready["role"]), (&json!("from-the-file"), &json!("decode")));
    let second = Process::start(folder.path(), "second", &with("worker --id from-a-flag")).await?;
    assert_eq!(second.ready["id"], "from-a-flag");
    let pages = |w: &w::FleetWorker| w.ledger.iter().flat_map(|l| &l.parts).all(|p| p.pages_total == 10);
    let both = |view: &w::FleetView| view.workers.len() == 2 && view.workers.iter().all(pages);
    hadal_tests::cluster::fleet_until(&address, "both are there as configured", both).await?;

    let refusals = [
        ("worker", "kv_tokns = 5\n", "kv_tokns"),
        ("worker", "[sim]\nstep = \"soon\"\n", "sim.step"),
        ("worker", "[sim]\nstpe = \"1ms\"\n", "sim.stpe"),
        ("coordinator", "heartbeat = 5\nlost_after = true\n", "lost_after"),
        ("router", "http = [\"a\", \"b\"]\n", "http"),
        ("router", "http = \n", "line 1"),
    ];
    for (part, text, says) in refusals {
        std::fs::write(&file, text)?;
        let ended = process::run(&with(part)).await?;
        assert_eq!(ended.code, Some(78), "{text}: {}", ended.stderr);
        assert!(ended.stderr.contains(says) && ended.stderr.contains("part.toml"), "{text}: {}", ended.stderr);
    }
    std::fs::remove_file(&file)?;
    let ended = process::run(&with("router")).await?;
    assert_eq!(ended.code, Some(78));
    assert!(ended.stderr.contains("part.toml"), "{}", ended.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_free_pages_on_both_sides() -> Result<()> {
    let plan = Plan { prefill: 1, decode: 1, ..Plan::sim_prefilling("5ms", "1ms") };
    let cluster = Cluster::start(plan).await?;
    let mut client = cluster.client().await?;
    let decoding = request(BUNDLED, &tokens(1, 10), greedy(5000));
    let prefilling = request(BUNDLED, &tokens(2, 8000), greedy(5));
    for (what, request) in [("decode", decoding), ("prefill", prefilling)] {
        let mut timed = tonic::Request::new(request);
        timed.set_timeout(std::time::Duration::from_millis(500));
        // Both at once: the worker has it, and then its deadline passes.
        let (busy, status) = tokio::join!(cluster.busiest(what), client.refused(timed));
        let (_, status) = (busy?, status?);
        assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{what}: {status:?}");
        cluster.pages_back().await?;
    }
    let body = json!({"model": BUNDLED, "prompt": [3, 4, 5], "max_tokens": 5000, "ignore_eos": true}).to_string();
    let http = cluster.router.address("http")?;
    let timed = [("x-hadal-timeout-ms", "400")];
    let answer = http::send_with(http, "POST", "/v1/completions", &timed, &body).await?;
    assert_eq!(answer.status, 504, "{}", answer.text);
    assert_eq!(answer.json()?["error"]["code"], "deadline_exceeded");
    cluster.pages_back().await?;
    let deadlines = http::metric(http, "hadal_router_errors_total", &[r#"kind="deadline_exceeded""#, r#"api="http""#]);
    assert_eq!(deadlines.await?, 1.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_until_memory_is_free_or_their_deadline_passes() -> Result<()> {
    let mut plan = Plan { prefill: 0, decode: 1, ..Plan::sim("2ms") };
    plan.worker.extend(flags("--kv-tokens 512"));
    let cluster = Cluster::start(plan).await?;
    let mut client = cluster.client().await?;
    // Room for one of these.
    let mut running = client.open(request(BUNDLED, &tokens(1, 300), greedy(200))).await?;
    running.until_tokens(1).await?;
    let mut late = tonic::Request::new(request(BUNDLED, &tokens(2, 300), greedy(200)));
    late.set_timeout(std::time::Duration::from_millis(100));
    let status = client.refused(late).await?;
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    let mut other = cluster.client().await?;
    let waiting = tokio::spawn(async move { other.generate(request(BUNDLED, &tokens(2, 300), greedy(200))).await });
    cluster.fleet_until("it waits in the queue", |view| view.queued == 1).await?;
    let queue = cluster.coordinator.address("metrics")?;
    http::until_metric(queue, "hadal_coordinator_queue_requests", &[], |v| v == 1.0).await?;
    assert_eq!(running.rest().await?.tokens().len(), 200);
    assert_eq!(timeout(PATIENCE, waiting).await???.tokens().len(), 200);
    let view = cluster.pages_back().await?;
    assert_eq!(view.queued, 0);
    Ok(())
}

/// A metric, its labels, and what its sum must be after the traffic of the test.
type Expected = (&'static str, &'static [&'static str], fn(f64) -> bool);

async fn assert_metrics(address: std::net::SocketAddr, expected: &[Expected]) -> Result<()> {
    let page = http::send(address, "GET", "/metrics", "").await?;
    assert_eq!(page.status, 200);
    for (name, labels, plausible) in expected {
        assert!(page.text.contains(&format!("# HELP {}", base(name))), "{name} is missing:\n{}", page.text);
        http::until_metric(address, name, labels, plausible).await?;
    }
    Ok(())
}

fn base(name: &str) -> &str {
    ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_shows_its_metrics_with_plausible_values() -> Result<()> {
    let name = "deepseek_v32";
    let cluster = Cluster::start(Plan { prefill: 1, decode: 1, ..Plan::exact(&golden(name)) }).await?;
    let mut client = cluster.client().await?;
    for _ in 0..2 {
        // 4 blocks and a bit, the second time cached; 20 tokens.
        client.generate(request(name, &tokens(1, 270), greedy(20))).await?;
    }
    let refused = http::send(cluster.router.address("http")?, "POST", "/v1/completions", "{").await?;
    assert_eq!(refused.status, 400);
    cluster.pages_back().await?;

    let router: &[Expected] = &[
        ("hadal_router_requests_total", &[r#"api="grpc""#, r#"outcome="ok""#], |v| v == 2.0),
        ("hadal_router_ttft_seconds_count", &[], |v| v == 2.0),
        ("hadal_router_ttft_seconds_sum", &[], |v| v > 0.0 && v < 120.0),
        ("hadal_router_tpot_seconds_count", &[], |v| v == 2.0),
        ("hadal_router_tpot_seconds_sum", &[], |v| v > 0.0 && v < 60.0),
        ("hadal_router_request_seconds_count", &[], |v| v == 2.0),
        ("hadal_router_placement_seconds_count", &[], |v| v == 2.0),
        ("hadal_router_prompt_tokens_total", &[], |v| v == 540.0),
        ("hadal_router_output_tokens_total", &[], |v| v == 40.0),
        ("hadal_router_cached_tokens_total", &[], |v| v == 256.0),
        ("hadal_router_errors_total", &[r#"api="http""#, r#"kind="invalid_value""#], |v| v == 1.0),
        ("hadal_router_requests_active", &[], |v| v == 0.0),
        ("hadal_router_requests_waiting", &[], |v| v == 0.0),
        ("hadal_router_coordinator_connected", &[], |v| v == 1.0),
    ];
    assert_metrics(cluster.router.address("http")?, router).await?;

    let coordinator: &[Expected] = &[
        ("hadal_coordinator_workers", &[], |v| v == 2.0),
        ("hadal_coordinator_placements_total", &[r#"outcome="placed""#], |v| v == 2.0),
        ("hadal_coordinator_queue_requests", &[], |v| v == 0.0),
        ("hadal_coordinator_queue_seconds_count", &[], |v| v == 2.0),
        ("hadal_coordinator_placement_seconds_count", &[], |v| v >= 2.0),
        ("hadal_coordinator_placement_seconds_sum", &[], |v| v > 0.0 && v < 10.0),
        ("hadal_coordinator_directory_blocks", &[], |v| v >= 4.0),
        ("hadal_coordinator_prefix_blocks_total", &[r#"result="hit""#], |v| v == 4.0),
    ];
    assert_metrics(cluster.coordinator.address("metrics")?, coordinator).await?;

    let prefill: &[Expected] = &[
        ("hadal_worker_requests_total", &[r#"leg="prefill""#, r#"outcome="ok""#], |v| v == 1.0),
        ("hadal_worker_tokens_total", &[r#"phase="prefill""#], |v| v == 269.0),
        ("hadal_worker_kv_bytes_total", &[r#"direction="sent""#, r#"part="index""#], |v| v > 0.0),
        ("hadal_worker_kv_bytes_total", &[r#"direction="sent""#, r#"part="latent""#], |v| v > 0.0),
        ("hadal_worker_step_seconds_count", &[], |v| v >= 1.0),
        ("hadal_worker_pages", &[r#"part="index""#, r#"state="cached""#], |v| v >= 4.0),
        ("hadal_worker_coordinator_connected", &[], |v| v == 1.0),
    ];
    let decode: &[Expected] = &[
        ("hadal_worker_requests_total", &[r#"leg="generate""#, r#"outcome="ok""#], |v| v == 2.0),
        ("hadal_worker_tokens_total", &[r#"phase="decode""#], |v| v >= 38.0),
        ("hadal_worker_ttft_seconds_count", &[], |v| v == 2.0),
        ("hadal_worker_tpot_seconds_count", &[], |v| v == 2.0),
        ("hadal_worker_tpot_seconds_sum", &[], |v| v > 0.0 && v < 60.0),
        ("hadal_worker_step_seconds_sum", &[], |v| v > 0.0 && v < 120.0),
        ("hadal_worker_kv_bytes_total", &[r#"direction="received""#, r#"part="index""#], |v| v > 0.0),
        ("hadal_worker_kv_bytes_total", &[r#"direction="received""#, r#"part="latent""#], |v| v > 0.0),
        ("hadal_worker_transfers_total", &[r#"direction="received""#, r#"outcome="ok""#], |v| v == 1.0),
        ("hadal_worker_prefix_tokens_total", &[r#"part="index""#, r#"result="hit""#], |v| v == 256.0),
        ("hadal_worker_prefix_tokens_total", &[r#"part="latent""#, r#"result="hit""#], |v| v == 256.0),
        ("hadal_worker_pages", &[r#"part="latent""#, r#"state="used""#], |v| v == 0.0),
        ("hadal_worker_pages", &[r#"part="latent""#, r#"state="cached""#], |v| v >= 4.0),
        ("hadal_worker_weights_bytes", &[], |v| v > 1e6),
    ];
    assert_metrics(cluster.workers[0].address("metrics")?, prefill).await?;
    assert_metrics(cluster.workers[1].address("metrics")?, decode).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn up_takes_another_name_and_ends_at_ctrl_c_with_streams_finished() -> Result<()> {
    let logs = tempfile::tempdir()?;
    let line = "up --http 127.0.0.1:0 --grpc 127.0.0.1:0 --decode 1 --prefill 1 --threads 1 --served-model-name mine";
    let mut up = Process::start(logs.path(), "up", &flags(line)).await?;
    let mut client = Client::connect(up.address("grpc")?).await?;
    let mut running = client.open(request("mine", &tokens(1, 100), greedy(400))).await?;
    running.until_tokens(1).await?;
    up.signal("INT").await?;
    assert_eq!(running.rest().await?.tokens().len(), 400);
    assert_eq!(up.ended().await?.code(), Some(0), "{}", up.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_streamed_as_they_come_over_http() -> Result<()> {
    use tokio::io::AsyncWriteExt;
    let cluster = Cluster::start(Plan { prefill: 0, decode: 1, ..Plan::sim("5ms") }).await?;
    let http = cluster.router.address("http")?;
    let body =
        json!({"model": BUNDLED, "prompt": [3], "max_tokens": 9000, "stream": true, "ignore_eos": true}).to_string();
    let mut stream = TcpStream::connect(http).await?;
    stream.write_all(http::request(http, "POST", "/v1/completions", &[], &body).as_bytes()).await?;
    // 45 s of tokens are to come, and the first ones are here.
    let mut first = vec![0; 1000];
    timeout(PATIENCE, stream.read_exact(&mut first)).await??;
    let text = String::from_utf8_lossy(&first);
    assert!(text.contains("text/event-stream") && text.contains("data: {"), "{text}");
    drop(stream);
    cluster.pages_back().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requests_id_is_in_the_logs_of_every_part() -> Result<()> {
    let mut plan = Plan::of(1, 1, "--engine sim");
    plan.all = flags("--log-level debug");
    let mut cluster = Cluster::start(plan).await?;
    let mut ask = request(BUNDLED, &tokens(9, 200), greedy(4));
    ask.options.get_or_insert_default().request_id = "find-me-17".into();
    cluster.client().await?.generate(ask).await?;
    cluster.router.until_says(&["request answered", "find-me-17"]).await?;
    cluster.coordinator.until_says(&["placed", "find-me-17"]).await?;
    cluster.named("prefill-0").context("it runs")?.until_says(&["prefill finished", "find-me-17"]).await?;
    cluster.named("decode-0").context("it runs")?.until_says(&["request finished", "find-me-17"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_nobody_can_dial_is_not_advertised() -> Result<()> {
    for flag in ["--grpc-advertise", "--transfer-advertise"] {
        for address in ["somewhere", "somewhere:0", ":8003", "somewhere:http"] {
            let ended = process::run(&["worker", "--engine", "sim", flag, address]).await?;
            assert_eq!(ended.code, Some(78), "{flag} {address}: {}", ended.stderr);
            assert!(ended.stderr.contains(flag) && ended.stderr.contains("HOST:PORT"), "{}", ended.stderr);
        }
    }
    Ok(())
}
