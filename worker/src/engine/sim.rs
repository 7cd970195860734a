//! An engine without a model: it waits as long as a step would take on paper and draws tokens from a hash of the
//! sequence. Its rows are small and a function of the tokens before them, and tokens are drawn from rows as they lie
//! in the cache, so that paging, prefix reuse and transfers are as real as with a model.
//!
//! ```text
//! c(p) = mix(c(p-1), token(p))           what stands for all tokens up to p
//! store 0 (layer 0, index)   8 bytes     mix(c(p), 1)
//! store 1 (layer 0, latent) 16 bytes     c(p), mix(c(p), 2)
//! store 2 (layer 1, latent)  8 bytes     mix(c(p), 3)
//! store 3 (layer 2, latent)  8 bytes     mix(c(p), 5), or 0 for the first token: with drafts, written after sampling
//! ```
//!
//! Drafts are right as often as is asked for, by a hash.

mod cache;

use std::time::Duration;

use hadal_model::Files;
use hadal_shell::units::duration;
use hadal_types::{
    Choice, Dtype, Encoding, Field, Fingerprint, Geometry, Keep, Layer, LayerId, Numerics, Part, Placement, Read, Rows,
    Store, StoreId,
};
use hadal_worker_core::{
    Follow, Plan, SampleInputs, Sampled, SliceResult, StepModel, StepSlice, TokenLogprobs, Tokens,
};

use super::{Backend, EngineError, Info, Pages};
use cache::{Both, CHOSEN, SimCache, mix};

/// Longest sequence and vocabulary without a checkpoint.
const CONTEXT: u32 = 131_072;
const VOCAB: u32 = 129_280;

/// The time of a step on paper.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Simulated engine")]
pub struct SimConfig {
    /// Time of any step
    #[arg(long = "sim-step", value_name = "TIME", default_value = "2ms", value_parser = duration)]
    pub step: Duration,
    /// Time more for each prompt token of it
    #[arg(long = "sim-prefill-token", value_name = "TIME", default_value = "50us", value_parser = duration)]
    pub prefill_token: Duration,
    /// Time more for each decoding request of it
    #[arg(long = "sim-decode-token", value_name = "TIME", default_value = "100us", value_parser = duration)]
    pub decode_token: Duration,
    /// Nanoseconds more for each pair of a row and a token that it attends to
    #[arg(long = "sim-context-token-ns", value_name = "NS", default_value_t = 5.0)]
    pub context_token_ns: f64,
    /// Longest sequence; the checkpoint's when left out
    #[arg(long = "sim-context", value_name = "TOKENS")]
    pub context_tokens: Option<u32>,
    /// Share of drafts that are right, from 0 to 1; nothing is drafted when left out
    #[arg(long = "sim-drafts", value_name = "SHARE")]
    pub drafts: Option<f64>,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            step: Duration::from_millis(2),
            prefill_token: Duration::from_micros(50),
            decode_token: Duration::from_micros(100),
            context_token_ns: 5.0,
            context_tokens: None,
            drafts: None,
        }
    }
}

impl SimConfig {
    /// Steps that take no time, with drafts, for tests.
    pub fn instant() -> Self {
        let step = Duration::ZERO;
        let drafts = Some(0.6);
        Self { step, prefill_token: step, decode_token: step, context_token_ns: 0.0, drafts, ..Self::default() }
    }

    fn model(&self) -> StepModel {
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        StepModel {
            step_us: us(self.step),
            prefill_token_us: us(self.prefill_token),
            decode_token_us: us(self.decode_token),
            context_token_us: self.context_token_ns * 1e-3,
        }
    }
}

/// What the engine keeps.
pub(crate) fn geometry(drafts: bool) -> Geometry {
    let store = |owner, part, count| Store {
        owner: LayerId(owner),
        part,
        stride: 1,
        record: vec![Field { name: "hash".into(), encoding: Encoding::I8, count }],
        placement: Placement::PerRow,
        keep: Keep::All,
    };
    let reads = |store| vec![Read { store: StoreId(store), rows: Rows::Chosen }];
    let layer = |id, store, choice, draft| Layer { id: LayerId(id), reads: reads(store), choice, draft };
    let own = Choice::Own { scores: StoreId(0), k: CHOSEN };
    let reuse = Choice::Reuse { layer: LayerId(0) };
    let mut geometry = Geometry {
        layout: "sim-1".into(),
        stores: vec![store(0, Part::Index, 8), store(0, Part::Latent, 16), store(1, Part::Latent, 8)],
        layers: vec![layer(0, 1, own, false), layer(1, 2, reuse, false)],
    };
    if drafts {
        geometry.layout.push_str("-drafts");
        geometry.stores.push(store(2, Part::Latent, 8));
        geometry.layers.push(layer(2, 3, reuse, true));
    }
    geometry
}

pub(super) fn info(config: &SimConfig, files: Option<&Files>, name: &str) -> Info {
    let geometry = geometry(config.drafts.is_some());
    let fingerprint = files.map_or(Fingerprint(*b"hadal simulation"), Files::fingerprint);
    let numerics = Numerics {
        fingerprint,
        dtype: Dtype::F32,
        layout: geometry.layout.clone(),
        kernels: "sim".into(),
        version: 1,
        expert_rows: "f32".into(),
    };
    Info {
        model_name: name.to_owned(),
        architecture: files.map_or("sim", |f| f.config().architecture.name).to_owned(),
        fingerprint,
        class: numerics.class(),
        geometry: geometry.into(),
        context_tokens: config.context_tokens.unwrap_or_else(|| files.map_or(CONTEXT, |f| f.config().context_tokens)),
        vocab_tokens: files.map_or(VOCAB, |f| f.config().vocab as u32),
        weights_bytes: 0,
        files: files.map_or(&[][..], Files::small_files).into(),
    }
}

