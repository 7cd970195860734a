//! Finding workers for one request. Reads the fleet and the directory, and changes neither.

use std::collections::BTreeSet;

use hadal_types::{BLOCK_TOKENS, ChainHash, NumericsClass, Role, blocks_for};

use crate::config::Config;
use crate::counters::Outcome;
use crate::directory::{Directory, Slot};
use crate::event::{PlaceRequest, Refusal, RefusalKind};
use crate::fleet::{Fleet, Worker};
use crate::policy::{Candidate, Job, Policy};
use crate::queue::Waiting;

/// What looking for workers came to.
pub(super) enum Attempt {
    Planned(Plan),
    Refused(Refusal),
    /// No worker fits now.
    Waits,
}

/// A chosen worker.
pub(super) struct Choice {
    pub(super) slot: Slot,
    /// Pages that the request will take of it.
    pub(super) blocks: u64,
    /// Prompt tokens that it has cached, and those that it has not.
    pub(super) cached: u64,
    pub(super) missing: u64,
    /// The most that any candidate had cached.
    best: u64,
}

/// Chosen workers.
pub(super) struct Plan {
    pub(super) decode: Choice,
    /// None when the owner computes the prompt itself.
    pub(super) prefill: Option<Choice>,
}

impl Plan {
    /// Prompt tokens that need not be computed.
    pub(super) fn cached(&self) -> u64 {
        self.decode.cached.max(self.prefill.as_ref().map_or(0, |p| p.cached))
    }

    pub(super) fn outcome(&self) -> Outcome {
        let best = self.decode.best.max(self.prefill.as_ref().map_or(0, |p| p.best));
        match self.cached() {
            _ if best == 0 => Outcome::Cold,
            cached if cached == best => Outcome::Reused,
            _ => Outcome::Spread,
        }
    }
}

/// Workers that could take the job now, and the pages that each would give.
#[derive(Default)]
struct Able {
    candidates: Vec<Candidate>,
    taken: Vec<u64>,
}

/// Why no worker could ever hold a request; none while there are no workers, or some could.
pub(crate) fn never(fleet: &Fleet, request: &PlaceRequest) -> Option<Refusal> {
    let tokens_max = owners(fleet, request).map(|(_, worker)| worker.tokens_max()).max()?;
    (tokens_all(request) > tokens_max).then(|| too_long(request, tokens_max))
}

/// The workers that may own a request, draining ones included.
fn owners<'a>(fleet: &'a Fleet, request: &'a PlaceRequest) -> impl Iterator<Item = (Slot, &'a Worker)> {
    let right_class = |worker: &Worker| request.class.is_none_or(|class| class == worker.info.class);
    fleet.of_model(&request.model).filter(move |(_, worker)| worker.info.role.decodes() && right_class(worker))
}

/// What choosing depends on.
pub(super) struct Search<'a> {
    pub(super) fleet: &'a Fleet,
    pub(super) directory: &'a Directory,
    pub(super) config: &'a Config,
    pub(super) policy: &'a mut dyn Policy,
    /// Whether larger workers may still come back.
    pub(super) rebuilds: bool,
    /// Workers that requests before this one wait for.
    pub(super) claimed: &'a mut BTreeSet<Slot>,
}

