//! The worker's metrics.

use super::{Desc, Kind, LATENCY_SECONDS, SHORT_SECONDS, TOKENS};

/// All of them.
pub(super) const ALL: &[&Desc] = &[
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
    &WORKER_DRAFTS,
    &WORKER_DRAFTING,
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
    &WORKER_COMMANDS_REFUSED,
];

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
    help: "Tokens computed, by phase (prefill, decode); of drafts, those that were right.",
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
    advice: "A lower bound of TPOT; lower --chunk-tokens if prefill chunks hold decodes up.",
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
/// Drafts.
pub static WORKER_DRAFTS: Desc = Desc {
    name: "hadal_worker_draft_tokens_total",
    kind: Kind::Counter,
    help: "Tokens that the draft layer proposed and that were tried, by result (accepted, refused).",
    unit: "tokens",
    labels: &["result"],
    advice: "accepted / (accepted + refused) is the acceptance; answers are the same at any. Low: texts the layer was not trained on, or sampling at a high temperature.",
};
/// Whether tokens are drafted.
pub static WORKER_DRAFTING: Desc = Desc {
    name: "hadal_worker_drafting",
    kind: Kind::Gauge,
    help: "1 while steps of the latest batch size are made with drafts, 0 while these do not pay or there is no draft layer.",
    unit: "none",
    labels: &[],
    advice: "0 under load is normal: where rows are what a step costs, drafts give no tokens a second more.",
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
/// Commands of deposed leaders.
pub static WORKER_COMMANDS_REFUSED: Desc = Desc {
    name: "hadal_worker_commands_refused_total",
    kind: Kind::Counter,
    help: "Commands that change state and came from a leader of an older term than the worker knows of.",
    unit: "commands",
    labels: &[],
    advice: "A few around a change of leaders are the fence at work; in numbers, coordinators use different stores.",
};
