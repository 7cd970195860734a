//! The engine that runs a model on this machine's processor.

use std::sync::Arc;

use hadal_kernels::{History, SampleScratch, sample};
use hadal_model::{Cache, Logits, Model, Slice, Step, Workspace};
use hadal_types::{LayerId, Part, StoreId};
use hadal_worker_core::{Plan, SampleInputs, Sampled, SliceResult, TokenLogprobs};

use super::overlap::{Asked, Overlaps, Watch};
use super::{Backend, EngineError, Pages};

pub(super) struct ModelBackend {
    model: Arc<Model>,
    cache: Cache,
    workspace: Workspace,
    scratch: SampleScratch,
    overlaps: Overlaps,
}

impl ModelBackend {
    pub(super) fn new(model: Arc<Model>, pages: &[(Part, u32)], rows_max: usize) -> Self {
        let cache = model.new_cache(pages);
        let workspace = model.new_workspace(rows_max);
        Self { model, cache, workspace, scratch: SampleScratch::default(), overlaps: Overlaps::default() }
    }
}

impl Pages for Cache {
    fn page(&self, store: StoreId, page: u32) -> Result<&[u8], EngineError> {
        Cache::page(self, store, page).map_err(|e| EngineError(e.to_string()))
    }
}

impl Backend for ModelBackend {
    fn forward(&mut self, plan: &Plan, on_layer: &mut dyn FnMut(LayerId, &dyn Pages)) -> Result<(), EngineError> {
        let slices = plan.slices().iter().map(|slice| Slice {
            tokens: plan.tokens(slice),
            start: slice.start,
            pages: Part::ALL.map(|part| plan.pages(slice, part)),
            logits: if slice.sample { Logits::Last } else { Logits::None },
            attention: slice.attention,
        });
        let step = Step { slices: slices.collect() };
        self.overlaps.begin(asked(plan));
        let mut watch = Watch { overlaps: &mut self.overlaps, on_layer: &mut |layer, cache| on_layer(layer, cache) };
        let computed = self.model.forward_probed(&step, &mut self.cache, &mut self.workspace, &mut watch);
        computed.map_err(|e| EngineError(e.to_string()))
    }

    fn result(&mut self, plan: &Plan, slice: usize, inputs: Option<SampleInputs<'_>>) -> SliceResult {
        if let Some(what) = self.workspace.failure(slice) {
            tracing::error!(%what, "a step gave numbers that are not finite");
            return SliceResult::NotFinite;
        }
        let sampled = plan.slices().get(slice).is_some_and(|s| s.sample);
        // Without inputs its request is gone, and nobody will look at the result.
        let Some(inputs) = inputs.filter(|_| sampled) else { return SliceResult::Computed };
        let history = History { prompt: inputs.prompt, output: inputs.output, then: None };
        let index = inputs.output.len() as u32;
        match sample(self.workspace.logits(slice), inputs.params, history, index, &mut self.scratch) {
            Ok(drawn) => {
                let choice_overlap = plan.slices().get(slice).and_then(|s| self.overlaps.of(s.request));
                let logprobs = inputs.params.logprobs.map(|_| TokenLogprobs {
                    logprob: drawn.logprob,
                    top: drawn.top,
                    choice_overlap,
                });
                SliceResult::Token(Sampled { token: drawn.token, logprobs })
            }
            Err(what) => {
                tracing::error!(%what, "no token could be drawn");
                SliceResult::NotFinite
            }
        }
    }

    fn pages(&self) -> &dyn Pages {
        &self.cache
    }

    fn write_page(&mut self, store: StoreId, page: u32, bytes: &[u8]) -> Result<(), EngineError> {
        self.cache.write_page(store, page, bytes).map_err(|e| EngineError(e.to_string()))
    }
}

/// The rows of a step whose overlap is asked for.
fn asked(plan: &Plan) -> impl Iterator<Item = Asked> {
    let mut rows = 0;
    plan.slices().iter().filter_map(move |slice| {
        let tokens = plan.tokens(slice).len();
        rows += tokens;
        let last = Asked { request: slice.request, row: rows - 1, position: slice.start + tokens as u32 - 1 };
        slice.choice_overlap.then_some(last)
    })
}
