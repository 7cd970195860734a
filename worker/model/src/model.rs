//! A loaded model: what the engine runs.

use std::sync::Arc;

use hadal_kernels::{Ctx, NUMERICS_VERSION, Path, PathUnavailable, Pool};
use hadal_types::{Dtype, Fingerprint, Geometry, KvEncoding, LayerId, Numerics, Part};

use crate::cache::Cache;
use crate::config::Config;
use crate::files::Files;
use crate::forward::ForwardError;
use crate::probe::{OnLayer, Probe};
use crate::step::{Draft, Step};
use crate::weights::{LoadError, Weights};
use crate::workspace::Workspace;

/// How far loading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of weights read.
    pub bytes: u64,
    /// Bytes to read.
    pub bytes_total: u64,
}

/// How a model is loaded.
#[derive(Clone)]
pub struct LoadOptions<'a> {
    /// Type of activations.
    pub dtype: Dtype,
    /// Encoding of cache rows.
    pub kv: KvEncoding,
    /// Kernel path.
    pub path: Path,
    /// Whether the draft layer is loaded and its rows are kept, if the checkpoint has one.
    pub drafts: bool,
    /// Threads of the kernels; none for the calling thread alone.
    pub pool: Option<Arc<Pool>>,
    /// Called after each layer.
    pub progress: &'a dyn Fn(Progress),
}

impl LoadOptions<'_> {
    /// Its kernels, with activations of a type.
    pub(crate) fn context(&self, dtype: Dtype) -> Result<Ctx, PathUnavailable> {
        let ctx = Ctx::new(self.path, dtype)?;
        Ok(match &self.pool {
            Some(pool) => ctx.with_pool(pool.clone()),
            None => ctx,
        })
    }
}

/// A model in memory. Shared by all engines of a process; every step brings its own cache and workspace.
pub struct Model {
    pub(crate) config: Config,
    pub(crate) weights: Weights,
    pub(crate) ctx: Ctx,
    /// The same with f32 activations.
    pub(crate) exact: Ctx,
    pub(crate) kv: KvEncoding,
    pub(crate) geometry: Geometry,
    fingerprint: Fingerprint,
}

impl Model {
    /// Reads and packs the weights.
    ///
    /// # Errors
    /// Names the tensor that is missing or has another shape or type, with both; or the path that this machine lacks.
    pub fn load(files: &Files, options: &LoadOptions<'_>) -> Result<Self, LoadError> {
        let mut config = files.config().clone();
        // One draft layer drafts one token, and no published model has more.
        let drafts = usize::from(options.drafts && Self::can_draft(files));
        config.layers.truncate(config.main_layers() + drafts);
        Ok(Self {
            weights: Weights::load(files, &config, options)?,
            geometry: crate::geometry::geometry(&config, options.kv),
            ctx: options.context(options.dtype)?,
            exact: options.context(Dtype::F32)?,
            kv: options.kv,
            fingerprint: files.fingerprint(),
            config,
        })
    }

    /// Whether a checkpoint has a draft layer: some name one in their configuration and leave its weights out.
    pub fn can_draft(files: &Files) -> bool {
        let config = files.config();
        let tensor = format!("model.layers.{}.eh_proj.weight", config.main_layers());
        config.draft_layers() > 0 && files.tensor(&tensor).is_some()
    }

    /// The cache geometry that steps use, with the draft layer if it is loaded.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Whether the draft layer is loaded.
    pub fn drafts(&self) -> bool {
        self.config.draft_layers() > 0
    }

    /// All that decides the bits of an answer.
    pub fn numerics(&self) -> Numerics {
        Numerics {
            fingerprint: self.fingerprint,
            dtype: self.ctx.dtype(),
            layout: self.geometry.layout.clone(),
            kernels: self.ctx.path().name().to_owned(),
            version: NUMERICS_VERSION,
            // With EP 1 rows reach the experts as they are, and answers come back in f32.
            expert_rows: "f32".to_owned(),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Longest sequence.
    pub fn context_tokens(&self) -> u32 {
        self.config.context_tokens
    }

    /// Size of the vocabulary: valid token ids are below it.
    pub fn vocab(&self) -> u32 {
        self.config.vocab as u32
    }

    /// Bytes of the packed weights.
    pub fn weights_bytes(&self) -> u64 {
        self.weights.bytes()
    }

    /// Bytes of a workspace for steps of so many rows.
    pub fn workspace_bytes(&self, rows_max: usize) -> u64 {
        Workspace::bytes_for(&self.config, rows_max)
    }

    /// Room for steps of so many rows, all of which may ask for logits.
    pub fn new_workspace(&self, rows_max: usize) -> Workspace {
        Workspace::new(&self.config, rows_max)
    }

    /// A cache of so many pages of each part.
    pub fn new_cache(&self, pages: &[(Part, u32)]) -> Cache {
        Cache::new(&self.geometry, pages)
    }

    /// Computes a step: writes the rows of its tokens to the cache, and logits where they are asked for. `on_layer` is
    /// called when all rows of a layer are in the cache.
    ///
    /// A slice whose numbers are not finite ends alone: [`Workspace::failure`] names it, and the others are right.
    ///
    /// # Errors
    /// A step that contradicts itself; nothing was written then.
    pub fn forward(
        &self,
        step: &Step<'_>,
        cache: &mut Cache,
        workspace: &mut Workspace,
        on_layer: &mut dyn FnMut(LayerId, &Cache),
    ) -> Result<(), ForwardError> {
        crate::forward::forward(self, step, cache, workspace, &mut OnLayer(on_layer))
    }

    /// Writes the draft rows that follow the slices of a step, the one that was computed last with this workspace, as
    /// its [`Draft`]s say, one for each slice, and computes logits where they are asked for. `on_layer` is called when they are in the cache.
    /// Without a draft layer nothing happens.
    ///
    /// # Errors
    /// Drafts that contradict the step; nothing was written then.
    pub fn draft(
        &self,
        after: (&Step<'_>, &[Draft]),
        cache: &mut Cache,
        workspace: &mut Workspace,
        on_layer: &mut dyn FnMut(LayerId, &Cache),
    ) -> Result<(), ForwardError> {
        crate::forward::draft(self, after, cache, workspace, on_layer)
    }

    /// As [`Model::forward`], showing `probe` what happens on the way.
    ///
    /// # Errors
    /// As there.
    pub fn forward_probed(
        &self,
        step: &Step<'_>,
        cache: &mut Cache,
        workspace: &mut Workspace,
        probe: &mut dyn Probe,
    ) -> Result<(), ForwardError> {
        crate::forward::forward(self, step, cache, workspace, probe)
    }
}

#[cfg(test)]
mod tests;
