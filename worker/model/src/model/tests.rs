//! The laws of a step: chunks, batches, pages and threads change no bit, of logits or of the cache.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use hadal_types::{Attention, BLOCK_TOKENS, StoreId, blocks_for};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::step::{Logits, Slice};
use crate::testing::golden;

mod drafts;

const DSA: [&str; 3] = ["deepseek_v32", "glm_moe_dsa", "deepseek_v32-fp8"];
const ALL: [&str; 5] = ["deepseek_v32", "glm_moe_dsa", "deepseek_v32-fp8", "deepseek_v3", "deepseek_v2"];
/// Blocks of each sequence's room: three, so that sequences may cross two boundaries.
const BLOCKS: u32 = 3;
/// Pages of a cache, more than any test uses.
const PAGES: u32 = 16;

fn load(name: &str, dtype: Dtype, kv: KvEncoding) -> Model {
    load_on(name, dtype, kv, Path::detect(), None)
}

fn load_on(name: &str, dtype: Dtype, kv: KvEncoding, path: Path, pool: Option<Arc<Pool>>) -> Model {
    let files = Files::open(&golden(name)).unwrap();
    Model::load(&files, &LoadOptions { dtype, kv, path, drafts: false, pool, progress: &|_| {} }).unwrap()
}

fn cache(model: &Model) -> Cache {
    model.new_cache(&Part::ALL.map(|p| (p, PAGES)))
}

/// Tokens that look random but are the same every time.
fn tokens(seed: u32, len: usize) -> Vec<u32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            3 + (state >> 16) % 500
        })
        .collect()
}

/// Logits of every position, by one step a sequence in pages of ascending order.
fn reference(model: &Model, tokens: &[u32], cache: &mut Cache) -> Vec<u32> {
    attending(model, tokens, Attention::Sparse, cache)
}

