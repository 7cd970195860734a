//! The worker's configuration: one documented struct, from flags or a file that writes them down.

use std::time::Duration;

use hadal_shell::units::{bytes, duration, show_bytes};
use hadal_types::{BLOCK_TOKENS, Geometry, Part, Role, blocks_for};

/// Longest queue: what waits in one takes memory.
const QUEUE_MAX: usize = 1 << 20;
/// Rows of the largest step, as `hadal inspect` takes them.
const STEP_TOKENS_MAX: u32 = 1 << 16;
/// Longest wait. Far longer ones leave the range of the clock.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// How a worker is run.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// What this worker does: prefill computes prompts for others, decode owns requests, mixed does both
    #[arg(long, value_name = "ROLE", default_value = "mixed")]
    pub role: Role,

    /// Stable name of this worker, unique in the fleet (a pod's name); drawn at random when left out
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,

    /// Where the coordinator listens, or each of several, of which one leads; the worker waits for it as long as it
    /// takes
    #[arg(long, value_name = "HOST:PORT[,...]", default_value = "127.0.0.1:8002")]
    pub coordinator: String,

    /// Where this worker serves gRPC to routers and other workers; port 0 takes any free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    pub grpc: String,

    /// What others dial to reach --grpc, when it is not what this worker binds to
    #[arg(long, value_name = "HOST:PORT")]
    pub grpc_advertise: Option<String>,

    /// Where decode workers fetch the cache of prefilled prompts; roles prefill and mixed need it
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    pub transfer: String,

    /// What others dial to reach --transfer, when it is not what this worker binds to
    #[arg(long, value_name = "HOST:PORT")]
    pub transfer_advertise: Option<String>,

    /// Serve /metrics, /health and /ready here
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics: Option<String>,

    /// Memory for the cache of all requests, index and latents together
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = bytes)]
    pub kv_memory: u64,

    /// Size of that cache in tokens, in place of --kv-memory; rounded up to blocks of 64
    #[arg(long, value_name = "N", conflicts_with = "kv_memory")]
    pub kv_tokens: Option<u64>,

    /// Tokens that one step computes at most, decodes and prompts together
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub step_tokens: u32,

    /// Prompt tokens that one step computes at most while other requests decode: bounds the time per output token
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub chunk_tokens: u32,

    /// Requests at a time, owned and prefilled for others; less than --step-tokens
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub requests_max: u32,

    /// A decode worker computes prompts with at most so many uncached tokens itself, without the prefill worker
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub local_tokens: u32,

    /// How long one attempt to have a prompt prefilled by another worker may take, and a prompt prefilled here for
    /// another may hold memory
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = duration)]
    pub prefill_lease: Duration,

    /// How long a prefill worker may take to accept or refuse a prompt
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub peer_timeout: Duration,

    /// Pages that may be under way to this worker for one request: what a sender may be ahead of the step loop
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = bytes)]
    pub kv_window: u64,

    /// Pages copied out for one receiver that wait for the network
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = bytes)]
    pub kv_send_buffer: u64,

    /// A KV connection that moves nothing for so long although something is due is given up
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub kv_stall: Duration,

    /// Output tokens that may wait for a router that does not read; with more, that request is ended. Until then a
    /// slow reader delays nobody
    #[arg(long, value_name = "N", default_value_t = 8192)]
    pub output_tokens_max: usize,

    /// Messages that may wait for the step loop; with more, connections wait
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub step_queue: usize,

    /// Cache events that may wait for the coordinator; with more, it asks for a snapshot
    #[arg(long, value_name = "N", default_value_t = 16384)]
    pub event_queue: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            role: Role::Mixed,
            id: None,
            coordinator: "127.0.0.1:8002".into(),
            grpc: "127.0.0.1:0".into(),
            grpc_advertise: None,
            transfer: "127.0.0.1:0".into(),
            transfer_advertise: None,
            metrics: None,
            kv_memory: 512 << 20,
            kv_tokens: None,
            step_tokens: 512,
            chunk_tokens: 256,
            requests_max: 128,
            local_tokens: 64,
            prefill_lease: Duration::from_secs(120),
            peer_timeout: Duration::from_secs(10),
            kv_window: 8 << 20,
            kv_send_buffer: 4 << 20,
            kv_stall: Duration::from_secs(30),
            output_tokens_max: 8192,
            step_queue: 1024,
            event_queue: 16384,
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--{flag}: {problem}")]
pub struct ConfigError {
    /// The flag.
    pub flag: &'static str,
    /// What is wrong and what would be right.
    pub problem: String,
}

