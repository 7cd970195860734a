//! An engine without a model: it waits as long as a step would take on paper and draws tokens from a hash of the
//! sequence. Its rows are small and a function of the tokens before them, and tokens are drawn from rows as they lie
//! in the cache, so that paging, prefix reuse and transfers are as real as with a model.
//!
//! ```text
//! c(p) = mix(c(p-1), token(p))           what stands for all tokens up to p
//! store 0 (layer 0, index)   8 bytes     mix(c(p), 1)
//! store 1 (layer 0, latent) 16 bytes     c(p), mix(c(p), 2)
//! store 2 (layer 1, latent)  8 bytes     mix(c(p), 3)
//! ```

use std::time::Duration;

use hadal_model::Files;
use hadal_shell::units::duration;
use hadal_types::{
    BLOCK_TOKENS, Choice, Dtype, Encoding, Field, Fingerprint, Geometry, Keep, Layer, LayerId, Numerics, Part,
    Placement, Read, Rows, Store, StoreId,
};
use hadal_worker_core::{Plan, SampleInputs, Sampled, SliceResult, StepModel, TokenLogprobs};

use super::{Backend, EngineError, Info, Pages};

/// Rows that a token is drawn from.
const CHOSEN: u32 = 32;
/// Longest sequence and vocabulary without a checkpoint.
const CONTEXT: u32 = 131_072;
const VOCAB: u32 = 129_280;
/// c(-1).
const ROOT: u64 = 0x6861_6461_6c00_0001;

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
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            step: Duration::from_millis(2),
            prefill_token: Duration::from_micros(50),
            decode_token: Duration::from_micros(100),
            context_token_ns: 5.0,
            context_tokens: None,
        }
    }
}