/// The same with any attention.
fn attending(model: &Model, tokens: &[u32], attention: Attention, cache: &mut Cache) -> Vec<u32> {
    let pages: Vec<u32> = (0..blocks_for(tokens.len() as u64) as u32).collect();
    let mut ws = model.new_workspace(tokens.len());
    let slice = Slice { tokens, start: 0, pages: [&pages, &pages], logits: Logits::All, attention };
    model.forward(&Step { slices: vec![slice] }, cache, &mut ws, &mut |_, _| {}).unwrap();
    bits(ws.logits(0))
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// The pages of a sequence in every store, in the order of its blocks.
fn rows(model: &Model, cache: &Cache, pages: &[Vec<u32>; 2]) -> Vec<Vec<u8>> {
    let stores = model.geometry().stores.iter().enumerate();
    stores
        .flat_map(|(id, s)| pages[s.part.index()].iter().map(move |&p| (StoreId(id as u32), p)))
        .map(|(id, p)| cache.page(id, p).unwrap().to_vec())
        .collect()
}

/// A batch that changes from step to step: sequences with lengths, the order of pages, and the sizes of chunks.
#[derive(Clone, Debug)]
struct Plan {
    lengths: Vec<usize>,
    attention: Vec<Attention>,
    /// Pages of each part, shuffled.
    pages: [Vec<u32>; 2],
    /// Sizes of chunks, taken in turn; 0 leaves the sequence out of the step.
    chunks: Vec<usize>,
}

fn plans() -> impl Strategy<Value = Plan> {
    let pages = || Just((0..PAGES).collect::<Vec<u32>>()).prop_shuffle();
    let lengths = prop::collection::vec(1usize..=110, 1..=4);
    let chunks = prop::collection::vec(prop_oneof![Just(0usize), Just(1), Just(63), Just(64), 1usize..80], 5..20);
    let attention = prop::collection::vec(prop_oneof![Just(Attention::Sparse), Just(Attention::Dense)], 4);
    (lengths, attention, pages(), pages(), chunks).prop_map(|(lengths, attention, a, b, chunks)| Plan {
        lengths,
        attention,
        pages: [a, b],
        chunks,
    })
}

/// The answers of one sequence.
struct Answer {
    logits: Vec<u32>,
    rows: Vec<Vec<u8>>,
}

/// Runs a plan to its end.
fn run(model: &Model, plan: &Plan) -> Vec<Answer> {
    let sequences: Vec<Vec<u32>> =
        plan.lengths.iter().enumerate().map(|(i, &len)| tokens(i as u32 + len as u32, len)).collect();
    let pages = |i: usize| {
        let blocks = blocks_for(plan.lengths[i] as u64) as usize;
        plan.pages.clone().map(|p| p[i * BLOCKS as usize..][..blocks].to_vec())
    };
    let lists: Vec<[Vec<u32>; 2]> = (0..sequences.len()).map(pages).collect();
    let mut cache = cache(model);
    let mut ws = model.new_workspace(sequences.len() * 80);
    let mut done = vec![0; sequences.len()];
    let mut logits = vec![Vec::new(); sequences.len()];
    let mut sizes = plan.chunks.iter().copied().cycle();
    let mut steps = 0;
    while done.iter().zip(&sequences).any(|(d, s)| *d < s.len()) {
        let mut slices = Vec::new();
        let mut members = Vec::new();
        for (i, s) in sequences.iter().enumerate() {
            // Every fourth step takes all sequences on, whatever sizes meet whom.
            let least = usize::from(steps % 4 == 3) * 7;
            let n = sizes.next().unwrap().max(least).min(s.len() - done[i]);
            if n > 0 {
                let [a, b] = &lists[i];
                let tokens = &s[done[i]..done[i] + n];
                let (start, attention) = (done[i] as u32, plan.attention[i]);
                slices.push(Slice { tokens, start, pages: [a, b], logits: Logits::All, attention });
                members.push(i);
                done[i] += n;
            }
        }
        steps += 1;
        // Another order of the slices in every other step.
        if steps % 2 == 1 {
            slices.reverse();
            members.reverse();
        }
        model.forward(&Step { slices }, &mut cache, &mut ws, &mut |_, _| {}).unwrap();
        for (slice, &i) in members.iter().enumerate() {
            assert!(ws.failure(slice).is_none());
            logits[i].extend(bits(ws.logits(slice)));
        }
    }
    let answer = |(i, logits)| Answer { logits, rows: rows(model, &cache, &lists[i]) };
    logits.into_iter().enumerate().map(answer).collect()
}

fn holds_for_random_plans(model: &Model, cases: u32) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let law = |plan: Plan| {
        for (i, (answer, &len)) in run(model, &plan).iter().zip(&plan.lengths).enumerate() {
            let mut alone = cache(model);
            let logits = attending(model, &tokens(i as u32 + len as u32, len), plan.attention[i], &mut alone);
            let pages: Vec<u32> = (0..blocks_for(len as u64) as u32).collect();
            prop_assert!(answer.logits == logits, "logits of sequence {i} differ");
            prop_assert!(answer.rows == rows(model, &alone, &[pages.clone(), pages]), "rows of sequence {i} differ");
        }
        Ok(())
    };
    TestRunner::new(config).run(&plans(), law).unwrap();
}

#[test]
fn chunks_batches_and_pages_change_no_bit_in_f32() {
    for name in ALL {
        holds_for_random_plans(&load(name, Dtype::F32, KvEncoding::F32), 3);
    }
}

#[test]
fn chunks_batches_and_pages_change_no_bit_in_reduced_precision() {
    for name in DSA {
        holds_for_random_plans(&load(name, Dtype::Bf16, KvEncoding::Fp8), 2);
        holds_for_random_plans(&load(name, Dtype::Bf16, KvEncoding::Bf16), 2);
        holds_for_random_plans(&load(name, Dtype::Bf16, KvEncoding::Int8Index), 2);
    }
}

#[test]
fn every_kernel_path_keeps_the_law() {
    for path in Path::available() {
        holds_for_random_plans(&load_on("deepseek_v32", Dtype::F32, KvEncoding::F32, path, None), 2);
    }
}

