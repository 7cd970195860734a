//! The built binary: what it refuses and how it ends.

#[cfg(test)]
mod bench;
#[cfg(test)]
mod support;

use support::{Child, busy_router, hadal, run};

#[test]
fn wrong_flags_are_usage_errors() {
    for args in [vec!["up", "--nope"], vec!["nothing"], vec![], vec!["worker", "--role", "both"]] {
        let ended = run(&args);
        assert_eq!(ended.code, 64, "{args:?}: {}", ended.stderr);
    }
    assert_eq!(run(&["--help"]).code, 0);
    assert!(run(&["worker", "--help"]).stdout.contains("Examples:"));
}

#[test]
fn a_wrong_key_is_refused_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("router.toml");
    std::fs::write(&path, "[tls]\ncerts = 'x'").unwrap();
    let ended = run(&["router", "--config", path.to_str().unwrap()]);
    assert_eq!(ended.code, 78);
    assert!(ended.stderr.contains("unknown key tls.certs; did you mean tls_cert?"), "{}", ended.stderr);
}

#[test]
fn inconsistent_settings_are_refused() {
    let ended = run(&["worker", "--step-tokens", "8", "--requests-max", "8"]);
    assert_eq!(ended.code, 78);
    assert!(ended.stderr.contains("--step-tokens"), "{}", ended.stderr);
    let ended = run(&["coordinator", "--heartbeat", "2s", "--lost-after", "1s"]);
    assert_eq!(ended.code, 78);
    let ended = run(&["coordinator", "--tls-cert", "/nowhere/c", "--tls-key", "/nowhere/k", "--tls-ca", "/nowhere/a"]);
    assert_eq!(ended.code, 78);
    assert!(ended.stderr.contains("--tls-cert /nowhere/c"), "{}", ended.stderr);
}

#[test]
fn a_listener_is_not_exposed_by_accident() {
    let ended = run(&["coordinator", "--grpc", "0.0.0.0:0"]);
    assert_eq!(ended.code, 78);
    assert!(ended.stderr.contains("--insecure") && ended.stderr.contains("--tls-cert"), "{}", ended.stderr);
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for args in [vec!["coordinator", "--grpc", &address], vec!["up", "--grpc", "127.0.0.1:0", "--http", &address]] {
        let ended = run(&args);
        assert_eq!(ended.code, 69, "{}", ended.stderr);
        assert!(ended.stderr.contains(&address) && ended.stderr.contains("in use"), "{}", ended.stderr);
    }
}

#[test]
fn a_checkpoint_that_is_not_there_is_named() {
    for args in [vec!["up", "/nowhere", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"], vec!["inspect", "/nowhere"]]
    {
        let ended = run(&args);
        assert_eq!(ended.code, 66, "{}", ended.stderr);
        assert!(ended.stderr.contains("/nowhere"), "{}", ended.stderr);
    }
}

#[test]
fn inspect_prints_what_a_published_model_needs() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/configs/deepseek-v3.2-exp.json");
    let text = run(&["inspect", config, "--context", "131072"]);
    assert_eq!(text.code, 0, "{}", text.stderr);
    assert!(text.stdout.contains("deepseek_v32"), "{}", text.stdout);
    let json: serde_json::Value = serde_json::from_str(&run(&["inspect", config, "--json"]).stdout).unwrap();
    assert_eq!(json["architecture"], "deepseek_v32");
    let bytes = |part: usize| json["parts"][part]["token_bytes"].as_f64().unwrap();
    assert_eq!((bytes(0), bytes(1)), (8052.0, 40016.0));
    assert_eq!(run(&["inspect"]).code, 0);
}

#[test]
fn check_tells_what_a_cache_costs_in_quality() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/sample");
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/held-out.txt");
    let quality = ["check", model, "--quality", "--text", text, "--windows", "1", "--window", "300"];
    let ended = run(&[&quality[..], &["--dtype", "bf16", "--kv", "int8-index", "--json"]].concat());
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let found: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&found["tokens"], &found["kinds"][0]["kv"]), (&299.into(), &"int8-index".into()));
    assert!(found["kinds"][0]["perplexity_change"].as_f64().unwrap().abs() < 0.05, "{found}");
    assert_eq!(run(&[&quality[..], &["--dtype", "f32", "--kv", "f32"]].concat()).code, 64);
    assert_eq!(run(&["check", model, "--kv", "f32"]).code, 64, "without --quality it means nothing");
}

#[test]
fn a_router_waits_for_its_coordinator_and_drains_at_a_signal() {
    let mut router = Child::start(hadal().args([
        "router",
        "--http",
        "127.0.0.1:0",
        "--grpc",
        "127.0.0.1:0",
        "--coordinator",
        "127.0.0.1:9",
    ]));
    let ready = router.get("/ready");
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(router.get("/health").starts_with("HTTP/1.1 200"));
    assert_eq!(router.terminate(), 0);
}

#[test]
fn up_answers_on_free_ports_and_drains_at_a_signal() {
    let mut up = Child::start(hadal().args(["up", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--decode", "1"]));
    assert_eq!(up.told["model"], "hadal-sample");
    assert_eq!(up.told["workers"].as_array().unwrap().len(), 3);
    assert!(up.get("/ready").starts_with("HTTP/1.1 200"));
    let answer = up.post("/v1/completions", r#"{"model":"hadal-sample","prompt":"Once upon a time","max_tokens":8}"#);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let body: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["usage"]["completion_tokens"], 8, "{body}");
    let metrics = up.get("/metrics");
    for name in ["hadal_router_requests_total", "hadal_coordinator_workers", "hadal_worker_tokens_total"] {
        assert_eq!(metrics.matches(&format!("# TYPE {name} ")).count(), 1, "{name}:\n{metrics}");
    }
    assert_eq!(up.terminate(), 0);
}

#[test]
fn a_drain_ends_at_its_timeout_or_at_a_second_signal() {
    let coordinator = Child::start(hadal().args(["coordinator", "--grpc", "127.0.0.1:0"]));
    let address = coordinator.address("grpc");
    let sim = ["worker", "--engine", "sim", "--sim-step", "1h", "--coordinator", &address];
    let _worker = Child::start(hadal().args(sim));
    let mut router = busy_router(&address, &["--drain-timeout", "1ms"]);
    assert_eq!(router.terminate(), 75);
    let mut router = busy_router(&address, &["--drain-timeout", "1h"]);
    router.signal();
    router.until("/ready", |answer| answer.as_ref().is_ok_and(|a| a.starts_with("HTTP/1.1 503")) || answer.is_err());
    assert_eq!(router.terminate(), 130);
}
