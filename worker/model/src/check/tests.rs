//! Golden parity in f32, and that a check finds what is wrong.

use super::report::{Constants, PromptReport};
use super::*;
use crate::files::TensorFile;
use crate::testing::{copy, golden};

fn run(name: &str, path: hadal_kernels::Path, chunk_tokens: usize) -> CheckReport {
    let options =
        CheckOptions { path, pool: None, tolerance: CheckOptions::TOLERANCE, chunk_tokens, progress: &|_| {} };
    check(&golden(name), &options).unwrap()
}

fn assert_passes(name: &str) {
    let report = run(name, hadal_kernels::Path::detect(), 512);
    assert!(report.passed(), "{report}");
    // And nothing passes for want of data.
    let indexes = !["deepseek_v3", "deepseek_v2"].contains(&name);
    let compared = |p: &PromptReport| p.router.rows > 0 && (p.indexer.rows > 0) == indexes && p.logits.is_some();
    assert!(report.prompts.iter().all(compared), "{report}");
    assert_eq!(report.prompts.iter().any(|p| p.mtp.is_some()), name != "deepseek_v2", "{report}");
    let Constants { inv_freq, cos_sin_factor, attention_scale } = report.constants;
    assert!([inv_freq, cos_sin_factor, attention_scale].iter().all(Option::is_some), "{report}");
}

#[test]
fn a_prompt_that_nothing_was_compared_of_does_not_pass() {
    let silent = PromptReport { greedy_same: true, ..PromptReport::default() };
    assert!(!silent.passed(CheckOptions::TOLERANCE));
    assert!(PromptReport { logits: Some(0.0), ..silent.clone() }.passed(CheckOptions::TOLERANCE));
    assert!(PromptReport { new_tokens: 1, ..silent }.passed(CheckOptions::TOLERANCE));
}

#[test]
fn deepseek_v32_matches_its_golden_data() {
    assert_passes("deepseek_v32");
}

#[test]
fn block_fp8_weights_match_their_golden_data() {
    assert_passes("deepseek_v32-fp8");
}

#[test]
fn glm_moe_dsa_matches_its_golden_data() {
    assert_passes("glm_moe_dsa");
}

#[test]
fn deepseek_v3_matches_its_golden_data() {
    assert_passes("deepseek_v3");
}

#[test]
fn deepseek_v2_matches_its_golden_data() {
    assert_passes("deepseek_v2");
}

fn options(chunk_tokens: usize) -> CheckOptions<'static> {
    let path = hadal_kernels::Path::detect();
    CheckOptions { path, pool: None, tolerance: CheckOptions::TOLERANCE, chunk_tokens, progress: &|_| {} }
}

#[test]
fn every_kernel_path_and_any_chunk_give_the_same_report() {
    for path in hadal_kernels::Path::available() {
        let whole = run("deepseek_v32", path, 512);
        assert!(whole.passed(), "{whole}");
        assert_eq!(run("deepseek_v32", path, 37).prompts, whole.prompts);
    }
}

#[test]
fn golden_data_may_be_cut_to_fewer_prompts_and_tensors() {
    let dir = copy("deepseek_v2");
    let path = dir.path().join("golden/golden.json");
    let mut list: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    list["prompts"].as_array_mut().unwrap().retain(|p| p["name"] == "p24" || p["name"] == "gone");
    let mut gone = list["prompts"][0].clone();
    gone["name"] = "gone".into();
    list["prompts"].as_array_mut().unwrap().push(gone);
    std::fs::write(&path, list.to_string()).unwrap();
    let report = check(dir.path(), &options(512)).unwrap();
    assert!(report.passed(), "{report}");
    assert_eq!(report.prompts.iter().map(|p| p.logits.is_some()).collect::<Vec<_>>(), [true, false]);
    assert_eq!(report.prompts[0].tokens, 24);
}

#[test]
fn a_wrong_number_fails_the_check_and_shows_in_the_table() {
    let dir = copy("deepseek_v32");
    let path = dir.path().join("golden/golden.safetensors");
    let file = TensorFile::open(&path).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    // The sign of the first golden logit, and one expert.
    for name in ["p5.logits", "p24.router_experts.2"] {
        let begin = file.offset(name).unwrap();
        bytes[begin + 3] ^= 0x80;
        bytes[begin] ^= 1;
    }
    std::fs::write(&path, bytes).unwrap();
    let report = check(dir.path(), &options(512)).unwrap();
    let passed: Vec<bool> = report.prompts.iter().map(|p| p.passed(report.tolerance)).collect();
    assert_eq!(passed, [false, false, true, true]);
    assert_eq!(report.prompts[1].router.different, 1);
    let text = report.to_string();
    assert!(text.contains("BAD") && text.contains("FAILED") && text.contains("1/168"), "{text}");
    assert!(serde_json::to_string(&report).unwrap().contains("\"different\":1"));
}

#[test]
fn a_checkpoint_without_golden_data_is_told_so() {
    let dir = copy("deepseek_v2");
    std::fs::remove_file(dir.path().join("golden/golden.safetensors")).unwrap();
    let error = check(dir.path(), &options(512)).unwrap_err().to_string();
    assert!(error.contains("golden.safetensors: no golden data beside this checkpoint"), "{error}");
    std::fs::remove_file(dir.path().join("golden/golden.json")).unwrap();
    assert!(check(dir.path(), &options(512)).unwrap_err().to_string().contains("golden.json"));
}
