//! Golden data beside a checkpoint: every choice, margin and largest difference of an f32 run.
//!
//! `golden/golden.json` lists the prompts and `golden/golden.safetensors` has the numbers, computed by an independent
//! implementation over prompt and greedy continuation at once. Here the same tokens run in chunks over a paged cache.

mod golden;
mod quality;
mod report;
mod run;

use std::path::{Path, PathBuf};

use hadal_types::{Dtype, KvEncoding};

use crate::files::{Files, OpenError};
use crate::forward::ForwardError;
use crate::model::{LoadOptions, Model, Progress};
use crate::weights::LoadError;
pub use golden::GoldenError;
pub use quality::{LayerOverlap, Quality, QualityOptions, QualityReport, quality};
pub use report::{CheckReport, Choices, Constants, LayerMargin, PromptReport};

/// How to check.
pub struct CheckOptions<'a> {
    /// Kernel path.
    pub path: hadal_kernels::Path,
    /// Threads; none for the calling one alone.
    pub pool: Option<std::sync::Arc<hadal_kernels::Pool>>,
    /// Largest difference of logits that passes.
    pub tolerance: f32,
    /// Tokens of a chunk: any number gives the same bits.
    pub chunk_tokens: usize,
    /// Called while weights are loaded.
    pub progress: &'a dyn Fn(Progress),
}

impl CheckOptions<'_> {
    /// What `hadal check` promises: logits within this of the golden ones.
    pub const TOLERANCE: f32 = 1e-3;
}

/// A check that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The checkpoint cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The weights cannot be loaded.
    #[error("{origin}: {source}")]
    Load {
        /// The checkpoint.
        origin: PathBuf,
        /// Why.
        source: LoadError,
    },
    /// The golden data cannot be used.
    #[error(transparent)]
    Golden(#[from] GoldenError),
    /// A prompt does not fit the model.
    #[error("prompt {prompt}: {source}")]
    Forward {
        /// The prompt.
        prompt: String,
        /// Why.
        source: ForwardError,
    },
}

/// Runs the golden data of a checkpoint folder in f32 with an f32 cache.
///
/// # Errors
/// When checkpoint or golden data cannot be read. Differences are no errors: the report has them.
pub fn check(dir: &Path, options: &CheckOptions<'_>) -> Result<CheckReport, CheckError> {
    let files = Files::open(dir)?;
    let golden = golden::Golden::open(dir)?;
    let load = LoadOptions {
        dtype: Dtype::F32,
        kv: KvEncoding::F32,
        path: options.path,
        drafts: true,
        pool: options.pool.clone(),
        progress: options.progress,
    };
    let model = Model::load(&files, &load).map_err(|source| CheckError::Load { origin: dir.to_owned(), source })?;
    let constants = run::constants(&model, &golden)?;
    let prompts = golden.prompts.iter().map(|p| run::prompt(&model, &golden, p, options)).collect::<Result<_, _>>()?;
    Ok(CheckReport {
        checkpoint: dir.display().to_string(),
        architecture: files.config().architecture.name.to_owned(),
        kernels: options.path.name().to_owned(),
        tolerance: options.tolerance,
        constants,
        prompts,
    })
}

/// The tokens of a checkpoint's golden prompts, with their continuations.
///
/// # Errors
/// When there are none, or they cannot be read.
pub fn golden_tokens(dir: &Path) -> Result<Vec<Vec<u32>>, CheckError> {
    let golden = golden::Golden::open(dir)?;
    Ok(golden.prompts.iter().map(|p| [&p.input_ids[..], &p.greedy_ids].concat()).collect())
}

#[cfg(test)]
mod tests;
