//! Every metric of Hadal. One entry is one static and one line in [`ALL`]; docs/metrics.md is made from it and checked
//! by a test (`UPDATE=1 cargo test -p hadal-shell` renews it).
//!
//! Names: `hadal_<part>_<what>_<unit>`, counters end in `_total`. Labels are bounded: a part, a kind, a model that is
//! served, a worker. Every metric of a worker also bears the label `worker`.

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by upper bound.
    Histogram(&'static [f64]),
}

impl Kind {
    /// As the documentation calls it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug)]
pub struct Desc {
    /// Full name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it measures; a sentence.
    pub help: &'static str,
    /// Its unit, in words.
    pub unit: &'static str,
    /// Names of its labels, in the order of their values.
    pub labels: &'static [&'static str],
    /// What to do when it moves.
    pub advice: &'static str,
}

/// Upper bounds for waits that a client notices: 1 ms to 2 minutes.
const LATENCY_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// Upper bounds for steps and decisions: 10 µs to 10 s.
const SHORT_SECONDS: &[f64] = &[0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

/// Upper bounds for tokens of a request.
const TOKENS: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 131072.0, 262144.0, 1048576.0];

// ---- router

/// Requests by API, model and how they ended.
pub static ROUTER_REQUESTS: Desc = Desc {
    name: "hadal_router_requests_total",
    kind: Kind::Counter,
    help: "Requests that ended, by API (http, grpc), model and outcome (ok, cancelled, or the kind of error).",
    unit: "requests",
    labels: &["api", "model", "outcome"],
    advice: "A share of outcomes other than ok and cancelled that grows is an incident: see hadal_router_errors_total.",
};
/// Requests that run now.
pub static ROUTER_REQUESTS_ACTIVE: Desc = Desc {
    name: "hadal_router_requests_active",
    kind: Kind::Gauge,
    help: "Requests that are being answered.",
    unit: "requests",
    labels: &["model"],
    advice: "Grows with load; when it grows while throughput does not, add decode workers.",
};
/// Time to first token.
pub static ROUTER_TTFT: Desc = Desc {
    name: "hadal_router_ttft_seconds",
    kind: Kind::Histogram(LATENCY_SECONDS),
    help: "Time to first token: from the request's arrival to its first token at the router.",
    unit: "seconds",
    labels: &["model"],
    advice: "Compare with the coordinator's queue time; if that is small, prefill is the limit: add prefill workers.",
};
/// Time per output token.
pub static ROUTER_TPOT: Desc = Desc {
    name: "hadal_router_tpot_seconds",
    kind: Kind::Histogram(LATENCY_SECONDS),
    help: "Time per output token after the first, averaged over a choice.",
    unit: "seconds",
    labels: &["model"],
    advice: "Grows with the decode batch and context: see hadal_worker_step_seconds; add decode workers.",
};
/// Prompt tokens.
pub static ROUTER_PROMPT_TOKENS: Desc = Desc {
    name: "hadal_router_prompt_tokens_total",
    kind: Kind::Counter,
    help: "Prompt tokens of accepted requests.",
    unit: "tokens",
    labels: &["model"],
    advice: "Input load; plan prefill capacity by its rate.",
};
/// Prompt tokens that were cached.
pub static ROUTER_CACHED_TOKENS: Desc = Desc {
    name: "hadal_router_cached_tokens_total",
    kind: Kind::Counter,
    help: "Prompt tokens that a worker had in its prefix cache.",
    unit: "tokens",
    labels: &["model"],
    advice: "Divided by prompt tokens it is the hit rate; when it falls, caches are too small or prompts changed.",
};
/// Output tokens.
pub static ROUTER_OUTPUT_TOKENS: Desc = Desc {
    name: "hadal_router_output_tokens_total",
    kind: Kind::Counter,
    help: "Output tokens delivered to clients.",
    unit: "tokens",
    labels: &["model"],
    advice: "Throughput; plan decode capacity by its rate.",
};
/// Lengths of prompts.
pub static ROUTER_PROMPT_LENGTH: Desc = Desc {
    name: "hadal_router_prompt_length_tokens",
    kind: Kind::Histogram(TOKENS),
    help: "Prompt tokens of a request.",
    unit: "tokens",
    labels: &["model"],
    advice: "A shift to longer prompts moves load from decode to prefill workers.",
};
/// Time of a whole request.
pub static ROUTER_REQUEST_TIME: Desc = Desc {
    name: "hadal_router_request_seconds",
    kind: Kind::Histogram(LATENCY_SECONDS),
    help: "Time of a whole request: from its arrival to the end of its last choice.",
    unit: "seconds",
    labels: &["model"],
    advice: "TTFT plus output tokens times TPOT; compare those two to see which of them moved.",
};
/// Time to place.
pub static ROUTER_PLACEMENT_TIME: Desc = Desc {
    name: "hadal_router_placement_seconds",
    kind: Kind::Histogram(LATENCY_SECONDS),
    help: "Time from asking the coordinator for a placement to its answer, waits for the coordinator included.",
    unit: "seconds",
    labels: &["model"],
    advice: "Far above the coordinator's queue time: the coordinator is away or the network between is slow.",
};
/// Requests that wait.
pub static ROUTER_REQUESTS_WAITING: Desc = Desc {
    name: "hadal_router_requests_waiting",
    kind: Kind::Gauge,
    help: "Requests that wait in the router for a first worker or for the coordinator.",
    unit: "requests",
    labels: &[],
    advice: "More than none: see /ready of the router, which says what is missing.",
};
/// Errors.
pub static ROUTER_ERRORS: Desc = Desc {
    name: "hadal_router_errors_total",
    kind: Kind::Counter,
    help: "Errors answered to clients, by API and kind.",
    unit: "errors",
    labels: &["api", "kind"],
    advice: "invalid is the clients' fault, overloaded asks for capacity; unavailable and internal ask for the logs.",
};
/// Placements tried again.
pub static ROUTER_RETRIES: Desc = Desc {
    name: "hadal_router_retries_total",
    kind: Kind::Counter,
    help: "Requests or running streams that were placed again, by reason (busy, lost, draining, prefill, other).",
    unit: "placements",
    labels: &["reason"],
    advice: "lost means that workers die: see their logs; busy in numbers means that heartbeats lag behind load.",
};
/// Whether the coordinator is connected.
pub static ROUTER_COORDINATOR_CONNECTED: Desc = Desc {
    name: "hadal_router_coordinator_connected",
    kind: Kind::Gauge,
    help: "1 while the router watches its coordinator's fleet, else 0.",
    unit: "none",
    labels: &[],
    advice: "0 for more than a few seconds: the coordinator or the network between is down.",
};

