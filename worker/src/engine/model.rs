//! The engine that runs a model on this machine's processor.

use std::sync::Arc;

use hadal_kernels::{History, SampleScratch, sample};
use hadal_model::{Cache, Logits, Model, Slice, Step, Workspace};
use hadal_types::{LayerId, Part, StoreId};
use hadal_worker_core::{Plan, SampleInputs, Sampled, SliceResult, TokenLogprobs};

use super::{Backend, EngineError, Pages};

pub(super) struct ModelBackend {
    model: Arc<Model>,
    cache: Cache,
    workspace: Workspace,
    scratch: SampleScratch,
}

impl ModelBackend {
    pub(super) fn new(model: Arc<Model>, pages: &[(Part, u32)], rows_max: usize) -> Self {
        let cache = model.new_cache(pages);
        let workspace = model.new_workspace(rows_max);
        Self { model, cache, workspace, scratch: SampleScratch::default() }
    }
}

impl Pages for Cache {
    fn page(&self, store: StoreId, page: u32) -> Result<&[u8], EngineError> {
        Cache::page(self, store, page).map_err(|e| EngineError(e.to_string()))
    }
}
