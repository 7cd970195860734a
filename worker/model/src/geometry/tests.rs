//! Sizes of records, and which layers own and read which stores.

use super::*;

fn published(name: &str) -> Config {
    let path = crate::testing::golden("configs").join(format!("{name}.json"));
    Config::parse(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn fp8_records_of_v32_have_the_published_sizes() {
    let all = geometry(&published("deepseek-v3.2-exp"), KvEncoding::Fp8);
    all.validate().unwrap();
    let main = all.without_drafts();
    let first = |part| main.stores_of(part).next().unwrap().1.clone();
    assert_eq!((first(Part::Latent).row_bytes(), first(Part::Latent).block_bytes()), (656, 41_984));
    assert_eq!((first(Part::Index).row_bytes(), first(Part::Index).block_bytes()), (132, 8_448));
    assert_eq!(main.token_bytes(Part::Index), 8_052.0);
    assert_eq!(main.token_bytes(Part::Latent), 40_016.0);
    assert_eq!((all.stores.len(), main.stores.len(), main.layers.len()), (124, 122, 61));
}

#[test]
fn int8_index_has_index_blocks_as_small_as_those_of_fp8_beside_latents_of_bf16() {
    let all = geometry(&published("deepseek-v3.2-exp"), KvEncoding::Int8Index);
    all.validate().unwrap();
    let first = |part| all.stores_of(part).next().unwrap().1.clone();
    assert_eq!(first(Part::Index).block_bytes(), 8_448);
    assert_eq!(first(Part::Latent).row_bytes(), 1152);
    assert_eq!(all.layout, "int8-index-latent.bf16x512.bf16x64-index.i8x128.f32x1.apart-amax127-drafts");
}

#[test]
fn glm_layers_that_share_a_choice_own_no_index() {
    let config = published("glm-5.2");
    let all = geometry(&config, KvEncoding::Bf16);
    all.validate().unwrap();
    let main = all.without_drafts();
    main.validate().unwrap();
    assert_eq!(main.stores_of(Part::Latent).count(), 78);
    assert_eq!(main.stores_of(Part::Index).count(), 21);
    assert_eq!(main.layers[5].choice, Choice::Reuse { layer: LayerId(2) });
    assert_eq!(main.token_bytes(Part::Latent), 78.0 * 1152.0);
}

#[test]
fn dense_attention_has_no_index_part() {
    let mut config = published("deepseek-v3.2-exp");
    config.indexer = None;
    config.layers.iter_mut().for_each(|l| l.choice = LayerChoice::All);
    let g = geometry(&config, KvEncoding::F32);
    assert!(!g.parts().contains(Part::Index));
    assert_eq!(g.layers[0].reads, [Read { store: StoreId(0), rows: Rows::All }]);
    assert!(!g.layout.contains("index"));
}

#[test]
fn every_encoding_has_a_layout_of_its_own() {
    let config = published("deepseek-v3.2-exp");
    let names: Vec<String> = KvEncoding::ALL.iter().map(|e| geometry(&config, *e).layout).collect();
    assert!(names.iter().enumerate().all(|(i, n)| !names[..i].contains(n)), "{names:?}");
}
