//! The coordinator's configuration: one documented struct, from flags or a file that writes them down.

use std::time::Duration;

use hadal_coordinator_core::policy::{self, Policy, Settings};
use hadal_shell::units::duration;

use crate::store::StoreAddress;

/// How a coordinator is run.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Where workers and routers reach this coordinator; port 0 takes any free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8002")]
    pub grpc: String,

    /// What others dial to reach --grpc, when it is not what this coordinator binds to
    #[arg(long, value_name = "HOST:PORT")]
    pub grpc_advertise: Option<String>,

    /// Where coordinators agree on who leads: memory for one without standbys, or etcd://HOST:PORT,HOST:PORT/PREFIX
    /// (etcds:// for TLS with --tls-cert), the same for all coordinators of a cluster and another one's PREFIX for another
    #[arg(long, value_name = "STORE", default_value = "memory")]
    pub store: StoreAddress,

    /// With a store: a leader that hangs is replaced after so long. The store is written to six times in it
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration)]
    pub leader_lease: Duration,

    /// Serve /metrics, /health and /ready here
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics: Option<String>,

    /// How a worker is chosen: prefix-affinity weighs cached tokens against load, least-loaded looks at load alone,
    /// round-robin at neither
    #[arg(long, value_name = "NAME", default_value = policy::REGISTRY[0].name)]
    pub policy: String,

    /// prefix-affinity: one more request on a worker weighs as much as so many prompt tokens to compute; larger
    /// spreads load more evenly, smaller reuses more of the caches
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub request_tokens: u64,

    /// Requests that may wait for a worker; more are refused as overloaded
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub queue_max: usize,

    /// Workers that may be registered at once
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub workers_max: usize,

    /// How often workers tell what they hold
    #[arg(long, value_name = "TIME", default_value = "250ms", value_parser = duration)]
    pub heartbeat: Duration,

    /// A worker without a heartbeat for so long is taken out; at least twice --heartbeat
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration)]
    pub lost_after: Duration,

    /// How long a request waits while no worker of its model is registered
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub no_worker_wait: Duration,

    /// Output tokens that must fit a worker's memory beside the prompt when a request is placed there; larger means
    /// fewer preemptions, smaller means more requests at a time
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub growth_tokens: u32,

    /// A prompt with at most so many uncached tokens is computed by the worker that decodes it
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub local_prefill_tokens: u32,

    /// How long a worker's memory is kept for a placement that its heartbeats do not name
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub lease: Duration,

    /// Messages that may wait to be taken in; with more, connections wait
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub mailbox: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grpc: "127.0.0.1:8002".into(),
            grpc_advertise: None,
            store: StoreAddress::Memory,
            leader_lease: Duration::from_secs(3),
            metrics: None,
            policy: policy::REGISTRY[0].name.into(),
            request_tokens: 256,
            queue_max: 4096,
            workers_max: 4096,
            heartbeat: Duration::from_millis(250),
            lost_after: Duration::from_secs(3),
            no_worker_wait: Duration::from_secs(30),
            growth_tokens: 256,
            local_prefill_tokens: 64,
            lease: Duration::from_secs(30),
            mailbox: 1024,
        }
    }
}

/// etcd raises shorter leases to this: one and a half times its own election timeout, in whole seconds.
const LEADER_LEASE_MIN: Duration = Duration::from_secs(2);

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--{flag}: {problem}")]
pub struct ConfigError {
    /// The flag.
    pub flag: &'static str,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl Config {
    /// Checks what the flags' own types cannot, and makes the policy.
    pub(crate) fn policy(&self) -> Result<Box<dyn Policy>, ConfigError> {
        let counts = [("queue-max", self.queue_max), ("workers-max", self.workers_max), ("mailbox", self.mailbox)];
        if let Some((flag, _)) = counts.into_iter().find(|&(_, count)| count == 0) {
            return Err(ConfigError { flag, problem: "must be at least 1".into() });
        }
        let times = [("heartbeat", self.heartbeat), ("lease", self.lease)];
        if let Some((flag, _)) = times.into_iter().find(|&(_, time)| time < Duration::from_millis(1)) {
            return Err(ConfigError { flag, problem: "must be at least 1ms".into() });
        }
        if self.leader_lease < LEADER_LEASE_MIN {
            let problem = format!("must be at least {LEADER_LEASE_MIN:?}, the shortest that etcd gives");
            return Err(ConfigError { flag: "leader-lease", problem });
        }
        if self.lost_after < 2 * self.heartbeat {
            let problem = format!(
                "{:?} is less than two heartbeats of {:?}, so that one late heartbeat would lose a worker",
                self.lost_after, self.heartbeat
            );
            return Err(ConfigError { flag: "lost-after", problem });
        }
        let settings = Settings { request_tokens: self.request_tokens };
        policy::by_name(&self.policy, &settings)
            .map_err(|error| ConfigError { flag: "policy", problem: error.to_string() })
    }

    pub(crate) fn core(&self) -> hadal_coordinator_core::Config {
        hadal_coordinator_core::Config {
            queue_max: self.queue_max,
            workers_max: self.workers_max,
            lost_after: self.lost_after,
            no_worker_wait: self.no_worker_wait,
            growth_tokens: self.growth_tokens,
            local_prefill_tokens: self.local_prefill_tokens,
            lease: self.lease,
            rebuild: match self.store {
                StoreAddress::Memory => Duration::ZERO,
                StoreAddress::Etcd { .. } => self.lost_after,
            },
            ..hadal_coordinator_core::Config::default()
        }
    }
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
        let parsed = Flags::parse_from(["coordinator"]).config;
        assert_eq!(format!("{parsed:?}"), format!("{:?}", Config::default()));
        Config::default().policy().unwrap();
    }

    #[test]
    fn wrong_settings_are_refused_by_flag() {
        let flag = |config: Config| config.policy().err().map(|e| e.flag);
        let default = Config::default;
        assert_eq!(flag(Config { policy: "best".into(), ..default() }), Some("policy"));
        assert_eq!(flag(Config { queue_max: 0, ..default() }), Some("queue-max"));
        assert_eq!(flag(Config { heartbeat: Duration::ZERO, ..default() }), Some("heartbeat"));
        assert_eq!(flag(Config { heartbeat: Duration::from_secs(2), ..default() }), Some("lost-after"));
    }
}
