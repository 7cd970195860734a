//! What the shell tells the core.

use std::time::Duration;

use hadal_types::{Attention, LeaseId, RequestId, SamplingParams, StoreId};

/// The shell's name of a request on this worker, owned or prefilled for another. The shell counts them up and never
/// reuses one; the order of keys is the order of age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestKey(pub u64);

/// A request that this worker shall own.
#[derive(Clone, Debug)]
pub struct Generate {
    /// The client's id; a second request with the same one is refused while the first lives.
    pub id: RequestId,
    /// The prompt, then the output so far of a continuation.
    pub tokens: Vec<u32>,
    /// How many of them are the prompt.
    pub prompt_tokens: u32,
    /// How to sample, and when to end.
    pub sampling: SamplingParams,
    /// The tenant's salt, empty for none.
    pub salt: Vec<u8>,
    /// What its tokens attend to.
    pub attention: Attention,
    /// When it is worth nothing any more.
    pub deadline: Option<Duration>,
    /// Whether the placement names a prefill worker (the shell keeps which).
    pub prefill: bool,
}

/// A prompt to compute for another worker.
#[derive(Clone, Debug)]
pub struct Prefill {
    /// The client's id.
    pub id: RequestId,
    /// The lease; a second request under the same one is refused while the first lives.
    pub lease: LeaseId,
    /// What to compute, all of it (the owner computes the token after these).
    pub tokens: Vec<u32>,
    /// Leading full blocks that the receiver has.
    pub blocks_held: u32,
    /// The tenant's salt, empty for none.
    pub salt: Vec<u8>,
    /// What its tokens attend to.
    pub attention: Attention,
    /// When the client's request is worth nothing any more.
    pub deadline: Option<Duration>,
    /// When the lease ends.
    pub lease_until: Duration,
}

/// What happened. Events about keys that the core does not know (any more) and about legs that are over are ignored.
#[derive(Clone, Debug)]
pub enum Event {
    /// A request to own. Answered at once: `Failed`, or it is reserved and `Started` follows (after
    /// `PrefillAccepted` when it is prefilled elsewhere).
    Generate(RequestKey, Generate),
    /// A prompt to prefill. Answered at once: `Failed` or `PrefillAccepted`.
    Prefill(RequestKey, Prefill),
    /// The stream of this request was dropped. `Failed` with `Cancelled` tells when its pages are free.
    Cancel(RequestKey),

    /// Decode side: the prefill worker has reserved the prompt.
    PrefillAccepted {
        /// The owner's request.
        request: RequestKey,
        /// From `StartPrefill`.
        leg: u32,
        /// Tokens that the prefill worker had cached.
        cached_tokens: u32,
    },
    /// Decode side: a page was verified and written where [`crate::Core::incoming_page`] said.
    BlockArrived {
        /// The owner's request.
        request: RequestKey,
        /// From `StartPrefill`.
        leg: u32,
        /// Which block of the sequence.
        block: u32,
        /// Which store of it.
        store: StoreId,
    },
    /// Decode side: the sender's End came.
    PrefillEnded {
        /// The owner's request.
        request: RequestKey,
        /// From `StartPrefill`.
        leg: u32,
    },
    /// Decode side: the leg failed (refusal, lost connection, checksum, layout).
    PrefillFailed {
        /// The owner's request.
        request: RequestKey,
        /// From `StartPrefill`.
        leg: u32,
        /// Whether asking the same worker once more could help.
        retryable: bool,
    },

    /// Prefill side: the receiver takes so many bytes more (pages count whole). Nothing is sent before the first.
    SendCredit {
        /// The prefill.
        request: RequestKey,
        /// Bytes more.
        bytes: u64,
    },
    /// Prefill side: the receiver acknowledged End.
    SendAcknowledged {
        /// The prefill.
        request: RequestKey,
    },
    /// Prefill side: the connection to the receiver is lost.
    SendFailed {
        /// The prefill.
        request: RequestKey,
        /// Why.
        message: String,
    },

    /// Take no new request; those here finish.
    Drain,
    /// Time passed: deadlines and leases are checked (planning checks them too).
    Tick,
}
