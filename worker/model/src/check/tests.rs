use super::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn run(name: &str, path: hadal_kernels::Path, chunk_tokens: usize) -> CheckReport {
    let options =
        CheckOptions { path, pool: None, tolerance: CheckOptions::TOLERANCE, chunk_tokens, progress: &|_| {} };
    check(&golden(name), &options).unwrap()
}

fn assert_passes(name: &str) {
    let report = run(name, hadal_kernels::Path::detect(), 512);
    assert!(report.passed(), "{report}");
    eprintln!("{report}");
    assert!(report.prompts.iter().all(|p| p.router.rows > 0 && p.logits.is_some()), "{report}");
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
