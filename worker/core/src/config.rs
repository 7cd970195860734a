//! What a worker core must know of its worker, checked once.

use std::time::Duration;

use hadal_types::{BLOCK_TOKENS, Geometry, Incarnation, Keep, NumericsClass, Part};

use crate::plan::StepLoad;

/// The configuration of a [`crate::Core`].
#[derive(Clone, Debug)]
pub struct Config {
    /// The life of this worker; stands in every cache event.
    pub incarnation: Incarnation,
    /// Root of all chain hashes, together with a request's salt.
    pub numerics_class: NumericsClass,
    /// What the model keeps. Append stores only. With a draft layer, its rows are kept and tokens are drafted.
    pub geometry: Geometry,
    /// Pages of each pool, by [`Part::index`]; 0 for a part that the model has not.
    pub pages: [u32; Part::ALL.len()],
    /// Bytes of the weights, for the ledger.
    pub weights_bytes: u64,
    /// Bytes of the step's workspace, for the ledger.
    pub workspace_bytes: u64,
    /// Longest sequence of the model, prompt and output.
    pub context_tokens: u32,
    /// Token ids are below this.
    pub vocab_tokens: u32,
    /// Rows of a step at most, decodes and prefill chunks together. Above `requests_max`.
    pub step_tokens_max: u32,
    /// Prefill rows of a step at most while requests decode beside them. No request that runs waits longer for a token
    /// than [`Self::decode_step_max`] takes.
    pub chunk_tokens_max: u32,
    /// Requests at a time, owned and prefilled for others.
    pub requests_max: u32,
    /// Uncached tokens that a decode worker computes itself although a prefill worker is named.
    pub local_tokens_max: u32,
    /// How long one attempt to have a prompt prefilled elsewhere may take.
    pub prefill_lease: Duration,
}

/// A configuration that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The model keeps nothing.
    #[error("the geometry has no store; a worker needs one at least")]
    NoStore,
    /// A store that is not paged by prefix.
    #[error("store {store} is no append store; this worker pages append stores only")]
    NotAppend {
        /// The store.
        store: usize,
    },
    /// A pool without pages.
    #[error("the pool of part {part} has no page; give it memory for one block of {BLOCK_TOKENS} tokens at least")]
    NoPages {
        /// The part.
        part: &'static str,
    },
    /// A step that could starve prefills.
    #[error("step_tokens_max is {step} and requests_max {requests}: it must be larger, so that prefill goes on")]
    StepTooSmall {
        /// `step_tokens_max`.
        step: u32,
        /// `requests_max`.
        requests: u32,
    },
    /// A limit of zero.
    #[error("{name} must be at least 1")]
    Zero {
        /// The limit.
        name: &'static str,
    },
}

impl Config {
    /// Checks what the core relies on.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.geometry.stores.is_empty() {
            return Err(ConfigError::NoStore);
        }
        if let Some(store) = self.geometry.stores.iter().position(|s| s.keep != Keep::All) {
            return Err(ConfigError::NotAppend { store });
        }
        for part in self.geometry.parts().iter() {
            if self.pages[part.index()] == 0 {
                return Err(ConfigError::NoPages { part: part.name() });
            }
        }
        let limits = [
            ("context_tokens", self.context_tokens),
            ("vocab_tokens", self.vocab_tokens),
            ("chunk_tokens_max", self.chunk_tokens_max),
            ("requests_max", self.requests_max),
        ];
        if let Some((name, _)) = limits.into_iter().find(|(_, limit)| *limit == 0) {
            return Err(ConfigError::Zero { name });
        }
        if self.step_tokens_max <= self.requests_max {
            return Err(ConfigError::StepTooSmall { step: self.step_tokens_max, requests: self.requests_max });
        }
        Ok(())
    }

    /// The largest step that a decode is part of, when no sequence is longer than `context_tokens`. Its time is the
    /// bound on the time per output token; it may have more rows than `step_tokens_max`, which bounds it further.
    pub fn decode_step_max(&self, context_tokens: u32) -> StepLoad {
        let prefill_tokens = self.chunk_tokens_max.min(self.step_tokens_max.saturating_sub(1));
        let decode_tokens = self.requests_max;
        let draft_tokens = if self.drafts() { decode_tokens } else { 0 };
        let rows = u64::from(prefill_tokens) + u64::from(decode_tokens) + u64::from(draft_tokens);
        StepLoad { prefill_tokens, decode_tokens, draft_tokens, context_tokens: rows * u64::from(context_tokens) }
    }

    /// Whether rows of a draft layer are kept.
    pub fn drafts(&self) -> bool {
        self.geometry.layers.iter().any(|l| l.draft)
    }

    /// Rows of a step at most, with one that a chunk of a prompt computes again for its draft rows: the engine's workspace.
    pub fn step_rows_max(&self) -> u32 {
        self.step_tokens_max.saturating_add(u32::from(self.drafts()))
    }
}