impl Search<'_> {
    pub(super) fn attempt(&mut self, waiting: &Waiting) -> Attempt {
        let request = &*waiting.request;
        if let Some(refusal) = never(self.fleet, request) {
            return if self.rebuilds { Attempt::Waits } else { Attempt::Refused(refusal) };
        }
        let able = self.able(waiting);
        let plan = self.plan(request, &able);
        if plan.is_none() {
            self.claimed.extend(able);
        }
        plan.map_or(Attempt::Waits, Attempt::Planned)
    }

    /// Both workers, or none: nothing is taken of one while the other is missing.
    fn plan(&mut self, request: &PlaceRequest, able: &[Slot]) -> Option<Plan> {
        let mut matches = Matches { directory: self.directory, request, found: Vec::new() };
        let prompt = u64::from(request.prompt_tokens);
        let growth = u64::from(request.max_tokens.min(self.config.growth_tokens));
        let unclaimed = able.iter().copied().filter(|slot| !self.claimed.contains(slot));
        let candidates = self.candidates(unclaimed, blocks_for(prompt + growth), &mut matches);
        let decode = self.choose(Job::Decode, &candidates)?;
        let role = self.fleet.get(decode.slot)?.info.role;
        let own = role == Role::Mixed || decode.missing <= u64::from(self.config.local_prefill_tokens);
        let helpers = if own { Vec::new() } else { self.helpers(request, decode.slot) };
        if helpers.is_empty() {
            return Some(Plan { decode, prefill: None });
        }
        let candidates = self.candidates(helpers.into_iter(), blocks_for(prompt), &mut matches);
        let prefill = Some(self.choose(Job::Prefill, &candidates)?);
        Some(Plan { decode, prefill })
    }

    /// Workers that could own a request and take new ones; those that it excludes only when there are no others.
    fn able(&self, waiting: &Waiting) -> Vec<Slot> {
        let request = &*waiting.request;
        let able = |(_, worker): &(Slot, &Worker)| !worker.draining && tokens_all(request) <= worker.tokens_max();
        let mut slots = Vec::new();
        let mut excluded = Vec::new();
        for (slot, worker) in owners(self.fleet, request).filter(able) {
            if !request.exclude.contains(&worker.info.id) {
                slots.push(slot);
            } else if worker.heard > waiting.arrived {
                // It refused or failed this request as it was then; what it tells after that is news.
                excluded.push(slot);
            }
        }
        if slots.is_empty() { excluded } else { slots }
    }

    /// Workers that could compute the prompt for `owner`.
    fn helpers(&self, request: &PlaceRequest, owner: Slot) -> Vec<Slot> {
        let Some(class) = self.fleet.get(owner).map(|w| w.info.class) else { return Vec::new() };
        let prompt = u64::from(request.prompt_tokens);
        let able = |(slot, w): &(Slot, &Worker)| {
            *slot != owner
                && w.info.role.prefills()
                && w.info.class == class
                && !w.draining
                && prompt <= w.tokens_max()
                && !request.exclude.contains(&w.info.id)
        };
        self.fleet.of_model(&request.model).filter(able).map(|(slot, _)| slot).collect()
    }

    /// Those of `slots` that have room for `blocks` now.
    fn candidates(&self, slots: impl Iterator<Item = Slot>, blocks: u64, matches: &mut Matches<'_>) -> Able {
        let prompt = u64::from(matches.request.prompt_tokens);
        let mut able = Able::default();
        for (slot, worker) in slots.filter_map(|slot| Some((slot, self.fleet.get(slot)?))) {
            let of_class = matches.of_class(worker);
            let blocks_cached = of_class.depths.get(usize::from(slot)).map_or(0, |depth| u64::from(*depth));
            let Some(taken) = worker.fits(blocks, blocks_cached) else { continue };
            // The last token is always computed: its logits are what the first output token is drawn from.
            let cached = (blocks_cached * u64::from(BLOCK_TOKENS)).min(prompt - 1);
            able.candidates.push(Candidate {
                slot,
                requests: worker.requests_all(),
                tokens_queued: worker.prefill_tokens_queued + worker.pending.tokens(),
                tokens_cached: cached,
                tokens_missing: prompt - cached,
                blocks_available: worker.blocks_available() - worker.pending.blocks(),
                rank: rank(of_class.leading, worker),
            });
            able.taken.push(taken);
        }
        able
    }

    fn choose(&mut self, job: Job, able: &Able) -> Option<Choice> {
        let chosen = self.policy.choose(job, &able.candidates)?;
        let (candidate, blocks) = (able.candidates.get(chosen)?, able.taken.get(chosen)?);
        Some(Choice {
            slot: candidate.slot,
            blocks: *blocks,
            cached: candidate.tokens_cached,
            missing: candidate.tokens_missing,
            best: able.candidates.iter().map(|c| c.tokens_cached).max().unwrap_or(0),
        })
    }
}

/// What is known of a request's chain in one class, whose workers all keep the same parts.
struct OfClass {
    class: NumericsClass,
    /// Leading blocks that a worker has cached with all its parts, by slot.
    depths: Vec<u32>,
    /// A hash of how the request begins.
    leading: u64,
}

/// What the directory knows of a request, looked up once for each class.
struct Matches<'a> {
    directory: &'a Directory,
    request: &'a PlaceRequest,
    found: Vec<OfClass>,
}

impl Matches<'_> {
    fn of_class(&mut self, worker: &Worker) -> &OfClass {
        let class = worker.info.class;
        let at = self.found.iter().position(|of| of.class == class).unwrap_or_else(|| {
            let mut depths = Vec::new();
            for found in self.directory.matches(chain(self.request, class)) {
                let slot = usize::from(found.slot);
                if depths.len() <= slot {
                    depths.resize(slot + 1, 0);
                }
                depths[slot] = found.blocks(worker.parts);
            }
            self.found.push(OfClass { class, depths, leading: leading(self.request, class) });
            self.found.len() - 1
        });
        &self.found[at]
    }
}

fn chain(request: &PlaceRequest, class: NumericsClass) -> &[ChainHash] {
    request.chains.iter().find(|(c, _)| *c == class).map_or(&[], |(_, chain)| chain)
}

/// A hash of how a request begins; of its session or its name when its chain is empty.
fn leading(request: &PlaceRequest, class: NumericsClass) -> u64 {
    match chain(request, class).first() {
        Some(block) => hash(&block.0),
        None if !request.session.is_empty() => hash(request.session.as_bytes()),
        None => hash(request.request.as_str().as_bytes()),
    }
}

/// A number drawn from a request's beginning and a worker: among equals the largest wins, so that requests that begin
/// alike meet, and few move when workers come and go (rendezvous hashing).
fn rank(leading: u64, worker: &Worker) -> u64 {
    // The last step of splitmix64, since FNV keeps near numbers near.
    let mut mixed = leading ^ worker.key.rotate_left(32);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// FNV-1a: the same on every machine and in every release, unlike the standard library's hashes.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn tokens_all(request: &PlaceRequest) -> u64 {
    u64::from(request.prompt_tokens) + u64::from(request.max_tokens)
}

fn too_long(request: &PlaceRequest, tokens_max: u64) -> Refusal {
    let message = format!(
        "{} tokens and up to {} more are {}, but the largest worker of {:?} holds {tokens_max} for one request; shorten \
         the prompt or lower max_tokens",
        request.prompt_tokens,
        request.max_tokens,
        tokens_all(request),
        request.model
    );
    Refusal { kind: RefusalKind::TooLong, message, retry_after: None }
}
