//! The state machine: events in, commands out, one step under way at most.

use std::time::Duration;

use hadal_types::{ChainHash, LayerId, Ledger, PartSet, RequestId, SamplingParams, StoreId};

use crate::command::Command;
use crate::config::{Config, ConfigError};
use crate::event::{Event, RequestKey};
use crate::incoming::{IncomingPage, Unexpected};
use crate::plan::{Plan, SliceResult};

/// The worker's state machine.
///
/// The shell's step thread owns it, together with the engine and its pages:
///
/// 1. `on(now, event, out)` for whatever happened, at any time, also while a step is under way;
/// 2. `plan(now, plan, out)`; if it says yes, the engine computes the plan, calling `layer_done` after each layer if it
///    can (so that rows leave for the decode worker early), and samples with `sample_inputs`;
/// 3. `step_done` or `step_failed`; then again.
///
/// `now` is monotonic time since any fixed start. Commands are pushed to `out` in the order in which to do them.
#[derive(Debug)]
pub struct Core {
    config: Config,
}

/// What sampling needs of a request, beside the logits.
#[derive(Clone, Copy, Debug)]
pub struct SampleInputs<'a> {
    /// The parameters; the key of the draw is (seed, choice, `output.len()`).
    pub params: &'a SamplingParams,
    /// The prompt.
    pub prompt: &'a [u32],
    /// The output so far; that of a continuation from its very beginning.
    pub output: &'a [u32],
}

/// All blocks that are cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSnapshot {
    /// Number of the last event that it covers.
    pub sequence: u64,
    /// The blocks, parents before children.
    pub blocks: Vec<(ChainHash, PartSet)>,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that lost their pages to older ones and were recomputed.
    pub preemptions: u64,
    /// Attempts to prefill elsewhere that failed.
    pub legs_failed: u64,
    /// Prompts that were computed here because the prefill elsewhere failed.
    pub local_fallbacks: u64,
    /// Tokens taken from the prefix cache.
    pub cached_tokens: u64,
    /// Tokens looked up in it.
    pub looked_up_tokens: u64,
    /// Blocks evicted.
    pub blocks_evicted: u64,
}

impl Core {
    /// A worker with empty pools.
    ///
    /// # Errors
    /// When the configuration contradicts itself.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { config })
    }

    /// Takes in what happened.
    pub fn on(&mut self, now: Duration, event: Event, out: &mut Vec<Command>) {
        let _ = (now, event, out);
    }

    /// Fills `plan` with the next step. False when there is nothing to compute now or a step is under way.
    pub fn plan(&mut self, now: Duration, plan: &mut Plan, out: &mut Vec<Command>) -> bool {
        let _ = (now, plan, out);
        false
    }

    /// The step under way has computed this layer: its rows may be sent. Optional.
    pub fn layer_done(&mut self, layer: LayerId, out: &mut Vec<Command>) {
        let _ = (layer, out);
    }

    /// The step under way is computed; `results` has one entry for each slice, in the plan's order.
    pub fn step_done(&mut self, now: Duration, results: &[SliceResult], out: &mut Vec<Command>) {
        let _ = (now, results, out);
    }

    /// The engine could not compute the step: all its requests end.
    pub fn step_failed(&mut self, now: Duration, message: &str, out: &mut Vec<Command>) {
        let _ = (now, message, out);
    }

    /// What to sample a slice's last row with. None when the request is not here.
    pub fn sample_inputs(&self, request: RequestKey) -> Option<SampleInputs<'_>> {
        let _ = request;
        None
    }

    /// Where the shell writes an arriving page before it reports `BlockArrived`. To be asked on the thread that owns
    /// the pages, directly before writing.
    ///
    /// # Errors
    /// When nobody waits for that page: it must not be written.
    pub fn incoming_page(
        &self,
        request: RequestKey,
        leg: u32,
        block: u32,
        store: StoreId,
    ) -> Result<IncomingPage, Unexpected> {
        let _ = (request, leg, block, store);
        Err(Unexpected::Over)
    }

    /// When `Tick` is due next, if nothing else happens.
    pub fn next_deadline(&self) -> Option<Duration> {
        None
    }

    /// What is held and free, exactly.
    pub fn ledger(&self) -> Ledger {
        Ledger::default()
    }

    /// All cached blocks.
    pub fn snapshot(&self) -> CacheSnapshot {
        CacheSnapshot { sequence: 0, blocks: Vec::new() }
    }

    /// Ids of the requests that are here, oldest first.
    pub fn request_ids(&self) -> impl Iterator<Item = &RequestId> {
        std::iter::empty()
    }

    /// Tokens of prompts that wait to be computed here.
    pub fn prefill_tokens_queued(&self) -> u64 {
        0
    }

    /// Whether new requests are refused.
    pub fn draining(&self) -> bool {
        false
    }

    /// Counts since the start.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }
}
