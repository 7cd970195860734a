//! Drafts change no token, no log-probability and no byte of the cache: decoding with drafts that hit, miss or are not
//! made, in batches that mix them, against one token a step without a draft layer.

use hadal_kernels::{History, SampleScratch, greedy, sample};
use hadal_types::SamplingParams;

use super::*;
use crate::step::Draft;

/// With a draft layer.
const DRAFTING: [&str; 4] = ["deepseek_v32", "glm_moe_dsa", "deepseek_v32-fp8", "deepseek_v3"];

/// What a decode tries.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tries {
    /// Nothing; draft rows are kept all the same.
    Nothing,
    /// What the draft layer says.
    Drafts,
    /// A token that is not drawn.
    Misses,
    /// The token that will be drawn, which the test knows.
    Hits,
}

/// A sequence being computed, as a worker would.
struct Sequence {
    tokens: Vec<u32>,
    prompt: usize,
    end: usize,
    params: SamplingParams,
    tries: Tries,
    /// The whole output, where it is known.
    known: Vec<u32>,
    pages: [Vec<u32>; 2],
    computed: usize,
    /// Whether the draft row after the computed ones is there.
    ahead: bool,
    draft: Option<u32>,
    logprobs: Vec<u32>,
    accepted: usize,
    refused: usize,
}

impl Sequence {
    fn new(prompt: &[u32], output: usize, params: &SamplingParams, pages: [Vec<u32>; 2]) -> Self {
        Self {
            tokens: prompt.to_vec(),
            prompt: prompt.len(),
            end: prompt.len() + output,
            params: SamplingParams { logprobs: Some(0), ..params.clone() },
            tries: Tries::Nothing,
            known: Vec::new(),
            pages,
            computed: 0,
            ahead: false,
            draft: None,
            logprobs: Vec::new(),
            accepted: 0,
            refused: 0,
        }
    }

    fn output(&self) -> &[u32] {
        &self.tokens[self.prompt..]
    }

    fn done(&self) -> bool {
        self.tokens.len() == self.end
    }

    /// The token to try behind the last one.
    fn tried(&self, vocab: u32) -> Option<u32> {
        let next = self.known.get(self.output().len()).copied();
        match self.tries {
            _ if !self.ahead || self.tokens.len() + 1 >= self.end => None,
            Tries::Nothing => None,
            Tries::Drafts => self.draft,
            Tries::Hits => next,
            Tries::Misses => next.map(|t| (t + 1) % vocab),
        }
    }

    /// The next slice's first position and tokens.
    fn slice(&self, model: &Model, chunk: usize) -> (usize, Vec<u32>, Option<u32>) {
        let start = self.computed - usize::from(model.drafts() && !self.ahead && self.computed > 0);
        let end = self.tokens.len().min(self.computed + chunk);
        let draft = self.tried(model.vocab()).filter(|_| end - self.computed == 1 && end == self.tokens.len());
        (start, self.tokens[start..end].iter().copied().chain(draft).collect(), draft)
    }

    /// Draws from the slice's logits. Gives how the draft layer follows.
    fn draw(&mut self, logits: &[f32], end: usize, len: usize, draft: Option<u32>) -> Draft {
        self.ahead = false;
        if logits.is_empty() {
            self.computed = end;
            return Draft { kept: len, ..Draft::default() };
        }
        let rows = logits.chunks(logits.len() / (1 + usize::from(draft.is_some())));
        let mut scratch = SampleScratch::default();
        let (mut then, mut kept) = (None, len - usize::from(draft.is_some()));
        let mut drawn = Vec::new();
        for (i, row) in rows.enumerate() {
            let history = History { prompt: &self.tokens[..self.prompt], output: self.output(), then };
            let index = (self.output().len() + i) as u32;
            let s = sample(row, &self.params, history, index, &mut scratch).unwrap();
            drawn.push(s.token);
            self.logprobs.push(s.logprob.to_bits());
            if i == 0 && draft != Some(s.token) {
                self.refused += usize::from(draft.is_some());
                break;
            }
            (kept, then) = (len, Some(s.token));
            self.accepted += usize::from(i == 0 && draft.is_some());
        }
        self.tokens.extend(&drawn);
        self.computed = self.tokens.len() - 1;
        self.ahead = !self.done();
        let next = drawn.last().copied().filter(|_| self.ahead);
        Draft { kept, next, logits: if self.ahead { Logits::Last } else { Logits::None } }
    }
}

