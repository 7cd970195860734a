//! Fuzz target: a checkpoint's configuration, index of shards and safetensors header out of arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hadal_model::fuzz::loader(bytes));
