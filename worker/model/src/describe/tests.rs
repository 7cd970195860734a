//! Published sizes come out of published configurations.

use super::*;
use crate::testing::golden;

fn published(name: &str, options: PlanOptions) -> Description {
    describe_path(&golden("configs").join(name), &options).unwrap()
}

fn billions(n: u64) -> f64 {
    n as f64 / 1e9
}

#[test]
fn deepseek_v32_has_its_published_sizes() {
    let d =
        published("deepseek-v3.2-exp.json", PlanOptions { context_tokens: Some(131_072), ..PlanOptions::default() });
    let p = &d.parameters;
    assert!((billions(p.main) - 671.0).abs() < 0.1, "{p:?}");
    assert!((billions(p.draft) - 11.6).abs() < 0.05, "{p:?}");
    assert!((billions(p.indexer) - 0.85).abs() < 0.01, "{p:?}");
    assert!((billions(p.active) - 37.0).abs() < 0.5, "{p:?}");
    let sizes: Vec<(&str, f64)> = d.parts.iter().map(|p| (p.part, p.token_bytes)).collect();
    assert_eq!(sizes, [("index", 8_052.0), ("latent", 40_016.0)]);
    // 1.06 GB of index and 5.25 GB of latents, of which a step reads all of the first and about 80 MB of the second.
    assert_eq!(d.memory.index_bytes, 8_052 * 131_072);
    assert_eq!(d.memory.latent_bytes, 40_016 * 131_072);
    assert_eq!(d.step_bytes, 8_052 * 131_072 + 40_016 * 2_048);
}

#[test]
fn glm_52_has_its_published_sizes() {
    let d = published("glm-5.2.json", PlanOptions::default());
    assert!((billions(d.parameters.main + d.parameters.draft) - 750.0).abs() < 10.0, "{:?}", d.parameters);
    assert!((billions(d.parameters.active) - 40.0).abs() < 1.0, "{:?}", d.parameters);
    assert_eq!((d.indexer_layers, d.layers, d.context_tokens), (21, 78, 1_048_576));
    assert_eq!(d.parts[0].token_bytes, 21.0 * 132.0);
}

#[test]
fn a_member_holds_its_share_of_the_experts_as_they_are_published() {
    let plan = |ep| published("deepseek-v3.2-exp.json", PlanOptions { ep, ..PlanOptions::default() }).memory;
    let (one, eight) = (plan(1), plan(8));
    assert_eq!(one.expert_bytes, 8 * eight.expert_bytes);
    assert_eq!(one.other_weight_bytes, eight.other_weight_bytes);
    // One byte for each number, and four for each block of 128 by 128.
    let numbers = published("deepseek-v3.2-exp.json", PlanOptions::default()).parameters.experts;
    assert_eq!(one.expert_bytes, numbers + numbers / (128 * 128) * 4);
}

#[test]
fn the_sizes_of_a_checkpoint_are_those_of_its_files() {
    for name in ["deepseek_v32", "deepseek_v32-fp8", "glm_moe_dsa", "deepseek_v3", "deepseek_v2"] {
        let files = crate::Files::open(&golden(name)).unwrap();
        let options = PlanOptions { kv: KvEncoding::Bf16, ..PlanOptions::default() };
        let m = describe(files.config(), &options).unwrap().memory;
        // A draft layer's copies of embedding and head are in the files only.
        let vocabulary =
            |t: &crate::Tensor<'_>| t.name.ends_with("embed_tokens.weight") || t.name.ends_with("head.weight");
        let copies: usize = files
            .tensors()
            .filter(|t| t.name.starts_with("model.layers.") && vocabulary(t))
            .map(|t| t.bytes.len())
            .sum();
        assert_eq!(
            m.expert_bytes + m.other_weight_bytes + m.draft_bytes + copies as u64,
            files.tensor_bytes(),
            "{name}"
        );
    }
}

#[test]
fn plans_that_cannot_be_are_refused() {
    let path = golden("configs/deepseek-v3.2-exp.json");
    let refused = |options| describe_path(&path, &options).unwrap_err().to_string();
    assert!(refused(PlanOptions { ep: 257, ..PlanOptions::default() }).contains("1 to 256"));
    assert!(refused(PlanOptions { context_tokens: Some(200_000), ..PlanOptions::default() }).contains("163840"));
    assert!(refused(PlanOptions { batch: 0, ..PlanOptions::default() }).contains("batch"));
}

#[test]
fn a_path_that_is_no_configuration_says_what_to_give() {
    let error = describe_path(Path::new("/nonexistent/config.json"), &PlanOptions::default()).unwrap_err();
    assert!(error.to_string().contains("give a model folder or its config.json"), "{error}");
}

#[test]
fn the_text_names_parameters_stores_and_memory() {
    let text = published("deepseek-v3.2-exp.json", PlanOptions { ep: 8, ..PlanOptions::default() }).to_string();
    for part in
        ["671.03 B main", "61 stores × 132 B = 8,052 B a token", "61 stores × 656 B = 40,016 B", "each of 8 members"]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let glm = published("glm-5.2.json", PlanOptions::default()).to_string();
    assert!(glm.contains("57 reuse the choice"), "{glm}");
}