#[test]
fn decoding_leaves_the_bytes_that_a_prefill_of_the_same_tokens_leaves() {
    let ids = tokens(9, 90);
    let pages: Vec<u32> = vec![4, 2];
    for (name, dtype) in DSA.into_iter().chain(["deepseek_v3"]).zip([Dtype::F32, Dtype::Bf16].into_iter().cycle()) {
        for &kv in KvEncoding::ALL {
            let model = load(name, dtype, kv);
            let mut ws = model.new_workspace(90);
            let (mut whole, mut stepped) = (cache(&model), cache(&model));
            let mut forward = |cache: &mut Cache, from: usize, to: usize| {
                let slice = Slice {
                    tokens: &ids[from..to],
                    start: from as u32,
                    pages: [&pages; 2],
                    logits: Logits::Last,
                    attention: Attention::Sparse,
                };
                model.forward(&Step { slices: vec![slice] }, cache, &mut ws, &mut |_, _| {}).unwrap();
                bits(ws.logits(0))
            };
            let last = forward(&mut whole, 0, 90);
            forward(&mut stepped, 0, 58);
            let decoded: Vec<Vec<u32>> = (58..90).map(|t| forward(&mut stepped, t, t + 1)).collect();
            assert_eq!(decoded.last(), Some(&last), "{name} {dtype} {kv}");
            let both = [pages.clone(), pages.clone()];
            assert!(rows(&model, &whole, &both) == rows(&model, &stepped, &both), "{name} {dtype} {kv}");
        }
    }
}

#[test]
fn rows_that_come_from_another_worker_continue_with_the_same_bits() {
    let model = load("deepseek_v32", Dtype::Bf16, KvEncoding::Fp8);
    let ids = tokens(4, 100);
    let mut prefill = cache(&model);
    let want = reference(&model, &ids, &mut prefill);
    // The decode worker has other addresses, and computes the last token itself.
    let pages = [vec![7, 3], vec![1, 12]];
    let mut decode = cache(&model);
    for (id, store) in model.geometry().stores.iter().enumerate() {
        for (block, &page) in pages[store.part.index()].iter().enumerate() {
            let id = StoreId(id as u32);
            decode.write_page(id, page, prefill.page(id, block as u32).unwrap()).unwrap();
        }
    }
    let mut ws = model.new_workspace(1);
    let slice = Slice {
        tokens: &ids[99..],
        start: 99,
        pages: [&pages[0], &pages[1]],
        logits: Logits::Last,
        attention: Attention::Sparse,
    };
    model.forward(&Step { slices: vec![slice] }, &mut decode, &mut ws, &mut |_, _| {}).unwrap();
    assert!(bits(ws.logits(0)) == want[99 * 512..]);
}

#[test]
fn dense_attention_reads_what_the_choice_leaves_out_and_nothing_else_changes() {
    let ids = tokens(7, 100);
    for name in DSA {
        let model = load(name, Dtype::F32, KvEncoding::F32);
        let topk = model.config().indexer.unwrap().topk;
        let (mut sparse_cache, mut dense_cache) = (cache(&model), cache(&model));
        let sparse = attending(&model, &ids, Attention::Sparse, &mut sparse_cache);
        let dense = attending(&model, &ids, Attention::Dense, &mut dense_cache);
        let (vocab, same) = (model.vocab() as usize, topk * model.vocab() as usize);
        assert!(sparse[..same] == dense[..same], "{name}: while everything is chosen there is no difference");
        assert!(sparse[same..].chunks(vocab).zip(dense[same..].chunks(vocab)).all(|(s, d)| s != d), "{name}");
        // The rows of the first layer are of the embeddings alone, so that the index must be there as well.
        for store in model.geometry().stores_owned_by(LayerId(0)) {
            assert_eq!(sparse_cache.page(store, 1).unwrap(), dense_cache.page(store, 1).unwrap(), "{name}");
        }
    }
}