/// Computes all sequences to their ends, prompts in chunks of these sizes in turn.
fn run_all(model: &Model, sequences: &mut [Sequence], cache: &mut Cache, chunks: &[usize]) {
    let mut ws = model.new_workspace(400);
    let mut chunks = chunks.iter().copied().cycle();
    while sequences.iter().any(|s| !s.done()) {
        let planned: Vec<_> = sequences.iter().map(|s| s.slice(model, chunks.next().unwrap())).collect();
        let live: Vec<usize> = (0..sequences.len()).filter(|&i| !sequences[i].done()).collect();
        let pages: Vec<_> = sequences.iter().map(|s| s.pages.clone()).collect();
        let slices = live.iter().map(|&i| {
            let (start, tokens, draft) = &planned[i];
            let sampled = start + tokens.len() >= sequences[i].tokens.len();
            let logits = match (sampled, draft) {
                (false, _) => Logits::None,
                (true, None) => Logits::Last,
                (true, Some(_)) => Logits::All,
            };
            let [a, b] = &pages[i];
            Slice { tokens, start: *start as u32, pages: [a, b], logits, attention: Attention::Sparse }
        });
        let step = Step { slices: slices.collect() };
        model.forward(&step, cache, &mut ws, &mut |_, _| {}).unwrap();
        let mut drafts = Vec::new();
        for (slice, &i) in live.iter().enumerate() {
            assert!(ws.failure(slice).is_none());
            let (start, tokens, draft) = &planned[i];
            drafts.push(sequences[i].draw(ws.logits(slice), start + tokens.len(), tokens.len(), *draft));
        }
        model.draft((&step, &drafts), cache, &mut ws, &mut |_, _| {}).unwrap();
        for (slice, &i) in live.iter().enumerate() {
            sequences[i].draft = greedy(ws.logits(slice));
        }
    }
}

fn load_drafting(name: &str, dtype: Dtype, kv: KvEncoding) -> Model {
    let files = Files::open(&golden(name)).unwrap();
    let options = LoadOptions { dtype, kv, path: Path::detect(), drafts: true, pool: None, progress: &|_| {} };
    Model::load(&files, &options).unwrap()
}

/// A cache that is full of what are no numbers, as pages may be that others had.
fn dirty(model: &Model) -> Cache {
    let mut cache = cache(model);
    for (id, store) in model.geometry().stores.iter().enumerate() {
        let bytes = vec![0xff; store.block_bytes() as usize];
        (0..PAGES).for_each(|page| cache.write_page(StoreId(id as u32), page, &bytes).unwrap());
    }
    cache
}

fn pages(block: u32) -> [Vec<u32>; 2] {
    [(block..block + 3).collect(), (block..block + 3).rev().collect()]
}

/// Full blocks of a sequence, of every store.
fn blocks(model: &Model, cache: &Cache, s: &Sequence) -> Vec<Vec<u8>> {
    let full = s.computed / BLOCK_TOKENS as usize;
    rows(model, cache, &s.pages.clone().map(|p| p[..full].to_vec()))
}

fn sampled() -> SamplingParams {
    SamplingParams { seed: 5, top_p: 0.95, repetition_penalty: 1.2, frequency_penalty: 0.3, ..Default::default() }
}

fn greedy_params() -> SamplingParams {
    SamplingParams { temperature: 0.0, ..Default::default() }
}

fn drafts_change_nothing(name: &str, dtype: Dtype, kv: KvEncoding) {
    let (plain, model) = (load(name, dtype, kv), load_drafting(name, dtype, kv));
    let prompts =
        [(tokens(1, 40), 100, greedy_params()), (tokens(2, 63), 70, sampled()), (tokens(3, 1), 70, sampled())];
    let mut hits = 0;
    for (prompt, output, params) in &prompts {
        let mut one = [Sequence::new(prompt, *output, params, pages(0))];
        run_all(&plain, &mut one, &mut cache(&plain), &[400]);
        let [one] = one;
        // What a prefill of all of it leaves, which another worker's cache would hold.
        let mut whole = Sequence::new(&one.tokens, 1, params, pages(0));
        let mut whole_cache = cache(&model);
        run_all(&model, std::slice::from_mut(&mut whole), &mut whole_cache, &[400]);
        whole.computed = one.computed;

        let tries = [Tries::Nothing, Tries::Drafts, Tries::Misses, Tries::Hits];
        let mut all: Vec<Sequence> = (0..4).map(|i| Sequence::new(prompt, *output, params, pages(4 * i))).collect();
        for (s, tries) in all.iter_mut().zip(tries) {
            (s.tries, s.known) = (tries, one.output().to_vec());
        }
        let mut together = dirty(&model);
        run_all(&model, &mut all, &mut together, &[17, 9, 400, 23, 1]);
        for s in &all {
            let what = format!("{name} {dtype} {kv} {:?}", s.tries);
            assert_eq!(s.output(), one.output(), "{what}");
            assert_eq!(s.logprobs, one.logprobs, "{what}");
            assert_eq!(s.computed, one.computed);
            assert!(blocks(&model, &together, s) == blocks(&model, &whole_cache, &whole), "{what}");
        }
        let counts: Vec<_> = all.iter().map(|s| (s.accepted > 0, s.refused > 0)).collect();
        assert_eq!((counts[0], counts[2], counts[3]), ((false, false), (false, true), (true, false)), "{name}");
        hits += all[1].accepted + all[1].refused;
    }
    assert!(hits > 0, "{name}: the draft layer says something");
}