// ---- coordinator

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

// ---- worker

/// Requests by kind.
pub static WORKER_REQUESTS: Desc = Desc {
    name: "hadal_worker_requests_total",
    kind: Kind::Counter,
    help: "Requests that ended, by leg (generate, prefill) and outcome (ok, cancelled, or the kind of error).",
    unit: "requests",
    labels: &["leg", "outcome"],
    advice: "busy in numbers: the coordinator's view lags, or one worker is full; internal: see the logs.",
};
/// Sequences.
pub static WORKER_SEQUENCES: Desc = Desc {
    name: "hadal_worker_sequences",
    kind: Kind::Gauge,
    help: "Sequences by state (waiting, prefilling, decoding).",
    unit: "sequences",
    labels: &["state"],
    advice: "waiting for long means that memory or the step's token budget is short.",
};
/// Tokens computed.
pub static WORKER_TOKENS: Desc = Desc {
    name: "hadal_worker_tokens_total",
    kind: Kind::Counter,
    help: "Tokens computed, by phase (prefill, decode).",
    unit: "tokens",
    labels: &["phase"],
    advice: "The worker's throughput.",
};
/// Step time.
pub static WORKER_STEP_TIME: Desc = Desc {
    name: "hadal_worker_step_seconds",
    kind: Kind::Histogram(SHORT_SECONDS),
    help: "Time of one step of the engine.",
    unit: "seconds",
    labels: &[],
    advice: "A lower bound of TPOT; lower --step-tokens if prefill chunks hold decodes up.",
};
/// Tokens of a step.
pub static WORKER_STEP_TOKENS: Desc = Desc {
    name: "hadal_worker_step_tokens",
    kind: Kind::Histogram(TOKENS),
    help: "Tokens computed by one step.",
    unit: "tokens",
    labels: &[],
    advice: "Near 1 under load: batches are small, decode is inefficient; use fewer workers.",
};
/// Pages by part and state.
pub static WORKER_PAGES: Desc = Desc {
    name: "hadal_worker_pages",
    kind: Kind::Gauge,
    help: "Cache pages by part (index, latent) and state (used, cached, free).",
    unit: "pages",
    labels: &["part", "state"],
    advice: "cached and free near zero: requests wait or are preempted; give --kv-memory more, or add workers.",
};
/// Bytes of a page.
pub static WORKER_PAGE_BYTES: Desc = Desc {
    name: "hadal_worker_page_bytes",
    kind: Kind::Gauge,
    help: "Bytes of one cache page by part.",
    unit: "bytes",
    labels: &["part"],
    advice: "Constant; multiply pages by it.",
};
/// Prefix cache lookups.
pub static WORKER_PREFIX_TOKENS: Desc = Desc {
    name: "hadal_worker_prefix_tokens_total",
    kind: Kind::Counter,
    help: "Prompt tokens by part and whether the prefix cache had them (hit, miss).",
    unit: "tokens",
    labels: &["part", "result"],
    advice: "hit / (hit + miss) is the hit rate; when it falls, the working set outgrew the cache.",
};
/// Evictions.
pub static WORKER_EVICTED_PAGES: Desc = Desc {
    name: "hadal_worker_evicted_pages_total",
    kind: Kind::Counter,
    help: "Cached pages dropped to make room, by part.",
    unit: "pages",
    labels: &["part"],
    advice: "Normal under load; with a falling hit rate, give the cache more memory.",
};
/// Preemptions.
pub static WORKER_PREEMPTIONS: Desc = Desc {
    name: "hadal_worker_preemptions_total",
    kind: Kind::Counter,
    help: "Sequences that lost their pages and were computed again.",
    unit: "sequences",
    labels: &[],
    advice: "More than a few: admission is too optimistic for these output lengths; add decode memory.",
};
/// KV bytes moved.
pub static WORKER_KV_BYTES: Desc = Desc {
    name: "hadal_worker_kv_bytes_total",
    kind: Kind::Counter,
    help: "Bytes of cache rows moved between workers, by direction (sent, received) and part.",
    unit: "bytes",
    labels: &["direction", "part"],
    advice: "Compare its rate with the network's bandwidth.",
};
/// Transfers.
pub static WORKER_TRANSFERS: Desc = Desc {
    name: "hadal_worker_transfers_total",
    kind: Kind::Counter,
    help: "Transfers of a prompt's cache that ended, by direction (sent, received) and outcome (ok, or the error's kind).",
    unit: "transfers",
    labels: &["direction", "outcome"],
    advice: "checksum: a faulty network or memory; lease, timeout: prefill is slower than --prefill-lease.",
};
/// Transfer time.
pub static WORKER_TRANSFER_TIME: Desc = Desc {
    name: "hadal_worker_transfer_seconds",
    kind: Kind::Histogram(LATENCY_SECONDS),
    help: "Time from asking for a prefill to the last block's arrival.",
    unit: "seconds",
    labels: &[],
    advice: "A part of TTFT: prefill time and transfer together.",
};
/// Prefill legs that ended in local recomputation.
pub static WORKER_RECOMPUTES: Desc = Desc {
    name: "hadal_worker_recomputes_total",
    kind: Kind::Counter,
    help: "Prompts computed by the decode worker after its prefill worker or the transfer failed, by reason.",
    unit: "prompts",
    labels: &["reason"],
    advice: "Costs decode time; find the reason in hadal_worker_transfers_total and the logs.",
};
/// Time to first token at the worker.
pub static WORKER_TTFT: Desc = Desc {
    name: "hadal_worker_ttft_seconds",
    kind: Kind::Histogram(LATENCY_SECONDS),
    help: "Time from a request's arrival at its decode worker to its first token.",
    unit: "seconds",
    labels: &[],
    advice: "Compare with hadal_router_ttft_seconds: the difference is placement and the network.",
};
/// Time per output token at the worker.
pub static WORKER_TPOT: Desc = Desc {
    name: "hadal_worker_tpot_seconds",
    kind: Kind::Histogram(SHORT_SECONDS),
    help: "Mean time per output token after the first, of each finished request.",
    unit: "seconds",
    labels: &[],
    advice: "Well above hadal_worker_step_seconds: requests were preempted or waited for memory.",
};
/// Errors.
pub static WORKER_ERRORS: Desc = Desc {
    name: "hadal_worker_errors_total",
    kind: Kind::Counter,
    help: "Errors by kind (busy, invalid, deadline, mismatch, draining, prefill, numerics, internal).",
    unit: "errors",
    labels: &["kind"],
    advice: "numerics: NaN in logits, a broken checkpoint or memory; mismatch: workers of different releases or layouts.",
};
/// Cache events that were dropped.
pub static WORKER_EVENTS_DROPPED: Desc = Desc {
    name: "hadal_worker_cache_events_dropped_total",
    kind: Kind::Counter,
    help: "Cache events that did not fit the queue; the coordinator asks for a snapshot instead.",
    unit: "events",
    labels: &[],
    advice: "Harmless when rare; else the connection to the coordinator is too slow.",
};
/// Weights.
pub static WORKER_WEIGHT_BYTES: Desc = Desc {
    name: "hadal_worker_weights_bytes",
    kind: Kind::Gauge,
    help: "Bytes of weights held; workers of one process share them.",
    unit: "bytes",
    labels: &[],
    advice: "Constant.",
};
/// Whether the coordinator is connected.
pub static WORKER_COORDINATOR_CONNECTED: Desc = Desc {
    name: "hadal_worker_coordinator_connected",
    kind: Kind::Gauge,
    help: "1 while the worker is registered with its coordinator, else 0.",
    unit: "none",
    labels: &[],
    advice: "0: it gets no new requests; the coordinator or the network between is down, or it was refused: see the log.",
};

