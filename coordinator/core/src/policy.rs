//! How a worker is chosen among those that could take a request. A policy is one file and one line in [`REGISTRY`].

mod least_loaded;
mod prefix_affinity;
mod round_robin;

/// Which part of a request's work is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Job {
    /// Owning and decoding it.
    Decode,
    /// Computing its prompt.
    Prefill,
}

/// A worker that could take the job now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the fleet; candidates are ordered by it.
    pub slot: u16,
    /// Requests that it has, placements under way included.
    pub requests: u64,
    /// Prompt tokens that wait there to be computed, placements under way included.
    pub tokens_queued: u64,
    /// Prompt tokens of this request that it has cached.
    pub tokens_cached: u64,
    /// Prompt tokens of this request that it has not.
    pub tokens_missing: u64,
    /// Blocks that it could still take.
    pub blocks_available: u64,
    /// Drawn from the request's leading block and the worker's name: among equals the largest goes first, so that equal
    /// prefixes meet.
    pub rank: u64,
}

/// A way to choose.
pub trait Policy: Send {
    /// The position of the chosen candidate; none only when there are none.
    fn choose(&mut self, job: Job, candidates: &[Candidate]) -> Option<usize>;
}

/// A policy's name and how it is made.
pub struct Entry {
    /// The name in the configuration.
    pub name: &'static str,
    make: fn(&Settings) -> Box<dyn Policy>,
}

/// Every policy, the default first.
pub const REGISTRY: &[Entry] = &[
    Entry { name: "prefix-affinity", make: prefix_affinity::make },
    Entry { name: "least-loaded", make: least_loaded::make },
    Entry { name: "round-robin", make: round_robin::make },
];

/// What policies can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// One more request on a worker weighs as much as computing so many prompt tokens.
    pub request_tokens: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { request_tokens: 256 }
    }
}

/// A policy that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown placement policy {name:?}; choose one of {}", names().join(", "))]
pub struct UnknownPolicy {
    /// The name.
    pub name: String,
}

/// The names of all policies.
pub fn names() -> Vec<&'static str> {
    REGISTRY.iter().map(|entry| entry.name).collect()
}

/// Makes the policy of that name.
///
/// # Errors
/// When there is none; lists those that there are.
pub fn by_name(name: &str, settings: &Settings) -> Result<Box<dyn Policy>, UnknownPolicy> {
    let entry = REGISTRY.iter().find(|entry| entry.name == name);
    entry.map(|entry| (entry.make)(settings)).ok_or_else(|| UnknownPolicy { name: name.to_owned() })
}

/// The position of the candidate with the smallest key; among equals the one with the largest rank.
fn smallest<K: Ord>(candidates: &[Candidate], key: impl Fn(&Candidate) -> K) -> Option<usize> {
    let keys = candidates.iter().map(|c| (key(c), std::cmp::Reverse(c.rank), c.slot));
    keys.enumerate().min_by(|a, b| a.1.cmp(&b.1)).map(|(position, _)| position)
}

#[cfg(test)]
mod tests;
