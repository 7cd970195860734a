//! The engine that runs a model on this machine's processor.

use std::sync::Arc;

use hadal_kernels::{History, NotFinite, SampleScratch, greedy, sample};
use hadal_model::{Cache, Draft, Logits, Model, Slice, Step, Workspace};
use hadal_types::{LayerId, Part, StoreId};
use hadal_worker_core::{Follow, Plan, SampleInputs, Sampled, SliceResult, StepSlice, TokenLogprobs, Tokens};

use super::overlap::{Asked, Overlaps, Watch};
use super::{Backend, EngineError, Pages};

pub(super) struct ModelBackend {
    model: Arc<Model>,
    cache: Cache,
    workspace: Workspace,
    scratch: SampleScratch,
    overlaps: Overlaps,
    /// How the draft layer follows each slice.
    drafts: Vec<Draft>,
}

impl ModelBackend {
    pub(super) fn new(model: Arc<Model>, pages: &[(Part, u32)], rows_max: usize) -> Self {
        Self {
            cache: model.new_cache(pages),
            workspace: model.new_workspace(rows_max),
            model,
            scratch: SampleScratch::default(),
            overlaps: Overlaps::default(),
            drafts: Vec::new(),
        }
    }

    /// Draws a token from one of the rows of a slice that have logits; `then` was drawn before it in this step.
    fn draw(
        &mut self,
        (slice, row): (usize, usize),
        inputs: SampleInputs<'_>,
        then: Option<u32>,
    ) -> Result<Sampled, NotFinite> {
        let vocab = self.model.vocab() as usize;
        let logits = self.workspace.logits(slice).chunks_exact(vocab.max(1)).nth(row).unwrap_or(&[]);
        let history = History { prompt: inputs.prompt, output: inputs.output, then };
        let index = (inputs.output.len() + usize::from(then.is_some())) as u32;
        let drawn = sample(logits, inputs.params, history, index, &mut self.scratch)?;
        let logprobs = inputs.params.logprobs.map(|_| TokenLogprobs {
            logprob: drawn.logprob,
            top: drawn.top,
            choice_overlap: None,
        });
        Ok(Sampled { token: drawn.token, logprobs })
    }

    /// What follows the first token of a slice if that is the draft. Numbers that are not finite behind it are the next
    /// step's to tell, as without a draft.
    fn second(&mut self, plan: &Plan, slice: usize, inputs: SampleInputs<'_>, first: u32) -> Option<Sampled> {
        let tried = plan.slices().get(slice).filter(|s| s.draft).and_then(|s| plan.tokens(s).last().copied())?;
        if tried != first || self.workspace.failure(slice).is_some() {
            return None;
        }
        self.draw((slice, 1), inputs, Some(first)).ok()
    }
}

impl Pages for Cache {
    fn page(&self, store: StoreId, page: u32) -> Result<&[u8], EngineError> {
        Cache::page(self, store, page).map_err(|e| EngineError(e.to_string()))
    }
}

impl Backend for ModelBackend {
    fn forward(&mut self, plan: &Plan, on_layer: &mut dyn FnMut(LayerId, &dyn Pages)) -> Result<(), EngineError> {
        let step = step_of(plan);
        self.overlaps.begin(asked(plan));
        let mut watch = Watch { overlaps: &mut self.overlaps, on_layer: &mut |layer, cache| on_layer(layer, cache) };
        let computed = self.model.forward_probed(&step, &mut self.cache, &mut self.workspace, &mut watch);
        computed.map_err(|e| EngineError(e.to_string()))
    }

    fn result(&mut self, plan: &Plan, slice: usize, inputs: Option<SampleInputs<'_>>) -> SliceResult {
        let Some(planned) = plan.slices().get(slice) else { return SliceResult::NotFinite };
        // A draft's row that fails says nothing of the row before it.
        if let Some(what) = self.workspace.failure(slice).filter(|f| f.row < draft_row(plan, slice)) {
            tracing::error!(%what, "a step gave numbers that are not finite");
            return SliceResult::NotFinite;
        }
        // Without inputs its request is gone, and nobody will look at the result.
        let Some(inputs) = inputs.filter(|_| planned.sample) else { return SliceResult::Computed };
        match self.draw((slice, 0), inputs, None) {
            Ok(mut first) => {
                if let Some(logprobs) = &mut first.logprobs {
                    logprobs.choice_overlap = self.overlaps.of(planned.request);
                }
                let second = self.second(plan, slice, inputs, first.token);
                SliceResult::Tokens(Tokens { first, second, draft: None })
            }
            Err(what) => {
                tracing::error!(%what, "no token could be drawn");
                SliceResult::NotFinite
            }
        }
    }

    fn follow(
        &mut self,
        plan: &Plan,
        results: &mut [SliceResult],
        on_layer: &mut dyn FnMut(LayerId, &dyn Pages),
    ) -> Result<(), EngineError> {
        if !self.model.drafts() {
            return Ok(());
        }
        self.drafts.clear();
        self.drafts.extend(plan.slices().iter().zip(&*results).map(|(slice, result)| draft(plan, slice, result)));
        let after = (&step_of(plan), &self.drafts[..]);
        let mut on_layer = |layer: LayerId, cache: &Cache| on_layer(layer, cache);
        let computed = self.model.draft(after, &mut self.cache, &mut self.workspace, &mut on_layer);
        computed.map_err(|e| EngineError(e.to_string()))?;
        for (slice, result) in results.iter_mut().enumerate() {
            if let SliceResult::Tokens(tokens) = result {
                tokens.draft = greedy(self.workspace.logits(slice));
            }
        }
        Ok(())
    }

    fn pages(&self) -> &dyn Pages {
        &self.cache
    }

    fn write_page(&mut self, store: StoreId, page: u32, bytes: &[u8]) -> Result<(), EngineError> {
        self.cache.write_page(store, page, bytes).map_err(|e| EngineError(e.to_string()))
    }
}

fn step_of(plan: &Plan) -> Step<'_> {
    let slices = plan.slices().iter().map(|slice| Slice {
        tokens: plan.tokens(slice),
        start: slice.start,
        pages: Part::ALL.map(|part| plan.pages(slice, part)),
        logits: match (slice.sample, slice.draft) {
            (false, _) => Logits::None,
            (true, false) => Logits::Last,
            (true, true) => Logits::All,
        },
        attention: slice.attention,
    });
    Step { slices: slices.collect() }
}

/// The row of the step from which on a slice's rows can be done without: that of its draft, or its end.
fn draft_row(plan: &Plan, slice: usize) -> usize {
    let rows = plan.slices().iter().take(slice + 1).map(|s| plan.tokens(s).len()).sum::<usize>();
    rows - usize::from(plan.slices().get(slice).is_some_and(|s| s.draft))
}

/// How the draft layer follows a slice.
fn draft(plan: &Plan, slice: &StepSlice, result: &SliceResult) -> Draft {
    let rows = plan.tokens(slice).len();
    let before = rows - usize::from(slice.draft);
    let (kept, last) = match result {
        SliceResult::NotFinite => return Draft::default(),
        SliceResult::Computed => (before, None),
        SliceResult::Tokens(Tokens { first, second: None, .. }) => (before, Some(first)),
        SliceResult::Tokens(Tokens { second: Some(second), .. }) => (rows, Some(second)),
    };
    let next = last.filter(|_| slice.follow != Follow::Nothing).map(|sampled| sampled.token);
    let logits = if next.is_some() && slice.follow == Follow::Draft { Logits::Last } else { Logits::None };
    Draft { kept, next, logits }
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
