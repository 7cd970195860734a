//! The catalogue's rules, its page, and rendering.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use super::*;

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[test]
fn names_are_valid_unique_and_say_their_unit() {
    let mut seen = BTreeSet::new();
    for desc in catalogue::all() {
        let name = desc.name;
        assert!(seen.insert(name), "{name} stands twice");
        let parts = ["hadal_router_", "hadal_coordinator_", "hadal_worker_"];
        assert!(is_name(name) && parts.iter().any(|p| name.starts_with(p)), "{name}");
        assert_eq!(desc.kind == Kind::Counter, name.ends_with("_total"), "{name}: counters end in _total");
        assert!(desc.labels.iter().all(|label| is_name(label) && *label != "worker" && *label != "le"), "{name}");
        assert!(desc.help.ends_with('.') && desc.advice.ends_with('.'), "{name}: sentences");
        if let Kind::Histogram(buckets) = desc.kind {
            assert!(buckets.is_sorted_by(|a, b| a < b), "{name}: buckets");
            assert!(name.ends_with(desc.unit), "{name} does not end in {}", desc.unit);
        }
    }
}

#[test]
fn no_metric_is_left_out_of_the_list() {
    let sources = [
        include_str!("catalogue/router.rs"),
        include_str!("catalogue/coordinator.rs"),
        include_str!("catalogue/worker.rs"),
    ];
    let statics: usize = sources.iter().map(|source| source.matches("pub static ").count()).sum();
    assert_eq!(catalogue::all().count(), statics);
}

#[test]
fn every_metric_registers_once() {
    let metrics = Metrics::new(&[("worker", "w")]);
    for desc in catalogue::all() {
        let register = || match desc.kind {
            Kind::Counter => metrics.counter(desc).map(drop),
            Kind::Gauge => metrics.gauge(desc).map(drop),
            Kind::Histogram(_) => metrics.histogram(desc).map(drop),
        };
        register().unwrap();
        assert!(register().is_err());
    }
    assert!(metrics.counter(&catalogue::WORKER_PAGES).is_err());
    assert!(metrics.histogram(&catalogue::WORKER_PAGES).is_err());
}

#[test]
fn families_of_several_parts_are_one() {
    let workers = ["prefill-0", "decode-0"].map(|id| Metrics::new(&[("worker", id)]));
    for (count, metrics) in workers.iter().enumerate() {
        let tokens = metrics.counter(&catalogue::WORKER_TOKENS).unwrap();
        tokens.with_label_values(&["prefill"]).inc_by(count as u64 + 1);
        let times = metrics.histogram(&catalogue::WORKER_STEP_TIME).unwrap();
        times.with_label_values(&[] as &[&str]).observe(0.5);
    }
    let text = render(&[Metrics::new(&[]).beside(workers)]);
    assert_eq!(text.matches("# TYPE hadal_worker_tokens_total counter").count(), 1);
    assert_eq!(text.matches("# HELP hadal_worker_step_seconds ").count(), 1);
    assert!(text.contains(r#"hadal_worker_tokens_total{phase="prefill",worker="prefill-0"} 1"#), "{text}");
    assert!(text.contains(r#"hadal_worker_tokens_total{phase="prefill",worker="decode-0"} 2"#), "{text}");
}

fn page() -> String {
    let mut text = String::from(
        "# Metrics\n\nEvery part serves Prometheus metrics at `/metrics`. This page is made from \
         `proto/shell/src/metrics/catalogue/`;\n`UPDATE=1 cargo test -p hadal-shell` renews it. Every metric of a \
         worker also bears the label `worker`.\n",
    );
    for (title, prefix) in
        [("Router", "hadal_router_"), ("Coordinator", "hadal_coordinator_"), ("Worker", "hadal_worker_")]
    {
        let _ = write!(text, "\n## {title}\n");
        for desc in catalogue::all().filter(|d| d.name.starts_with(prefix)) {
            let labels: Vec<_> = desc.labels.iter().map(|l| format!("`{l}`")).collect();
            let labels = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
            let _ = write!(
                text,
                "\n### `{}`\n\n{}\n\n- Kind: {}; unit: {}; labels: {labels}.\n- When it moves: {}\n",
                desc.name,
                desc.help,
                desc.kind.name(),
                desc.unit,
                desc.advice
            );
        }
    }
    text
}

#[test]
fn the_page_is_that_of_the_catalogue() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == page(), "docs/metrics.md is stale; renew it with UPDATE=1 cargo test -p hadal-shell");
}

#[tokio::test]
async fn readiness_turns_to_no_while_the_part_drains_and_metrics_stay() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let tasks = crate::tasks::Tasks::new();
    let metrics = Metrics::new(&[]);
    metrics.gauge(&catalogue::COORDINATOR_QUEUE).unwrap().with_label_values(&[] as &[&str]).set(3);
    let (listener, address) = crate::net::listen_public("--metrics", "127.0.0.1:0").unwrap();
    serve(&tasks, listener, Status::new(metrics, || Ok(())));
    let get = async |path: &str| {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    assert!(get("/ready").await.starts_with("HTTP/1.1 200"));
    tasks.drain();
    let ready = get("/ready").await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("not ready: draining"), "{ready}");
    assert!(get("/health").await.starts_with("HTTP/1.1 200"));
    assert!(get("/metrics").await.contains("hadal_coordinator_queue_requests 3"));
    tasks.join(std::time::Duration::from_secs(60)).await.unwrap();
}