/// All of them, by part.
pub static ALL: &[&Desc] = &[
    &ROUTER_REQUESTS,
    &ROUTER_REQUESTS_ACTIVE,
    &ROUTER_TTFT,
    &ROUTER_TPOT,
    &ROUTER_PROMPT_TOKENS,
    &ROUTER_CACHED_TOKENS,
    &ROUTER_OUTPUT_TOKENS,
    &ROUTER_PROMPT_LENGTH,
    &ROUTER_REQUEST_TIME,
    &ROUTER_PLACEMENT_TIME,
    &ROUTER_REQUESTS_WAITING,
    &ROUTER_ERRORS,
    &ROUTER_RETRIES,
    &ROUTER_COORDINATOR_CONNECTED,
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
    &WORKER_REQUESTS,
    &WORKER_SEQUENCES,
    &WORKER_TOKENS,
    &WORKER_STEP_TIME,
    &WORKER_STEP_TOKENS,
    &WORKER_PAGES,
    &WORKER_PAGE_BYTES,
    &WORKER_PREFIX_TOKENS,
    &WORKER_EVICTED_PAGES,
    &WORKER_PREEMPTIONS,
    &WORKER_KV_BYTES,
    &WORKER_TRANSFERS,
    &WORKER_TRANSFER_TIME,
    &WORKER_RECOMPUTES,
    &WORKER_TTFT,
    &WORKER_TPOT,
    &WORKER_ERRORS,
    &WORKER_EVENTS_DROPPED,
    &WORKER_WEIGHT_BYTES,
    &WORKER_COORDINATOR_CONNECTED,
];