impl SimConfig {
    /// Steps that take no time, for tests.
    pub fn instant() -> Self {
        let step = Duration::ZERO;
        Self { step, prefill_token: step, decode_token: step, context_token_ns: 0.0, ..Self::default() }
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
pub(crate) fn geometry() -> Geometry {
    let store = |owner, part, count| Store {
        owner: LayerId(owner),
        part,
        stride: 1,
        record: vec![Field { name: "hash".into(), encoding: Encoding::I8, count }],
        placement: Placement::PerRow,
        keep: Keep::All,
    };
    let reads = |store| vec![Read { store: StoreId(store), rows: Rows::Chosen }];
    Geometry {
        layout: "sim-1".into(),
        stores: vec![store(0, Part::Index, 8), store(0, Part::Latent, 16), store(1, Part::Latent, 8)],
        layers: vec![
            Layer {
                id: LayerId(0),
                reads: reads(1),
                choice: Choice::Own { scores: StoreId(0), k: CHOSEN },
                draft: false,
            },
            Layer { id: LayerId(1), reads: reads(2), choice: Choice::Reuse { layer: LayerId(0) }, draft: false },
        ],
    }
}

pub(super) fn info(config: &SimConfig, files: Option<&Files>, name: &str) -> Info {
    let geometry = geometry();
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
    cache: SimCache,
    /// c of the last row of each slice of the step, or none where a row was wrong.
    last: Vec<Option<u64>>,
}

struct SimCache {
    stores: Vec<(usize, Vec<u8>)>,
}

impl SimBackend {
    pub(super) fn new(config: &SimConfig, info: &Info, pages: &[(Part, u32)]) -> Self {
        let stores = info.geometry.stores.iter().map(|store| {
            let pages = pages.iter().find(|(part, _)| *part == store.part).map_or(0, |&(_, n)| n as usize);
            let page_bytes = store.block_bytes() as usize;
            (page_bytes, vec![0; page_bytes * pages])
        });
        let cache = SimCache { stores: stores.collect() };
        Self { model: config.model(), vocab: info.vocab_tokens.max(1), cache, last: Vec::new() }
    }
}

impl SimCache {
    fn row(&self, store: usize, pages: &[u32], position: u32) -> Option<&[u8]> {
        let (page_bytes, bytes) = &self.stores[store];
        let row_bytes = page_bytes / BLOCK_TOKENS as usize;
        let page = *pages.get((position / BLOCK_TOKENS) as usize)? as usize;
        let begin = page * page_bytes + (position % BLOCK_TOKENS) as usize * row_bytes;
        bytes.get(begin..begin + row_bytes)
    }

    fn number(&self, store: usize, pages: &[u32], position: u32, at: usize) -> Option<u64> {
        let row = self.row(store, pages, position)?;
        Some(u64::from_le_bytes(row.get(at..at + 8)?.try_into().ok()?))
    }

    fn set(&mut self, store: usize, pages: &[u32], position: u32, numbers: &[u64]) -> Option<()> {
        let (page_bytes, bytes) = &mut self.stores[store];
        let row_bytes = *page_bytes / BLOCK_TOKENS as usize;
        let page = *pages.get((position / BLOCK_TOKENS) as usize)? as usize;
        let begin = page * *page_bytes + (position % BLOCK_TOKENS) as usize * row_bytes;
        for (number, bytes) in numbers.iter().zip(bytes.get_mut(begin..begin + row_bytes)?.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        Some(())
    }

    /// c at a position, if the rows of all stores there are those of one sequence.
    fn verified(&self, index: &[u32], latent: &[u32], position: u32) -> Option<u64> {
        let c = self.number(1, latent, position, 0)?;
        let right = self.number(0, index, position, 0)? == mix(c, 1)
            && self.number(1, latent, position, 8)? == mix(c, 2)
            && self.number(2, latent, position, 0)? == mix(c, 3);
        right.then_some(c)
    }

    /// Writes the rows of a slice. Gives c of its last row, or none if a row before it is wrong.
    fn compute(&mut self, start: u32, tokens: &[u32], index: &[u32], latent: &[u32]) -> Option<u64> {
        let mut c = match start.checked_sub(1) {
            Some(before) => self.verified(index, latent, before)?,
            None => ROOT,
        };
        for (position, &token) in (start..).zip(tokens) {
            c = mix(c, u64::from(token));
            self.set(0, index, position, &[mix(c, 1)])?;
            self.set(1, latent, position, &[c, mix(c, 2)])?;
            self.set(2, latent, position, &[mix(c, 3)])?;
        }
        let rows = start + tokens.len() as u32;
        // What a token depends on: its own row, and some of those before it.
        (0..CHOSEN).try_fold(c, |sum, i| {
            let position = (mix(c, 100 + u64::from(i)) % u64::from(rows.max(1))) as u32;
            Some(mix(sum, self.verified(index, latent, position)?))
        })
    }
}

impl Pages for SimCache {
    fn page(&self, store: StoreId, page: u32) -> Result<&[u8], EngineError> {
        let found = self.stores.get(store.0 as usize).and_then(|(page_bytes, bytes)| {
            let begin = page as usize * page_bytes;
            bytes.get(begin..begin + page_bytes)
        });
        found.ok_or_else(|| EngineError(format!("there is no page {page} of store {}", store.0)))
    }
}

impl Backend for SimBackend {
    fn forward(&mut self, plan: &Plan, on_layer: &mut dyn FnMut(LayerId, &dyn Pages)) -> Result<(), EngineError> {
        self.last.clear();
        for slice in plan.slices() {
            let (index, latent) = (plan.pages(slice, Part::Index), plan.pages(slice, Part::Latent));
            self.last.push(self.cache.compute(slice.start, plan.tokens(slice), index, latent));
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
        let Some(&Some(sum)) = self.last.get(slice) else { return SliceResult::NotFinite };
        if plan.slices().get(slice).is_none_or(|s| !s.sample) {
            return SliceResult::Computed;
        }
        let drawn = (mix(sum, 4) % u64::from(self.vocab)) as u32;
        let top = |count: u32| (0..count).map(|i| ((drawn + i) % self.vocab, -1.0 - i as f32)).collect();
        let forced = inputs.and_then(|i| i.params.forced.get(i.output.len()).copied());
        let token = forced.unwrap_or(drawn);
        let logprobs = inputs.and_then(|i| i.params.logprobs).map(|n| TokenLogprobs {
            logprob: -1.0,
            top: top(n),
            choice_overlap: None,
        });
        SliceResult::Token(Sampled { token, logprobs })
    }

    fn pages(&self) -> &dyn Pages {
        &self.cache
    }

    fn write_page(&mut self, store: StoreId, page: u32, bytes: &[u8]) -> Result<(), EngineError> {
        let wrong = || EngineError(format!("there is no page {page} of store {}", store.0));
        let (page_bytes, all) = self.cache.stores.get_mut(store.0 as usize).ok_or_else(wrong)?;
        let begin = page as usize * *page_bytes;
        let target = all.get_mut(begin..begin + bytes.len().min(*page_bytes)).ok_or_else(wrong)?;
        target.copy_from_slice(&bytes[..target.len()]);
        Ok(())
    }
}

/// SplitMix64's finaliser over both numbers.
fn mix(a: u64, b: u64) -> u64 {
    let mut z = (a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> SimCache {
        let geometry = geometry();
        let stores = geometry.stores.iter().map(|s| (s.block_bytes() as usize, vec![0; 4 * s.block_bytes() as usize]));
        SimCache { stores: stores.collect() }
    }

    #[test]
    fn chunks_and_pages_change_nothing() {
        let tokens: Vec<u32> = (0..150).collect();
        let whole = cache().compute(0, &tokens, &[0, 1, 2], &[2, 1, 0]);
        let mut parts = cache();
        parts.compute(0, &tokens[..70], &[3, 2], &[0, 1]).unwrap();
        assert_eq!(parts.compute(70, &tokens[70..], &[3, 2, 1], &[0, 1, 3]), whole);
        assert!(whole.is_some());
    }

    #[test]
    fn a_wrong_row_is_found() {
        let tokens: Vec<u32> = (0..10).collect();
        let mut cache = cache();
        cache.compute(0, &tokens, &[0], &[0]).unwrap();
        cache.stores[2].1[8 * 9] ^= 1;
        assert_eq!(cache.compute(10, &[1], &[0], &[0]), None);
    }

    #[test]
    fn the_geometry_is_consistent() {
        geometry().validate().unwrap();
    }
}