fn wrong(flag: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError { flag, problem: problem.into() }
}

impl Config {
    /// Checks what the flags' own types cannot.
    ///
    /// # Errors
    /// The first setting that is wrong by itself or contradicts another.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let positive = [
            ("step-tokens", u64::from(self.step_tokens)),
            ("chunk-tokens", u64::from(self.chunk_tokens)),
            ("requests-max", u64::from(self.requests_max)),
            ("kv-window", self.kv_window),
            ("kv-send-buffer", self.kv_send_buffer),
            ("output-tokens-max", self.output_tokens_max as u64),
            ("step-queue", self.step_queue as u64),
            ("event-queue", self.event_queue as u64),
            ("prefill-lease", self.prefill_lease.as_millis() as u64),
            ("peer-timeout", self.peer_timeout.as_millis() as u64),
            ("kv-stall", self.kv_stall.as_millis() as u64),
        ];
        if let Some((flag, _)) = positive.into_iter().find(|&(_, value)| value == 0) {
            return Err(wrong(flag, "must be more than 0"));
        }
        self.validate_bounds()?;
        if self.step_tokens <= self.requests_max {
            let problem = format!(
                "{} tokens a step with up to {} requests leave no room for prompts; give more than --requests-max",
                self.step_tokens, self.requests_max
            );
            return Err(wrong("step-tokens", problem));
        }
        if self.role.prefills() && self.transfer.is_empty() {
            let problem = format!("--role {} needs an address from which decode workers fetch the cache", self.role);
            return Err(wrong("transfer", problem));
        }
        match self.id.as_deref() {
            Some(id) if id.is_empty() || id.len() > 128 || !id.bytes().all(|b| b.is_ascii_graphic()) => {
                Err(wrong("id", "1 to 128 visible ASCII characters, without spaces"))
            }
            _ => Ok(()),
        }
    }

    fn validate_bounds(&self) -> Result<(), ConfigError> {
        let queues = [("step-queue", self.step_queue), ("event-queue", self.event_queue)];
        if let Some((flag, _)) = queues.into_iter().find(|&(_, length)| length > QUEUE_MAX) {
            return Err(wrong(flag, format!("at most {QUEUE_MAX}")));
        }
        if self.step_tokens > STEP_TOKENS_MAX {
            return Err(wrong("step-tokens", format!("at most {STEP_TOKENS_MAX}")));
        }
        let waits =
            [("prefill-lease", self.prefill_lease), ("peer-timeout", self.peer_timeout), ("kv-stall", self.kv_stall)];
        match waits.into_iter().find(|(_, time)| *time > WAIT_MAX) {
            Some((flag, _)) => Err(wrong(flag, "at most 24h")),
            None => Ok(()),
        }
    }

    /// Checks that the machine has room for the workspace of the largest step.
    ///
    /// # Errors
    /// When it has not.
    pub(crate) fn check_workspace(&self, bytes: u64) -> Result<(), ConfigError> {
        if can_be_had(Some(bytes)) {
            return Ok(());
        }
        let problem = format!("this machine has no room for the workspace of {}; give less", show_bytes(bytes));
        Err(wrong("step-tokens", problem))
    }

    /// Pages of each part's pool, by [`Part::index`]: equally many for each part that the model has.
    ///
    /// # Errors
    /// When not even one block fits.
    pub fn pages(&self, geometry: &Geometry) -> Result<[u32; Part::ALL.len()], ConfigError> {
        let block_bytes = geometry.sequence_bytes(1).max(1);
        let blocks = match self.kv_tokens {
            Some(tokens) => blocks_for(tokens),
            None => self.kv_memory / block_bytes,
        };
        let flag = if self.kv_tokens.is_some() { "kv-tokens" } else { "kv-memory" };
        if blocks == 0 {
            let needed = show_bytes(block_bytes);
            return Err(wrong(
                flag,
                format!("one block of {BLOCK_TOKENS} tokens of this model takes {needed}; give more"),
            ));
        }
        let blocks = u32::try_from(blocks)
            .map_err(|_| wrong(flag, format!("{blocks} blocks; at most {} can be numbered", u32::MAX)))?;
        if !can_be_had(u64::from(blocks).checked_mul(block_bytes)) {
            let problem = format!("this machine has no room for {blocks} blocks of {}", show_bytes(block_bytes));
            return Err(wrong(flag, problem));
        }
        Ok(Part::ALL.map(|part| if geometry.parts().contains(part) { blocks } else { 0 }))
    }
}

