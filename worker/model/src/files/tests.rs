//! Checkpoints that open, and every way in which one may be damaged: what is wrong is named, and nothing panics.

use proptest::prelude::*;

use super::safetensors::read_header;
use super::*;
use crate::testing::{copy, golden};

fn refused(dir: &Path) -> String {
    match Files::open(dir) {
        Ok(_) => panic!("a damaged checkpoint opened"),
        Err(error) => error.to_string(),
    }
}

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

/// A safetensors file with this header and so many bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn shards_and_single_files_open_alike() {
    let sharded = Files::open(&golden("deepseek_v32-fp8")).unwrap();
    let single = Files::open(&golden("deepseek_v32")).unwrap();
    assert_eq!((sharded.shards.len(), single.shards.len()), (2, 1));
    assert_eq!(single.tensor("lm_head.weight").unwrap().shape, [512, 128]);
    assert!(sharded.tensor("model.layers.4.eh_proj.weight").is_some());
    assert!(single.small_file("tokenizer.json").is_some());
    assert_ne!(sharded.fingerprint(), single.fingerprint());
}

#[test]
fn a_bundled_model_is_the_same_model() {
    let dir = golden("deepseek_v2");
    let names = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];
    let files: Vec<(&str, &'static [u8])> =
        names.iter().map(|n| (*n, &*std::fs::read(dir.join(n)).unwrap().leak())).collect();
    let bundled = Files::embedded(&files).unwrap();
    assert_eq!(bundled.fingerprint(), Files::open(&dir).unwrap().fingerprint());
}

#[test]
fn other_weights_have_another_fingerprint() {
    let dir = copy("deepseek_v2");
    let before = Files::open(dir.path()).unwrap().fingerprint();
    let path = dir.path().join(SINGLE);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_ne!(Files::open(dir.path()).unwrap().fingerprint(), before);
}

#[test]
fn a_missing_folder_says_what_to_give() {
    assert_says(&refused(Path::new("/nonexistent/model")), &["/nonexistent/model", "Hugging Face layout"]);
}

#[test]
fn a_missing_tokenizer_is_named_with_what_to_do() {
    let dir = copy("deepseek_v2");
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    assert_says(&refused(dir.path()), &["tokenizer.json", "missing", "save_pretrained"]);
}

#[test]
fn a_missing_shard_is_named() {
    let dir = copy("deepseek_v32-fp8");
    std::fs::remove_file(dir.path().join("model-00002-of-00002.safetensors")).unwrap();
    assert_says(&refused(dir.path()), &["model-00002-of-00002.safetensors", "missing", "fetch this shard"]);
    std::fs::remove_file(dir.path().join(INDEX)).unwrap();
    assert_says(&refused(dir.path()), &["model.safetensors: missing", "nor is there a model.safetensors.index.json"]);
}

#[test]
fn a_truncated_shard_is_named_with_both_sizes() {
    let dir = copy("deepseek_v32-fp8");
    let path = dir.path().join("model-00001-of-00002.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for length in [bytes.len() - 1, 4096, 8, 3, 0] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let message = refused(dir.path());
        assert_says(&message, &["model-00001-of-00002.safetensors", &format!("{length} bytes"), "truncated"]);
    }
}

#[test]
fn an_index_that_promises_too_much_or_leads_away_is_refused() {
    let dir = copy("deepseek_v32-fp8");
    let path = dir.path().join(INDEX);
    let index = |map: &str| std::fs::write(&path, format!("{{\"weight_map\": {{{map}}}}}")).unwrap();
    index(r#""x.weight": "model-00001-of-00002.safetensors""#);
    assert_says(&refused(dir.path()), &[INDEX, "x.weight"]);
    for shard in ["../model.safetensors", "/etc/passwd", ".hidden", ""] {
        index(&format!(r#""x": "{shard}""#));
        assert_says(&refused(dir.path()), &[INDEX, "no plain file name"]);
    }
    index("");
    assert_says(&refused(dir.path()), &["lists no tensor"]);
    std::fs::write(&path, "{").unwrap();
    assert_says(&refused(dir.path()), &["no index of shards"]);
}

#[test]
fn a_header_that_is_huge_or_contradicts_itself_is_refused() {
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}}}"#)
    };
    let mut huge = u64::MAX.to_le_bytes().to_vec();
    huge.extend(b"{}");
    assert!(matches!(read_header(&huge), Err(HeaderError::Huge { .. })));
    for (shape, offsets) in [
        ("[2]", "[0, 4]"),
        ("[2]", "[8, 0]"),
        ("[18446744073709551615, 2]", "[0, 8]"),
        ("[4294967296, 4294967296, 4294967296]", "[0, 8]"),
        ("[0]", "[18446744073709551615, 18446744073709551615]"),
    ] {
        let found = read_header(&file(&tensor("F32", shape, offsets), 8));
        assert!(matches!(found, Err(HeaderError::Size { .. } | HeaderError::Truncated { .. })), "{shape} {found:?}");
    }
    assert!(matches!(read_header(&file(&tensor("F32", "[4]", "[0, 16]"), 8)), Err(HeaderError::Truncated { .. })));
    for header in [
        "[]",
        "{",
        r#"{"a": 1}"#,
        r#"{"a": {"dtype": "F32"}}"#,
        r#"{"a": {"dtype": 3, "shape": [], "data_offsets": [0, 0]}}"#,
    ] {
        assert!(matches!(read_header(&file(header, 8)), Err(HeaderError::Json(_))), "{header}");
    }
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(read_header(&file(&deep, 0)), Err(HeaderError::Json(_))));
}

#[test]
fn tensors_that_share_bytes_are_refused_by_name() {
    let header = |b: &str| {
        let entry = |at: &str| format!(r#"{{"dtype": "F32", "shape": [2], "data_offsets": [{at}]}}"#);
        let empty = r#"{"dtype": "F32", "shape": [0], "data_offsets": [4, 4]}"#;
        format!(r#"{{"b.late": {}, "a.early": {}, "empty": {empty}}}"#, entry(b), entry("0, 8"))
    };
    assert_eq!(read_header(&file(&header("8, 16"), 16)).unwrap().len(), 3);
    for offsets in ["4, 12", "7, 15", "0, 8"] {
        let error = read_header(&file(&header(offsets), 16)).unwrap_err().to_string();
        assert_says(&error, &["a.early", "b.late", "overlap"]);
    }
}

#[test]
fn metadata_and_types_unknown_to_hadal_are_passed_over() {
    let header = r#"{"__metadata__": {"format": "pt"}, "a": {"dtype": "U4", "shape": [3], "data_offsets": [0, 2]}}"#;
    let entries = read_header(&file(header, 2)).unwrap();
    assert_eq!(entries["a"].dtype, TensorType::Other);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_give_a_header_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), length in 0u64..220) {
        let mut file = length.to_le_bytes().to_vec();
        file.extend(&bytes);
        let _ = read_header(&file);
        let _ = read_header(&bytes);
    }

    #[test]
    fn a_damaged_header_gives_tensors_within_the_file_or_an_error(at in 0usize..160, byte in any::<u8>()) {
        let header = r#"{"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}, "b": {"dtype": "BF16", "shape": [2], "data_offsets": [16, 20]}}"#;
        let mut bytes = file(header, 20);
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(entries) = read_header(&bytes) {
            for entry in entries.values() {
                prop_assert!(entry.begin <= entry.end && entry.end <= bytes.len());
            }
        }
    }
}
