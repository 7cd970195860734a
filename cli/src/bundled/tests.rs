//! The bundled model is whole, and one that is not would be named.

use std::collections::BTreeMap;

use hadal_model::{LoadOptions, Model};
use hadal_types::{Dtype, KvEncoding};

use super::sums::{check, lines};
use super::*;

/// What all files together may have: they are in every checkout and in every binary.
const BYTES_MAX: usize = 16 << 20;

#[test]
fn the_bundled_model_is_whole_and_loads() {
    let files = open().unwrap();
    let options = LoadOptions {
        dtype: Dtype::Bf16,
        kv: KvEncoding::Bf16,
        path: hadal_model::Path::detect(),
        pool: None,
        progress: &|_| {},
    };
    Model::load(&files, &options).unwrap();
}

#[test]
fn every_bundled_file_has_a_sum() {
    let named: Vec<&str> = lines(SUMS).map(|(_, name)| name).collect();
    assert_eq!(named, FILES.map(|(name, _)| name));
    assert_eq!(named.len(), SUMS.lines().count());
}

#[test]
fn the_bundled_model_is_small() {
    let bytes: usize = FILES.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(bytes <= BYTES_MAX, "{bytes} bytes");
}

#[test]
fn a_damaged_or_missing_file_is_named_with_its_hashes() {
    let sum = |bytes: &[u8]| blake3::hash(bytes).to_hex();
    let sums = format!("{}  a.json\n{}  b.bin\n", sum(b"a"), sum(b"b"));
    let mut files = BTreeMap::from([("a.json", b"a"), ("b.bin", b"b")]);
    assert_eq!(check(&sums, |name| files.get(name)), Ok(()));

    files.insert("b.bin", b"c");
    let damage = check(&sums, |name| files.get(name)).unwrap_err().to_string();
    assert_eq!(damage, format!("b.bin is damaged: its BLAKE3 is {}, and should be {}", sum(b"c"), sum(b"b")));

    files.remove("a.json");
    let damage = check(&sums, |name| files.get(name)).unwrap_err();
    assert_eq!(damage.to_string(), format!("a.json is missing; its BLAKE3 should be {}", sum(b"a")));
    let told = Error::Damaged(damage).to_string();
    assert!(told.starts_with("the bundled model's a.json is missing") && told.contains("install it again"), "{told}");
}
