//! One worker on paper: the core, the fake engine, and every invariant checked after every call.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use hadal_types::{Attention, CacheChange, ChainHash, ChainRoot, Ledger};

use super::engine::{Engine, Fault, next_token, request_of};
use crate::{Command, Config, Core, Event, Failure, FailureKind, FinishReason, Generate, Plan, Prefill, RequestKey};

pub(super) struct Rig {
    pub(super) core: Core,
    pub(super) engine: Engine,
    pub(super) plan: Plan,
    pub(super) stepping: bool,
    /// Whether the engine reports layers.
    pub(super) layers_reported: bool,
    pub(super) now: Duration,
    /// What a row of a step takes.
    pub(super) row_time: Duration,
    pub(super) watched: BTreeMap<RequestKey, Watched>,
    keys: u64,
    cached: BTreeSet<ChainHash>,
    sequence: u64,
    parents: HashMap<ChainHash, Option<ChainHash>>,
}

/// What a request must yield, and what it has yielded.
pub(super) struct Watched {
    /// The whole output; None for prefills.
    pub(super) expected: Option<Vec<u32>>,
    pub(super) output: Vec<u32>,
    pub(super) started: Option<(u32, bool)>,
    pub(super) end: Option<Result<Option<FinishReason>, Failure>>,
}

/// The output that any undisturbed worker gives, from its very beginning.
pub(super) fn reference(config: &Config, g: &Generate) -> Vec<u32> {
    let mut tokens = g.tokens[..g.prompt_tokens as usize].to_vec();
    let mut output = Vec::new();
    for index in 0..g.sampling.max_tokens {
        let drawn = next_token(&config.geometry, &tokens, g.sampling.seed, config.vocab_tokens);
        let token = g.sampling.forced.get(index as usize).copied().unwrap_or(drawn);
        tokens.push(token);
        output.push(token);
        if index >= g.sampling.min_tokens && g.sampling.stop_token_ids.contains(&token) {
            break;
        }
    }
    output
}

impl Rig {
    pub(super) fn new(config: Config) -> Self {
        Self {
            engine: Engine::new(&config.geometry, config.pages),
            core: Core::new(config).unwrap(),
            plan: Plan::new(),
            stepping: false,
            layers_reported: true,
            now: Duration::from_secs(1),
            row_time: Duration::ZERO,
            watched: BTreeMap::new(),
            keys: 0,
            cached: BTreeSet::new(),
            sequence: 0,
            parents: HashMap::new(),
        }
    }

    /// A request to own, with what must come out of it.
    pub(super) fn generate(&mut self, g: Generate) -> (RequestKey, Vec<Command>) {
        let output = reference(self.core.config(), &g);
        let prompt = g.prompt_tokens as usize;
        self.learn_chain(&g.salt, g.attention, &[&g.tokens[..prompt], &output].concat());
        let so_far = g.tokens[prompt..].to_vec();
        let key = self.key(Some(output), so_far);
        (key, self.on(Event::Generate(key, g)))
    }

    /// A prompt to compute for a peer.
    pub(super) fn prefill(&mut self, p: Prefill) -> (RequestKey, Vec<Command>) {
        self.learn_chain(&p.salt, p.attention, &p.tokens);
        let key = self.key(None, Vec::new());
        (key, self.on(Event::Prefill(key, p)))
    }

    fn key(&mut self, expected: Option<Vec<u32>>, output: Vec<u32>) -> RequestKey {
        self.keys += 1;
        let key = RequestKey(self.keys);
        self.watched.insert(key, Watched { expected, output, started: None, end: None });
        key
    }

    fn learn_chain(&mut self, salt: &[u8], attention: Attention, tokens: &[u32]) {
        let mut parent = None;
        for hash in ChainRoot::new(self.core.config().numerics_class, salt, attention).chain(tokens) {
            self.parents.insert(hash, parent);
            parent = Some(hash);
        }
    }

    pub(super) fn on(&mut self, event: Event) -> Vec<Command> {
        let mut out = Vec::new();
        self.core.on(self.now, event, &mut out);
        self.check(out)
    }

    /// Begins a step, if there is one.
    pub(super) fn begin_step(&mut self) -> Vec<Command> {
        let mut out = Vec::new();
        let planned = self.core.plan(self.now, &mut self.plan, &mut out);
        assert!(!(planned && self.stepping), "one step at a time");
        if planned {
            self.stepping = true;
            self.check_plan();
        }
        self.check(out)
    }

    fn check_plan(&self) {
        let config = self.core.config();
        let load = self.plan.load();
        assert!(load.rows() <= config.step_rows_max());
        if load.decode_tokens > 0 {
            assert!(load.prefill_tokens <= config.chunk_tokens_max, "prefill beside decodes is bounded");
        }
        let starved = self.core.requests.values().any(|r| r.is_decodable() && !r.in_step);
        assert!(!starved, "every decode is in every step");
        for slice in self.plan.slices() {
            assert!(!self.plan.tokens(slice).is_empty());
        }
    }