#[test]
fn drafts_change_nothing_in_f32() {
    for name in DRAFTING {
        drafts_change_nothing(name, Dtype::F32, KvEncoding::F32);
    }
}

#[test]
fn drafts_change_nothing_in_reduced_precision() {
    for (name, &kv) in DRAFTING.into_iter().zip(KvEncoding::ALL.iter().cycle()) {
        drafts_change_nothing(name, Dtype::Bf16, kv);
    }
    for &kv in KvEncoding::ALL {
        drafts_change_nothing("deepseek_v32", Dtype::Bf16, kv);
    }
}

#[test]
fn a_draft_layer_is_part_of_layout_and_class_and_owns_the_last_stores() {
    let (plain, drafting) = (load("deepseek_v32", Dtype::F32, KvEncoding::F32), {
        load_drafting("deepseek_v32", Dtype::F32, KvEncoding::F32)
    });
    let (main, all) = (plain.geometry(), drafting.geometry());
    assert_eq!(all.without_drafts().stores, main.stores);
    assert_eq!(all.stores.len(), main.stores.len() + 2);
    assert!(all.layers.last().unwrap().draft);
    assert_ne!(main.layout, all.layout);
    assert_ne!(plain.numerics().class(), drafting.numerics().class());
    assert!(!load_drafting("deepseek_v2", Dtype::F32, KvEncoding::F32).drafts(), "it has none");
}

#[test]
fn a_draft_row_that_is_not_finite_leaves_the_token_before_it_right() {
    let model = load_drafting("deepseek_v32", Dtype::F32, KvEncoding::F32);
    let ids = tokens(3, 100);
    let mut cache = cache(&model);
    let want = reference(&model, &ids, &mut cache);
    // The embedding of one token is not a number.
    let files = Files::open(&golden("deepseek_v32")).unwrap();
    let bad = 7;
    let table = files.tensor("model.embed_tokens.weight").unwrap();
    let mut values: Vec<f32> = table.to_f32().unwrap();
    let width = model.config().hidden;
    values[bad * width..(bad + 1) * width].fill(f32::NAN);
    let mut damaged = model;
    let weight = hadal_kernels::WeightRef::F32(&values);
    damaged.weights.embedding = hadal_kernels::Embedding::new(weight, 512, width).unwrap();
    let mut ws = damaged.new_workspace(2);
    let both = [ids[60], bad as u32];
    let slice =
        Slice { tokens: &both, start: 60, pages: [&[0, 1]; 2], logits: Logits::All, attention: Attention::Sparse };
    damaged.forward(&Step { slices: vec![slice] }, &mut cache, &mut ws, &mut |_, _| {}).unwrap();
    assert_eq!(ws.failure(0).map(|f| f.row), Some(1));
    assert!(bits(&ws.logits(0)[..512]) == want[60 * 512..61 * 512]);
}

#[test]
fn drafts_that_contradict_their_step_are_refused() {
    let model = load_drafting("deepseek_v32", Dtype::F32, KvEncoding::F32);
    let (mut cache, mut ws) = (cache(&model), model.new_workspace(64));
    let ids = tokens(1, 64);
    let slice = Slice { tokens: &ids, start: 0, pages: [&[3]; 2], logits: Logits::Last, attention: Attention::Sparse };
    let step = Step { slices: vec![slice] };
    model.forward(&step, &mut cache, &mut ws, &mut |_, _| {}).unwrap();
    let good = Draft { kept: 64, next: None, logits: Logits::None };
    for (draft, message) in [
        (Draft { kept: 65, ..good }, "slice 0 has 64 tokens; 65 of them cannot be kept"),
        (Draft { next: Some(5), ..good }, "slice 0 needs 2 index pages, but its list has 1"),
        (Draft { kept: 2, next: Some(512), ..good }, "token 512 of slice 0 is not in the vocabulary of 512"),
    ] {
        let error = model.draft((&step, &[draft]), &mut cache, &mut ws, &mut |_, _| {}).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    model.draft((&step, &[good]), &mut cache, &mut ws, &mut |_, _| {}).unwrap();
}
