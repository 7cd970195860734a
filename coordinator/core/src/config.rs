//! The limits and times that the decisions depend on.

use std::time::Duration;

/// How the core behaves. The shell's configuration says what each is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Requests that may wait at once.
    pub queue_max: usize,
    /// Workers that may be registered at once.
    pub workers_max: usize,
    /// A worker without a heartbeat for so long is taken out.
    pub lost_after: Duration,
    /// How long a request waits while no worker that could own it is registered.
    pub no_worker_wait: Duration,
    /// Output tokens that must fit a worker's memory beside the prompt when a request is placed there.
    pub growth_tokens: u32,
    /// Uncached tokens up to which a decode worker computes the prompt itself.
    pub local_prefill_tokens: u32,
    /// How long a placement counts against its workers when no heartbeat names it.
    pub lease: Duration,
    /// How long a worker may take to send a snapshot before it is asked again.
    pub snapshot_wait: Duration,
    /// For so long from its start a coordinator that follows another one does not conclude from a worker's absence that
    /// there is none: requests that no registered worker could take wait.
    pub rebuild: Duration,
    /// Cache events of one worker that are kept while its snapshot arrives.
    pub snapshot_events_max: usize,
    /// Blocks of a part that a worker may have in a tier of which its ledger says nothing, as host memory and disk.
    pub tier_blocks_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queue_max: 4096,
            workers_max: 4096,
            lost_after: Duration::from_secs(3),
            no_worker_wait: Duration::from_secs(30),
            growth_tokens: 256,
            local_prefill_tokens: hadal_types::BLOCK_TOKENS,
            lease: Duration::from_secs(30),
            snapshot_wait: Duration::from_secs(10),
            rebuild: Duration::ZERO,
            snapshot_events_max: 1 << 16,
            tier_blocks_max: 1 << 22,
        }
    }
}
