//! Models of the DeepSeek-V3.2 family: published checkpoints, their cache geometry, and the forward pass over a paged
//! cache, the same bits whatever the chunks, batches and pages.

mod arch;
mod cache;
pub mod check;
mod config;
pub mod describe;
mod files;
mod forward;
#[cfg(any(test, feature = "test-util"))]
pub mod fuzz;
mod geometry;
mod model;
mod probe;
mod rope;
mod step;
#[cfg(test)]
mod testing;
mod weights;
mod workspace;

pub use arch::{Architecture, supported};
pub use cache::{Cache, PageError};
pub use config::{Config, ConfigError, Indexer, LayerChoice, LayerPlan, Moe, Quantization, Scoring};
pub use files::{Files, HeaderError, OpenError, SmallFile, Tensor, TensorType};
pub use forward::ForwardError;
pub use geometry::geometry;
pub use hadal_kernels::{Path, Pool};
pub use model::{LoadOptions, Model, Progress};
pub use probe::{Probe, Route, Stage};
pub use rope::{Rope, RopeError};
pub use step::{Draft, Logits, Slice, Step};
pub use weights::LoadError;
pub use workspace::Workspace;
