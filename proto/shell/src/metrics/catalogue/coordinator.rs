//! The coordinator's metrics.

use super::{Desc, Kind, LATENCY_SECONDS, SHORT_SECONDS};

/// All of them.
pub(super) const ALL: &[&Desc] = &[
    &COORDINATOR_WORKERS,
    &COORDINATOR_WORKERS_LOST,
    &COORDINATOR_PLACEMENTS,
    &COORDINATOR_QUEUE,
    &COORDINATOR_QUEUE_TIME,
    &COORDINATOR_PLACEMENT_TIME,
    &COORDINATOR_DIRECTORY_BLOCKS,
    &COORDINATOR_PREFIX_BLOCKS,
    &COORDINATOR_SNAPSHOTS,
    &COORDINATOR_AFFINITY,
    &COORDINATOR_DISCARDED,
    &COORDINATOR_CACHE_GAPS,
    &COORDINATOR_LEASES_EXPIRED,
    &COORDINATOR_WORKERS_REFUSED,
    &COORDINATOR_LEADING,
    &COORDINATOR_TERM,
];

/// Workers.
pub static COORDINATOR_WORKERS: Desc = Desc {
    name: "hadal_coordinator_workers",
    kind: Kind::Gauge,
    help: "Registered workers by role.",
    unit: "workers",
    labels: &["role"],
    advice: "Fewer than were started: see hadal_coordinator_workers_lost_total and the workers' logs.",
};
/// Workers lost.
pub static COORDINATOR_WORKERS_LOST: Desc = Desc {
    name: "hadal_coordinator_workers_lost_total",
    kind: Kind::Counter,
    help: "Workers taken out, by reason (left, disconnected, silent, replaced).",
    unit: "workers",
    labels: &["reason"],
    advice: "left is orderly; silent means no heartbeat: a frozen process or a lost machine.",
};
/// Placements.
pub static COORDINATOR_PLACEMENTS: Desc = Desc {
    name: "hadal_coordinator_placements_total",
    kind: Kind::Counter,
    help: "Answers to Place, by kind (placed, the kind of refusal, or cancelled when the router gave up).",
    unit: "placements",
    labels: &["outcome"],
    advice: "overloaded or deadline growing: add workers; no_worker: none is registered for the model.",
};
/// Queue depth.
pub static COORDINATOR_QUEUE: Desc = Desc {
    name: "hadal_coordinator_queue_requests",
    kind: Kind::Gauge,
    help: "Requests that wait for a worker.",
    unit: "requests",
    labels: &[],
    advice: "More than a few for long: memory for caches is short; add decode workers or lower max_tokens.",
};
/// Queue time.
pub static COORDINATOR_QUEUE_TIME: Desc = Desc {
    name: "hadal_coordinator_queue_seconds",
    kind: Kind::Histogram(LATENCY_SECONDS),
    help: "Time from Place to its answer, for placed requests.",
    unit: "seconds",
    labels: &[],
    advice: "The part of TTFT that capacity removes.",
};
/// Placement time.
pub static COORDINATOR_PLACEMENT_TIME: Desc = Desc {
    name: "hadal_coordinator_placement_seconds",
    kind: Kind::Histogram(SHORT_SECONDS),
    help: "Time that one placement decision took to compute.",
    unit: "seconds",
    labels: &[],
    advice: "Grows with workers and prompt length; above a millisecond, split the fleet into cells.",
};
/// Blocks in the directory.
pub static COORDINATOR_DIRECTORY_BLOCKS: Desc = Desc {
    name: "hadal_coordinator_directory_blocks",
    kind: Kind::Gauge,
    help: "Cached blocks that the directory knows, summed over workers.",
    unit: "blocks",
    labels: &[],
    advice: "Zero under load: workers send no cache events.",
};
/// Blocks that a placement found.
pub static COORDINATOR_PREFIX_BLOCKS: Desc = Desc {
    name: "hadal_coordinator_prefix_blocks_total",
    kind: Kind::Counter,
    help: "Prompt blocks of placed requests, by whether the chosen worker has them (hit, miss).",
    unit: "blocks",
    labels: &["result"],
    advice: "hits falling while clients are the same: caches evict too early, or placement ignores affinity.",
};
/// Snapshots asked for.
pub static COORDINATOR_SNAPSHOTS: Desc = Desc {
    name: "hadal_coordinator_snapshots_total",
    kind: Kind::Counter,
    help: "Snapshots of their caches asked of workers: one at each registration, one after each gap.",
    unit: "snapshots",
    labels: &[],
    advice: "More than one per registration: events are lost or queues are too short.",
};

/// What placements made of caches.
pub static COORDINATOR_AFFINITY: Desc = Desc {
    name: "hadal_coordinator_affinity_total",
    kind: Kind::Counter,
    help: "Placements by what they made of the caches: reused (on the worker that had the most of the prompt), spread \
           (that one was too busy), cold (no worker had any of it).",
    unit: "placements",
    labels: &["outcome"],
    advice: "spread growing: popular prefixes outgrow one worker; lower --request-tokens to reuse more.",
};
/// Messages without effect.
pub static COORDINATOR_DISCARDED: Desc = Desc {
    name: "hadal_coordinator_discarded_total",
    kind: Kind::Counter,
    help: "Messages of workers (cache events one by one) without effect, by reason (unknown_worker, old_incarnation, \
           repeated, before_snapshot).",
    unit: "messages",
    labels: &["reason"],
    advice: "A few around restarts are normal; repeated in numbers is a fault of a worker: see the logs of both.",
};
/// Gaps in cache events.
pub static COORDINATOR_CACHE_GAPS: Desc = Desc {
    name: "hadal_coordinator_cache_gaps_total",
    kind: Kind::Counter,
    help: "Gaps in the numbers of workers' cache events; each costs a snapshot.",
    unit: "gaps",
    labels: &[],
    advice: "Workers drop events that they cannot send in time: raise their --event-queue.",
};
/// Placements that were not used.
pub static COORDINATOR_LEASES_EXPIRED: Desc = Desc {
    name: "hadal_coordinator_leases_expired_total",
    kind: Kind::Counter,
    help: "Placements that no worker's heartbeat named within the lease.",
    unit: "placements",
    labels: &[],
    advice: "Routers died or lost the answer; until then memory was kept free in vain. Lower --lease if it happens often.",
};
/// Registrations refused.
pub static COORDINATOR_WORKERS_REFUSED: Desc = Desc {
    name: "hadal_coordinator_workers_refused_total",
    kind: Kind::Counter,
    help: "Registrations of workers that were refused.",
    unit: "registrations",
    labels: &[],
    advice: "The refused worker's log says why: another release, another model under the same name, a wrong ledger.",
};
/// Leadership.
pub static COORDINATOR_LEADING: Desc = Desc {
    name: "hadal_coordinator_leading",
    kind: Kind::Gauge,
    help: "1 while this coordinator leads, else 0.",
    unit: "none",
    labels: &[],
    advice: "The sum over a cluster's coordinators is 1; 0 for more than seconds: see their logs and the store's health.",
};
/// Term.
pub static COORDINATOR_TERM: Desc = Desc {
    name: "hadal_coordinator_term",
    kind: Kind::Gauge,
    help: "The number of the last leadership of this coordinator.",
    unit: "none",
    labels: &[],
    advice: "Rising often: leaders die or hang, or the store is too slow for --leader-lease.",
};