#[test]
fn a_model_without_an_indexer_knows_one_attention() {
    let model = load("deepseek_v3", Dtype::F32, KvEncoding::F32);
    let ids = tokens(7, 100);
    let dense = attending(&model, &ids, Attention::Dense, &mut cache(&model));
    assert!(reference(&model, &ids, &mut cache(&model)) == dense);
}

/// Sees which rows chose.
#[derive(Default)]
struct Choosing(Vec<(u32, usize, usize)>);

impl Probe for Choosing {
    fn written(&mut self, _: LayerId, _: &Cache) {}

    fn choices(&self) -> bool {
        true
    }

    fn chose(&mut self, layer: LayerId, row: usize, positions: &[u32], _: Option<f32>) {
        self.0.push((layer.0, row, positions.len()));
    }
}

#[test]
fn choices_are_shown_of_layers_that_choose_and_of_rows_that_are_not_dense() {
    let model = load("glm_moe_dsa", Dtype::F32, KvEncoding::F32);
    let ids = tokens(2, 40);
    let (a, b) = ([5], [6]);
    let slice = |pages, attention| Slice { tokens: &ids, start: 0, pages: [pages; 2], logits: Logits::None, attention };
    let step = Step { slices: vec![slice(&a[..], Attention::Dense), slice(&b[..], Attention::Sparse)] };
    let mut seen = Choosing::default();
    let (mut cache, mut ws) = (cache(&model), model.new_workspace(80));
    model.forward_probed(&step, &mut cache, &mut ws, &mut seen).unwrap();
    let topk = model.config().indexer.unwrap().topk;
    let chooses = |l: &u32| model.config().layers[*l as usize].choice == crate::config::LayerChoice::Own;
    let layers = (0..model.config().main_layers() as u32).filter(chooses);
    let expected: Vec<_> = layers.flat_map(|l| (0..40).map(move |p| (l, 40 + p, (p + 1).min(topk)))).collect();
    assert_eq!(seen.0, expected);
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let pool = Arc::new(Pool::new(NonZeroUsize::new(3)).unwrap());
    let one = load("deepseek_v32", Dtype::F32, KvEncoding::F32);
    let three = load_on("deepseek_v32", Dtype::F32, KvEncoding::F32, Path::detect(), Some(pool));
    let ids = tokens(1, 150);
    assert!(reference(&one, &ids, &mut cache(&one)) == reference(&three, &ids, &mut cache(&three)));
}

#[test]
fn a_layer_is_reported_when_its_rows_are_in_the_cache() {
    let model = load("glm_moe_dsa", Dtype::F32, KvEncoding::Bf16);
    let (ids, pages) = (tokens(2, 20), [5]);
    let mut cache = cache(&model);
    let mut ws = model.new_workspace(20);
    let mut seen: HashMap<u32, usize> = HashMap::new();
    let slice =
        Slice { tokens: &ids, start: 0, pages: [&pages; 2], logits: Logits::None, attention: Attention::Sparse };
    let mut on_layer = |layer: LayerId, cache: &Cache| {
        let written = model.geometry().stores_owned_by(layer);
        let filled = written.filter(|&s| cache.page(s, 5).unwrap()[..128].iter().any(|&b| b != 0));
        seen.insert(layer.0, filled.count());
    };
    model.forward(&Step { slices: vec![slice] }, &mut cache, &mut ws, &mut on_layer).unwrap();
    // The third layer shares the choice of the second, and so owns no index.
    assert_eq!((seen[&0], seen[&1], seen[&2], seen[&3]), (2, 2, 1, 2));
    assert!(ws.logits(0).is_empty());
}

