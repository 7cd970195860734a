//! What computes steps: a model, or a model of the time that one would take. The step thread owns a [`Backend`]; the
//! [`Engine`] is what workers of one process share.

mod model;
mod overlap;
pub(crate) mod sim;

use std::sync::Arc;

use hadal_model::{Files, Model, SmallFile};
use hadal_types::{Fingerprint, Geometry, LayerId, NumericsClass, Part, StoreId};
use hadal_worker_core::{Plan, SampleInputs, SliceResult};

pub use sim::SimConfig;

/// What a worker computes with. Clones share the weights.
#[derive(Clone)]
pub struct Engine {
    info: Info,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Model(Arc<Model>),
    Sim(SimConfig),
}

/// What peers are told of an engine.
#[derive(Clone, Debug)]
pub struct Info {
    /// The name under which clients ask for it.
    pub model_name: String,
    /// `model_type` of the checkpoint.
    pub architecture: String,
    /// The checkpoint.
    pub fingerprint: Fingerprint,
    /// What decides the bits.
    pub class: NumericsClass,
    /// What is kept.
    pub geometry: Arc<Geometry>,
    /// Longest sequence.
    pub context_tokens: u32,
    /// Token ids are below this.
    pub vocab_tokens: u32,
    /// Bytes of the weights.
    pub weights_bytes: u64,
    /// What routers read.
    pub files: Arc<[SmallFile]>,
}

/// A step that was not computed.
#[derive(Debug, thiserror::Error)]
#[error("the engine failed: {0}")]
pub struct EngineError(pub String);

/// The pages of an engine.
pub(crate) trait Pages {
    /// One page of a store.
    fn page(&self, store: StoreId, page: u32) -> Result<&[u8], EngineError>;
}

/// One worker's engine: its cache and workspace. Owned by the step thread.
pub(crate) trait Backend: Send {
    /// Computes a step; `on_layer` is called when all rows of a layer are in the cache.
    fn forward(&mut self, plan: &Plan, on_layer: &mut dyn FnMut(LayerId, &dyn Pages)) -> Result<(), EngineError>;

    /// What became of a slice of the step just computed: its next tokens, if it asked for some.
    fn result(&mut self, plan: &Plan, slice: usize, inputs: Option<SampleInputs<'_>>) -> SliceResult;

    /// Writes the rows of the draft layer that follow the step, and adds what it drafts to the results of all slices,
    /// in the plan's order. `on_layer` is called when the rows are in the cache. Without a draft layer nothing happens.
    fn follow(
        &mut self,
        plan: &Plan,
        results: &mut [SliceResult],
        on_layer: &mut dyn FnMut(LayerId, &dyn Pages),
    ) -> Result<(), EngineError>;

    /// The pages, between steps.
    fn pages(&self) -> &dyn Pages;

    /// Overwrites a page.
    fn write_page(&mut self, store: StoreId, page: u32, bytes: &[u8]) -> Result<(), EngineError>;
}

impl Engine {
    /// A loaded model and the small files of its checkpoint, served as `name`.
    pub fn model(model: Arc<Model>, files: &Files, name: &str) -> Self {
        let info = Info {
            model_name: name.to_owned(),
            architecture: model.config().architecture.name.to_owned(),
            fingerprint: files.fingerprint(),
            class: model.numerics().class(),
            geometry: Arc::new(model.geometry().clone()),
            context_tokens: model.context_tokens(),
            vocab_tokens: model.vocab(),
            weights_bytes: model.weights_bytes(),
            files: files.small_files().into(),
        };
        Self { info, kind: Kind::Model(model) }
    }

    /// A model of the time of steps. With a checkpoint, routers read its tokenizer; its weights are not used.
    pub fn sim(config: SimConfig, files: Option<&Files>, name: &str) -> Self {
        Self { info: sim::info(&config, files, name), kind: Kind::Sim(config) }
    }

    /// What peers are told.
    pub fn info(&self) -> &Info {
        &self.info
    }

    pub(crate) fn workspace_bytes(&self, rows_max: u32) -> u64 {
        match &self.kind {
            Kind::Model(model) => model.workspace_bytes(rows_max as usize),
            Kind::Sim(_) => 0,
        }
    }

    /// A worker's own cache and workspace.
    pub(crate) fn backend(&self, pages: &[(Part, u32)], rows_max: u32) -> Box<dyn Backend> {
        match &self.kind {
            Kind::Model(model) => Box::new(model::ModelBackend::new(Arc::clone(model), pages, rows_max as usize)),
            Kind::Sim(config) => Box::new(sim::SimBackend::new(config, &self.info, pages)),
        }
    }
}