pub(super) struct SimBackend {
    model: StepModel,
    vocab: u32,
    /// Of a million drafts, how many are right.
    right: u64,
    cache: SimCache,
    /// What the tokens after the rows of each slice that are sampled are drawn from; none where a row was wrong.
    sums: Vec<[Option<u64>; 2]>,
}

impl SimBackend {
    pub(super) fn new(config: &SimConfig, info: &Info, pages: &[(Part, u32)]) -> Self {
        let cache = SimCache::new(&info.geometry, pages);
        let right = (config.drafts.unwrap_or(0.0) * 1e6) as u64;
        Self { model: config.model(), vocab: info.vocab_tokens.max(1), right, cache, sums: Vec::new() }
    }
}

impl SimBackend {
    fn token(&self, sum: u64) -> u32 {
        (mix(sum, 4) % u64::from(self.vocab)) as u32
    }

    /// Output token `index`, drawn from a sum or forced.
    fn sampled(&self, sum: u64, inputs: Option<SampleInputs<'_>>, index: usize) -> Sampled {
        let drawn = self.token(sum);
        let top = |count: u32| (0..count).map(|i| ((drawn + i) % self.vocab, -1.0 - i as f32)).collect();
        let forced = inputs.and_then(|i| i.params.forced.get(index).copied());
        let logprobs = inputs.and_then(|i| i.params.logprobs).map(|n| TokenLogprobs {
            logprob: -1.0,
            top: top(n),
            choice_overlap: None,
        });
        Sampled { token: forced.unwrap_or(drawn), logprobs }
    }

    /// What follows a token at position `rows`, right or not.
    fn draft(&self, rows: u32, token: u32, pages: Both<'_>) -> Option<u32> {
        let (c, sum) = self.cache.expect(rows, token, pages)?;
        let right = self.token(sum);
        let hits = mix(c, 6) % 1_000_000 < self.right;
        Some(if hits { right } else { (right + 1) % self.vocab })
    }
}

/// The pages of a slice.
fn both<'a>(plan: &'a Plan, slice: &StepSlice) -> Both<'a> {
    (plan.pages(slice, Part::Index), plan.pages(slice, Part::Latent))
}

/// Rows of a sequence up to the end of a slice, its draft left out.
fn rows_of(plan: &Plan, slice: &StepSlice) -> u32 {
    slice.start + plan.tokens(slice).len() as u32 - u32::from(slice.draft)
}

impl Backend for SimBackend {
    fn forward(&mut self, plan: &Plan, on_layer: &mut dyn FnMut(LayerId, &dyn Pages)) -> Result<(), EngineError> {
        self.sums.clear();
        for slice in plan.slices() {
            let (pages, rows) = (both(plan, slice), rows_of(plan, slice));
            let computed = self.cache.compute(slice.start, plan.tokens(slice), pages);
            let sum = |rows| computed.and_then(|()| self.cache.sum(rows, slice.start, pages));
            self.sums.push([sum(rows), if slice.draft { sum(rows + 1) } else { None }]);
        }
        let time = Duration::from_micros(self.model.micros(plan.load()));
        for layer in 0..2 {
            std::thread::sleep(time / 2);
            on_layer(LayerId(layer), &self.cache);
        }
        Ok(())
    }

    fn result(&mut self, plan: &Plan, slice: usize, inputs: Option<SampleInputs<'_>>) -> SliceResult {
        // A row that is not that of its tokens: what NaN is to a model.
        let Some(&[Some(sum), behind]) = self.sums.get(slice) else { return SliceResult::NotFinite };
        let Some(planned) = plan.slices().get(slice).filter(|s| s.sample) else { return SliceResult::Computed };
        let index = inputs.map_or(0, |i| i.output.len());
        let first = self.sampled(sum, inputs, index);
        let hit = planned.draft && plan.tokens(planned).last() == Some(&first.token);
        let second = behind.filter(|_| hit).map(|sum| self.sampled(sum, inputs, index + 1));
        SliceResult::Tokens(Tokens { first, second, draft: None })
    }

    fn follow(
        &mut self,
        plan: &Plan,
        results: &mut [SliceResult],
        on_layer: &mut dyn FnMut(LayerId, &dyn Pages),
    ) -> Result<(), EngineError> {
        if !self.cache.drafts() {
            return Ok(());
        }
        for (slice, result) in plan.slices().iter().zip(results) {
            let (pages, rows) = (both(plan, slice), rows_of(plan, slice));
            let (rows, last) = match result {
                SliceResult::NotFinite => continue,
                SliceResult::Computed => (rows, None),
                SliceResult::Tokens(Tokens { first, second: None, .. }) => (rows, Some(first.token)),
                SliceResult::Tokens(Tokens { second: Some(second), .. }) => (rows + 1, Some(second.token)),
            };
            let next = last.filter(|_| slice.follow != Follow::Nothing);
            let written = self.cache.follow(slice.start..rows, next, pages);
            written.ok_or_else(|| EngineError("a page of the draft layer is missing".into()))?;
            if let (SliceResult::Tokens(tokens), Some(next), Follow::Draft) = (result, next, slice.follow) {
                tokens.draft = self.draft(rows, next, pages);
            }
        }
        on_layer(LayerId(2), &self.cache);
        Ok(())
    }

    fn pages(&self) -> &dyn Pages {
        &self.cache
    }

    fn write_page(&mut self, store: StoreId, page: u32, bytes: &[u8]) -> Result<(), EngineError> {
        self.cache.write_page(store, page, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_geometry_is_consistent() {
        [false, true].into_iter().for_each(|drafts| geometry(drafts).validate().unwrap());
        assert_eq!(geometry(true).without_drafts().stores, geometry(false).stores);
    }
}