#[test]
fn numbers_that_are_not_finite_end_their_own_slice_only() {
    for name in ["deepseek_v32", "deepseek_v3"] {
        let model = load(name, Dtype::F32, KvEncoding::F32);
        let ids = tokens(3, 61);
        let mut cache = cache(&model);
        let want = reference(&model, &ids, &mut cache);
        // Another sequence's pages are full of NaN.
        for (id, store) in model.geometry().stores.iter().enumerate() {
            let nan = f32::NAN.to_le_bytes().repeat(store.block_bytes() as usize / 4);
            cache.write_page(StoreId(id as u32), 9, &nan).unwrap();
        }
        let mut ws = model.new_workspace(4);
        let slice = |pages| Slice {
            tokens: &ids[60..],
            start: 60,
            pages: [pages; 2],
            logits: Logits::Last,
            attention: Attention::Sparse,
        };
        let (good, bad) = ([0], [9]);
        let step = Step { slices: vec![slice(&bad[..]), slice(&good[..]), slice(&bad[..])] };
        model.forward(&step, &mut cache, &mut ws, &mut |_, _| {}).unwrap();
        assert!(ws.failure(0).is_some() && ws.failure(2).is_some());
        assert!(ws.failure(1).is_none());
        assert!(bits(ws.logits(1)) == want[60 * 512..]);
    }
}

#[test]
fn steps_that_contradict_themselves_are_refused_and_name_the_slice() {
    let model = load("deepseek_v32", Dtype::F32, KvEncoding::F32);
    let (mut cache, mut ws) = (cache(&model), model.new_workspace(100));
    let (one, two) = ([0], [0, 1]);
    let good =
        Slice { tokens: &[5, 6, 7], start: 0, pages: [&one; 2], logits: Logits::Last, attention: Attention::Sparse };
    let long = vec![5; 101];
    let bad = [
        (Slice { tokens: &[], ..good.clone() }, "slice 1 has no tokens"),
        (Slice { tokens: &[512], ..good.clone() }, "token 512 of slice 1 is not in the vocabulary of 512"),
        (
            Slice { start: 10_238, pages: [&two; 2], ..good.clone() },
            "slice 1 ends at 10241 tokens; the model takes 10240",
        ),
        (Slice { start: 62, ..good.clone() }, "slice 1 needs 2 index pages, but its list has 1"),
        (Slice { pages: [&one, &[16]], ..good.clone() }, "slice 1 names latent page 16; the cache has 16"),
        (
            Slice { tokens: &long, pages: [&two; 2], ..good.clone() },
            "a step of 104 rows; the workspace has room for 100",
        ),
    ];
    for (slice, message) in bad {
        let step = Step { slices: vec![good.clone(), slice] };
        let error = model.forward(&step, &mut cache, &mut ws, &mut |_, _| {}).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn numerics_tell_classes_apart() {
    let class = |name: &str, dtype, kv| load(name, dtype, kv).numerics().class();
    let base = class("deepseek_v32", Dtype::F32, KvEncoding::F32);
    assert_eq!(base, class("deepseek_v32", Dtype::F32, KvEncoding::F32));
    assert_ne!(base, class("deepseek_v32", Dtype::Bf16, KvEncoding::F32));
    assert_ne!(base, class("deepseek_v32", Dtype::F32, KvEncoding::Fp8));
    assert_ne!(
        class("deepseek_v32", Dtype::F32, KvEncoding::Bf16),
        class("deepseek_v32", Dtype::F32, KvEncoding::Int8Index)
    );
    assert_ne!(base, class("deepseek_v32-fp8", Dtype::F32, KvEncoding::F32));
}

#[test]
fn loading_reports_progress_to_its_end() {
    let reports = std::cell::RefCell::new(Vec::new());
    let progress = |p| reports.borrow_mut().push(p);
    let options = LoadOptions {
        dtype: Dtype::F32,
        kv: KvEncoding::F32,
        path: Path::Portable,
        drafts: false,
        pool: None,
        progress: &progress,
    };
    let model = Model::load(&Files::open(&golden("deepseek_v32")).unwrap(), &options).unwrap();
    let reports = reports.into_inner();
    assert_eq!(reports.len(), model.config().main_layers());
    assert!(reports.windows(2).all(|w| w[0].bytes < w[1].bytes));
    let last = reports.last().unwrap();
    assert_eq!(last.bytes, last.bytes_total);
    assert!(model.weights_bytes() > 0 && model.workspace_bytes(2) > model.workspace_bytes(1));
    assert_eq!(BLOCK_TOKENS as usize, hadal_kernels::PAGE_ROWS);
}