    /// Computes the step under way. What a page holds when it is handed out goes to `sent`.
    pub(super) fn end_step(&mut self, fault: Fault, sent: &mut dyn FnMut(&Engine, &Command)) -> Vec<Command> {
        if !std::mem::take(&mut self.stepping) {
            return Vec::new();
        }
        let (mut out, mut results) = (Vec::new(), Vec::new());
        for layer in self.core.config().geometry.layers.clone() {
            // The draft layer comes after sampling.
            if layer.draft {
                results = self.engine.results(&self.core, &self.plan, fault);
            } else {
                self.engine.layer(&self.plan, layer.id, fault);
            }
            if self.layers_reported {
                let first = out.len();
                self.core.layer_done(layer.id, &mut out);
                out[first..].iter().for_each(|c| sent(&self.engine, c));
            }
        }
        self.now += self.row_time * self.plan.load().rows();
        let first = out.len();
        if fault == Fault::Step {
            self.core.step_failed("injected", &mut out);
        } else {
            if !self.core.config().drafts() {
                results = self.engine.results(&self.core, &self.plan, fault);
            }
            self.core.step_done(self.now, &results, &mut out);
        }
        out[first..].iter().for_each(|c| sent(&self.engine, c));
        self.check(out)
    }

    /// One whole step of a worker without peers; false when there was none.
    pub(super) fn step(&mut self) -> bool {
        self.begin_step();
        let stepped = self.stepping;
        self.end_step(Fault::None, &mut |_, _| ());
        stepped
    }

    /// Steps until nothing is left to compute.
    pub(super) fn run(&mut self) -> usize {
        let steps = (0..10_000).take_while(|_| self.step()).count();
        assert!(steps < 10_000, "it goes on for ever");
        steps
    }

    /// Looks at all that came out, then at the state.
    fn check(&mut self, out: Vec<Command>) -> Vec<Command> {
        for command in &out {
            self.check_cache_event(command);
            self.check_request(command);
        }
        let requests = self.core.requests.values();
        self.core.memory.audit(requests.map(|r| (&r.holding, r.chain())));
        if self.stepping {
            for slice in self.plan.slices() {
                let request = &self.core.requests[&slice.request];
                for part in self.core.config().geometry.parts().iter() {
                    let pages = self.plan.pages(slice, part);
                    assert_eq!(pages, &request.holding.pages(part)[..pages.len()], "a step's pages stay");
                }
            }
        }
        // Rows beside the computed ones may be those of a step under way.
        for request in self.core.requests.values().filter(|r| !r.is_waiting() && !self.stepping) {
            let rows = request.computed + usize::from(request.ahead);
            self.engine.check_drafts(&request.tokens, rows, |part| request.holding.pages(part).to_vec());
        }
        let snapshot = self.core.snapshot();
        assert_eq!(snapshot.sequence, self.sequence);
        assert!(snapshot.blocks.iter().map(|(hash, _)| *hash).collect::<BTreeSet<_>>() == self.cached);
        out
    }

    fn check_cache_event(&mut self, command: &Command) {
        let Command::Cache(event) = command else { return };
        self.sequence += 1;
        assert_eq!(event.sequence, self.sequence, "numbered without gaps");
        if event.change == CacheChange::Stored {
            let parent = self.parents[&event.hash];
            assert!(parent.is_none_or(|p| self.cached.contains(&p)), "parents are stored first");
            assert!(self.cached.insert(event.hash), "stored once");
        } else {
            assert!(self.cached.remove(&event.hash), "only what is stored is dropped");
            assert!(!self.cached.iter().any(|h| self.parents[h] == Some(event.hash)), "children are dropped first");
        }
    }

    fn check_request(&mut self, command: &Command) {
        let Some(key) = request_of(command) else { return };
        let watched = self.watched.get_mut(&key).unwrap();
        assert!(watched.end.is_none(), "{command:?} after the end");
        match command {
            Command::Started { cached_tokens, remote, .. } => {
                assert!(watched.started.replace((*cached_tokens, *remote)).is_none(), "started once");
            }
            Command::Delta { index, token, .. } => {
                assert!(watched.started.is_some(), "started before the first token");
                assert_eq!(*index as usize, watched.output.len(), "no token lost or doubled");
                watched.output.push(*token);
                assert!(watched.expected.as_ref().unwrap().starts_with(&watched.output), "the right token");
            }
            Command::Finished { reason, .. } => {
                assert_eq!(watched.expected.as_ref(), Some(&watched.output), "the whole output");
                watched.end = Some(Ok(Some(*reason)));
            }
            Command::PrefillFinished { .. } => watched.end = Some(Ok(None)),
            Command::Failed { failure, .. } => watched.end = Some(Err(failure.clone())),
            _ => {}
        }
    }

    /// How a request ended, if it failed.
    pub(super) fn failure(&self, key: RequestKey) -> Option<FailureKind> {
        self.watched[&key].end.as_ref().and_then(|end| end.as_ref().err()).map(|failure| failure.kind)
    }

    /// How a request ended, if it finished.
    pub(super) fn finished(&self, key: RequestKey) -> Option<FinishReason> {
        self.watched[&key].end.as_ref().and_then(|end| end.as_ref().ok().copied().flatten())
    }

    /// Nothing is left: every request ended, and every page is free or cached.
    pub(super) fn assert_idle(&self) {
        assert!(self.core.requests.is_empty());
        assert!(self.watched.values().all(|w| w.end.is_some()), "every request ends");
        for part in self.ledger().parts {
            assert_eq!(part.pages_available(), part.pages_total);
        }
    }

    pub(super) fn ledger(&self) -> Ledger {
        self.core.ledger()
    }
}
