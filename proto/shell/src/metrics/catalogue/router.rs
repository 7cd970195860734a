//! The router's metrics.

use super::{Desc, Kind, LATENCY_SECONDS, TOKENS};

/// All of them.
pub(super) const ALL: &[&Desc] = &[
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
];

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
