//! `hadal bench`: what it prints, what it refuses, and how it ends.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{hadal, run};

fn json(args: &[&str]) -> Value {
    let ended = run(args);
    assert_eq!(ended.code, 0, "{args:?}: {}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap()
}

/// Every one of `keys` is a number above 0.
#[track_caller]
fn positive(of: &Value, keys: &[&str]) {
    for key in keys {
        assert!(of[key].as_f64().is_some_and(|n| n > 0.0), "{key}: {of}");
    }
}

#[test]
fn kernels_have_a_time_and_a_share_of_a_limit() {
    let report = json(&["bench", "kernels", "--quick", "--threads", "1", "--cpu", "portable", "--json"]);
    assert_eq!((&report["cpu"], &report["threads"]), (&"portable".into(), &1.into()));
    assert_eq!((&report["clock"], &report["quick"]), (&"thread-cpu".into(), &true.into()));
    positive(&report, &["last_level_cache_bytes", "beyond_cache_bytes", "rounds"]);
    positive(
        &report["limits"],
        &["read_bytes_per_s", "f32_operations_per_s", "bf16_operations_per_s", "int8_operations_per_s"],
    );
    let kernels = report["kernels"].as_array().unwrap();
    for kernel in kernels {
        positive(kernel, &["seconds", "bytes", "operations", "bytes_per_s", "operations_per_s", "share"]);
        assert!(["memory", "f32", "bf16", "int8"].contains(&kernel["limit"].as_str().unwrap()), "{kernel}");
    }
    for name in ["linear_bf16_1", "linear_fp8_16", "index_bf16_1", "mla_sparse_bf16", "mla_dense_bf16", "experts_fp8"] {
        assert!(kernels.iter().any(|k| k["name"] == name), "{name}: {report}");
    }
}

#[test]
fn the_table_of_kernels_says_that_small_shapes_are_no_figures() {
    let ended = run(&["bench", "kernels", "--quick"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    for part in ["Last-level cache", "peak of bf16", "linear_bf16_1", "share of limit", "no figures"] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
}

#[test]
fn wrong_flags_of_benches_are_usage_errors() {
    for args in [vec!["bench"], vec!["bench", "nothing"], vec!["bench", "kernels", "--cpu", "sse9"]] {
        let ended = run(&args);
        assert_eq!(ended.code, 64, "{args:?}: {}", ended.stderr);
    }
    let ended = run(&["bench", "kernels", "--cpu", "sse9"]);
    assert!(ended.stderr.contains("avx512, avx2, portable"), "{}", ended.stderr);
}

#[test]
fn an_interrupt_ends_a_bench() {
    let mut bench = hadal()
        .args(["bench", "kernels", "--quick", "--seconds", "100000"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Progress shows that it is in the midst of it.
    let mut line = String::new();
    BufReader::new(bench.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("round"), "{line}");
    let kill = format!("kill -INT {}", bench.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    assert_eq!(bench.wait().unwrap().signal(), Some(2));
}

#[test]
fn cost_has_a_curve_for_each_encoding_and_a_summary() {
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("cost.svg");
    let args = ["bench", "cost", "--quick", "--kv", "bf16,fp8", "--dollars-per-hour", "2", "--json", "--svg"];
    let report = json(&[&args[..], &[svg.to_str().unwrap()]].concat());
    assert!(std::fs::read_to_string(&svg).unwrap().contains("Decode"));
    assert_eq!(report["curves"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&report["quick"], &report["layers"], &report["experts_resident"]),
        (&true.into(), &61.into(), &16.into())
    );
    for curve in report["curves"].as_array().unwrap() {
        for (point, position) in curve["points"].as_array().unwrap().iter().zip([128, 256]) {
            assert_eq!(point["position"], position);
            for dsa in [&point["decode"]["dsa"], &point["prefill"]["dsa"]] {
                positive(dsa, &["seconds_per_token", "dollars_per_million_tokens"]);
                positive(&dsa["parts"], &["queries", "index_scan", "attention", "output", "experts"]);
            }
            let dense = &point["decode"]["dense"];
            positive(&dense["parts"], &["queries", "absorb", "attention", "experts"]);
            assert_eq!(dense["parts"]["index_scan"], 0.0);
            positive(&point["decode"], &["ratio"]);
        }
    }
    positive(&report["summary"], &["dense_decode_peak_share", "batch", "chunk"]);
    // Neither 128K nor 4K was measured.
    assert_eq!(report["summary"]["decode_ratio_128k"], Value::Null);
    assert_eq!(report["summary"]["decode_attention_128k_over_4k"]["bf16"], Value::Null);
}

#[test]
fn cost_runs_on_every_path_and_prints_a_table() {
    let ended =
        run(&["bench", "cost", "--quick", "--cpu", "portable", "--threads", "1", "--positions", "200", "--kv", "bf16"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    for part in ["portable, 1 threads, thread-cpu time", "16 experts resident", "no figures", "not on this kernel path"]
    {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
}

#[test]
fn cost_refuses_what_it_cannot_measure() {
    for (flags, code, says) in [
        (&["--positions", "4096,many"][..], 64, "many"),
        (&["--positions", "0"], 64, "163840"),
        (&["--positions", "200000"], 64, "163840"),
        (&["--kv", "fp4"], 64, "fp4"),
        (&["--batch", "0"], 64, "--batch"),
        (&["--dollars-per-hour=-1"], 64, "above 0"),
        (&["--chunk", "64", "--rows", "65"], 64, "--rows 65"),
        (&["--batch", "1024", "--positions", "163840", "--kv", "f32"], 69, "smaller --batch"),
        (&["--svg", "/nowhere/cost.svg"], 74, "/nowhere/cost.svg"),
    ] {
        let ended = run(&[&["bench", "cost", "--cpu", "portable"], flags].concat());
        assert_eq!(ended.code, code, "{flags:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{flags:?}: {}", ended.stderr);
    }
}
