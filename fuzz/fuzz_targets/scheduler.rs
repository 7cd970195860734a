//! Fuzz target: a schedule of two workers out of arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hadal_worker_core::fuzz::scheduler(bytes));