/// Whether the system promises so much memory. It is asked for and given back untouched, which costs nothing; without
/// asking, a pool that is too large would end the process without a word.
fn can_be_had(bytes: Option<u64>) -> bool {
    let Some(bytes) = bytes.and_then(|n| usize::try_from(n).ok()) else { return false };
    let mut room = Vec::<u8>::new();
    let had = room.try_reserve_exact(bytes).is_ok();
    // Or the compiler, seeing no use of it, leaves the question out.
    std::hint::black_box(&room);
    had
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        config: Config,
    }

    #[test]
    fn the_flags_defaults_are_the_structs() {
        let parsed = Flags::parse_from(["worker"]).config;
        assert_eq!(format!("{parsed:?}"), format!("{:?}", Config::default()));
        Config::default().validate().unwrap();
    }

    #[test]
    fn a_prefill_worker_needs_a_transfer_address() {
        let config = Config { role: Role::Prefill, transfer: String::new(), ..Config::default() };
        assert_eq!(config.validate().unwrap_err().flag, "transfer");
        Config { role: Role::Decode, ..config }.validate().unwrap();
    }

    #[test]
    fn steps_leave_room_for_prompts() {
        let config = Config { step_tokens: 8, requests_max: 8, ..Config::default() };
        assert_eq!(config.validate().unwrap_err().flag, "step-tokens");
    }

    #[test]
    fn absurd_queues_and_waits_are_refused() {
        let long = Duration::from_secs(u64::MAX);
        for (flag, config) in [
            ("step-queue", Config { step_queue: usize::MAX, ..Config::default() }),
            ("event-queue", Config { event_queue: usize::MAX, ..Config::default() }),
            ("step-tokens", Config { step_tokens: u32::MAX, ..Config::default() }),
            ("prefill-lease", Config { prefill_lease: long, ..Config::default() }),
            ("peer-timeout", Config { peer_timeout: long, ..Config::default() }),
            ("kv-stall", Config { kv_stall: long, ..Config::default() }),
        ] {
            assert_eq!(config.validate().unwrap_err().flag, flag);
        }
    }

    #[test]
    fn a_pool_holds_one_block_at_least() {
        let geometry = crate::engine::sim::geometry(false);
        let block = geometry.sequence_bytes(1);
        let config = Config { kv_memory: block - 1, ..Config::default() };
        assert_eq!(config.pages(&geometry).unwrap_err().flag, "kv-memory");
        assert_eq!(Config { kv_memory: 3 * block, ..Config::default() }.pages(&geometry).unwrap(), [3, 3]);
        assert_eq!(Config { kv_tokens: Some(65), ..Config::default() }.pages(&geometry).unwrap(), [2, 2]);
    }

    #[test]
    fn a_pool_beyond_the_machine_is_refused() {
        let mut geometry = crate::engine::sim::geometry(false);
        geometry.stores[0].record[0].count = u32::MAX;
        let config = Config { kv_tokens: Some(64 * u64::from(u32::MAX)), ..Config::default() };
        assert_eq!(config.pages(&geometry).unwrap_err().flag, "kv-tokens");
        assert_eq!(config.check_workspace(u64::MAX).unwrap_err().flag, "step-tokens");
        config.check_workspace(1 << 20).unwrap();
    }
}
