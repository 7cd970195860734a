//! The bundled model is whole, and one that is not would be named.

use std::collections::BTreeMap;

use hadal_model::{LoadOptions, Model};
use hadal_types::{Dtype, KvEncoding};

use super::sums::{Damage, NAMES, check, lines};
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
        drafts: false,
        pool: None,
        progress: &|_| {},
    };
    Model::load(&files, &options).unwrap();
}

#[test]
fn the_sums_are_those_of_the_bundled_files() {
    let named: Vec<&str> = lines(SUMS).unwrap().into_iter().map(|(_, name)| name).collect();
    assert_eq!(named, FILES.map(|(name, _)| name));
    assert_eq!(named, NAMES);
}

#[test]
fn damaged_sums_do_not_check_less() {
    let read = |name: &str| FILES.iter().find(|(n, _)| *n == name).map(|(_, bytes)| bytes);
    let check = |sums: &str| check(sums, NAMES, read);
    assert_eq!(check(SUMS), Ok(()));

    let no_sum = |name: &str| Err(Damage::NoSum(name.to_owned()));
    assert_eq!(check(""), no_sum("config.json"));
    let (kept, last) = SUMS.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(check(kept), no_sum("tokenizer_config.json"));

    // Cut off within the last line: in its sum, before its name, in its name.
    assert_eq!(check(&format!("{kept}\n{}", &last[..40])), Err(Damage::Line(5)));
    assert_eq!(check(&format!("{kept}\n{}", &last[..66])), Err(Damage::Line(5)));
    assert_eq!(check(&format!("{kept}\n{}", &last[..70])), no_sum("tokenizer_config.json"));

    assert_eq!(check(&SUMS.replace("  model", " model")), Err(Damage::Line(3)));
    assert_eq!(check(&format!("\n{SUMS}")), Err(Damage::Line(1)));
    let not_hexadecimal = SUMS.replacen(&SUMS[..4], "zzzz", 1);
    assert_eq!(check(&not_hexadecimal), Err(Damage::Line(1)));
    assert!(Damage::Line(1).to_string().contains("line 1 is not a BLAKE3, two spaces and a name"));
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
    let names = ["a.json", "b.bin"];
    let mut files = BTreeMap::from([("a.json", b"a"), ("b.bin", b"b")]);
    assert_eq!(check(&sums, names, |name| files.get(name)), Ok(()));

    files.insert("b.bin", b"c");
    let damage = check(&sums, names, |name| files.get(name)).unwrap_err().to_string();
    assert_eq!(damage, format!("b.bin is damaged: its BLAKE3 is {}, and should be {}", sum(b"c"), sum(b"b")));

    files.remove("a.json");
    let damage = check(&sums, names, |name| files.get(name)).unwrap_err();
    assert_eq!(damage.to_string(), format!("a.json is missing; its BLAKE3 should be {}", sum(b"a")));
    let told = Error::Damaged(damage).to_string();
    assert!(told.starts_with("the bundled model's a.json is missing") && told.contains("install it again"), "{told}");
}
