//! What a checkpoint claims does not make its loader take memory: a few KB of files are refused within a few MB. In a
//! binary of its own, since its allocator counts for all tests of it.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

use std::alloc::System;

use hadal_model::{Files, LoadOptions, Model, Path};
use hadal_types::{Dtype, KvEncoding};
use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes allocated on the way at most, whether they were given back or not.
const BYTES_MAX: usize = 8 << 20;

/// A golden configuration with some keys set.
fn config(changes: Value) -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/deepseek_v32/config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    config.to_string().into_bytes()
}

/// A safetensors file with this header and so many bytes of data.
fn shard(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

/// What opening and loading these files says, and the bytes allocated meanwhile.
fn load(config: &[u8], shard: &[u8]) -> (String, usize) {
    let files: [(&str, &'static [u8]); 3] = [
        ("config.json", config.to_vec().leak()),
        ("tokenizer.json", b"{}"),
        ("model.safetensors", shard.to_vec().leak()),
    ];
    let region = Region::new(ALLOCATOR);
    let (dtype, kv, path) = (Dtype::Bf16, KvEncoding::Bf16, Path::Portable);
    let options = LoadOptions { dtype, kv, path, pool: None, drafts: true, progress: &|_| {} };
    let said = match Files::embedded(&files) {
        Ok(files) => Model::load(&files, &options).map(|_| ()).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    (said, region.change().bytes_allocated)
}

#[test]
fn what_a_checkpoint_claims_takes_no_memory() {
    let many = config(json!({"num_hidden_layers": 512, "n_routed_experts": 4096, "n_group": 1, "topk_group": 1}));
    let wide = config(json!({"hidden_size": 262_144, "vocab_size": 1_048_576, "intermediate_size": 262_144}));
    let embedding = |shape: &str, end: u64| {
        format!(r#"{{"model.embed_tokens.weight": {{"dtype": "BF16", "shape": {shape}, "data_offsets": [0, {end}]}}}}"#)
    };
    let huge = u64::to_le_bytes(99 << 20).to_vec();
    let tensors = |n: usize| {
        let entry = |i| format!(r#""t{i}": {{"dtype": "BF16", "shape": [512], "data_offsets": [0, 1024]}}"#);
        format!("{{{}}}", (0..n).map(entry).collect::<Vec<_>>().join(","))
    };
    let cases = [
        (&many, shard("{}", 0), "tensor model.embed_tokens.weight is missing"),
        (&many, shard(&embedding("[512, 128]", 131_072), 131_072), "tensor model.norm.weight is missing"),
        (&wide, shard(&embedding("[512, 128]", 131_072), 131_072), "but config.json promises [1048576, 262144]"),
        (&wide, shard(&embedding("[1048576, 262144]", 1 << 39), 64), "truncated"),
        (&many, huge, "truncated"),
        (&many, shard(&tensors(1000), 1024), "overlap"),
        (&many, shard(&format!("{{\"a\": {}", "[".repeat(50_000)), 0), "the header is corrupt"),
    ];
    for (config, shard, expected) in cases {
        let (said, bytes) = load(config, &shard);
        assert!(said.contains(expected), "{said}");
        assert!(bytes < BYTES_MAX, "{bytes} bytes for {expected:?}");
    }
}
