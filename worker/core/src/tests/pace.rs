//! How long running requests wait for a token while prompts come in, and how long the prompts wait: on a clock that the
//! step model drives.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use crate::test_util::{config, drafting, generate, tokens};
use crate::{Command, Config, Core, Event, Plan, RequestKey, Sampled, SliceResult, StepLoad, StepModel, Tokens};

/// Per row much more than per step, and at 8K tokens of context as much again: a model without an index.
const DENSE: StepModel =
    StepModel { step_us: 500.0, prefill_token_us: 40.0, decode_token_us: 60.0, context_token_us: 0.005 };

struct Clocked {
    core: Core,
    model: StepModel,
    plan: Plan,
    out: Vec<Command>,
    now: Duration,
    /// When each request gave its last token. One that lost its pages begins anew.
    last: BTreeMap<RequestKey, Duration>,
    first: BTreeMap<RequestKey, Duration>,
    gap_max: Duration,
    /// Rows of prompts that waited for the last step.
    prompt_rows: u64,
    keys: u64,
}

impl Clocked {
    fn new(config: Config, model: StepModel) -> Self {
        Self {
            core: Core::new(config).unwrap(),
            model,
            plan: Plan::new(),
            out: Vec::new(),
            now: Duration::ZERO,
            last: BTreeMap::new(),
            first: BTreeMap::new(),
            gap_max: Duration::ZERO,
            prompt_rows: 0,
            keys: 0,
        }
    }

    fn arrive(&mut self, prompt: usize, max_tokens: u32) -> RequestKey {
        self.keys += 1;
        let key = RequestKey(self.keys);
        let g = generate(&format!("r{}", self.keys), tokens(self.keys as u32, prompt), max_tokens);
        self.core.on(self.now, Event::Generate(key, g), &mut self.out);
        key
    }

    /// Rows of prompts that the step that is planned could compute, beside decodes.
    fn prompt_rows(&self) -> u64 {
        let prompts = self.core.requests.values().filter(|r| r.is_computable() && !r.is_last());
        prompts.map(|r| r.remaining() as u64).sum()
    }

    /// One step, after which its time is over. None when there is none.
    fn step(&mut self) -> Option<StepLoad> {
        if !self.core.plan(self.now, &mut self.plan, &mut self.out) {
            return None;
        }
        let requests = &self.core.requests;
        self.last.retain(|key, _| requests.get(key).is_some_and(|r| !r.is_waiting()));
        self.prompt_rows = self.prompt_rows();
        let load = self.plan.load();
        self.now += Duration::from_micros(self.model.micros(load));
        let token = |sample| {
            let first = Sampled { token: 7, logprobs: None };
            let tokens = Tokens { first, second: None, draft: Some(8) };
            if sample { SliceResult::Tokens(tokens) } else { SliceResult::Computed }
        };
        let results: Vec<_> = self.plan.slices().iter().map(|slice| token(slice.sample)).collect();
        self.core.step_done(self.now, &results, &mut self.out);
        for command in self.out.drain(..) {
            if let Command::Delta { request, .. } = command {
                self.first.entry(request).or_insert(self.now);
                let before = self.last.insert(request, self.now);
                self.gap_max = self.gap_max.max(before.map_or(Duration::ZERO, |before| self.now - before));
            }
        }
        Some(load)
    }

    /// The bound that the scheduler states.
    fn bound(&self, context_tokens: u32) -> Duration {
        Duration::from_micros(self.model.micros(self.core.config().decode_step_max(context_tokens)))
    }
}

/// As the worker's defaults, with room for several long prompts; without a draft layer and with one.
fn long() -> [Config; 2] {
    [config(4096), drafting(4096)].map(|kind| {
        let limits = Config { step_tokens_max: 512, chunk_tokens_max: 256, requests_max: 128, ..kind };
        Config { context_tokens: 65_536, ..limits }
    })
}

#[test]
fn a_token_waits_for_no_more_than_the_largest_decode_step_while_long_prompts_come_in() {
    const PROMPT: usize = 32 * 1024;
    for (prompts, config) in [1, 3].into_iter().flat_map(|prompts| long().map(|config| (prompts, config))) {
        let mut clock = Clocked::new(config, DENSE);
        (0..32).for_each(|_| _ = clock.arrive(100, 4000));
        (0..20).for_each(|_| _ = clock.step());
        let began = clock.now;
        let keys: Vec<_> = (0..prompts).map(|_| clock.arrive(PROMPT, 2)).collect();
        let steps = (0..10_000).take_while(|_| !clock.first.contains_key(&keys[prompts - 1]) && clock.step().is_some());
        // A chunk is a whole number of blocks here, so no row of it is lost.
        assert_eq!(steps.count(), prompts * PROMPT / 256);
        let bound = clock.bound(PROMPT as u32 + 1);
        assert!(clock.gap_max <= bound, "{:?} of {bound:?}", clock.gap_max);
        assert!(clock.gap_max > bound / 3, "the bound is not far off: {:?} of {bound:?}", clock.gap_max);
        for (i, key) in keys.iter().enumerate() {
            let steps_max = ((i + 1) * PROMPT / 256) as u32;
            assert!(clock.first[key] - began <= bound * steps_max, "the prompt's first token");
        }
        assert_eq!(clock.core.stats().preemptions, 0);
    }
}

#[test]
fn without_decodes_a_prompt_takes_whole_steps() {
    for config in long() {
        let mut clock = Clocked::new(config, DENSE);
        let key = clock.arrive(32 * 1024, 2);
        for _ in 0..64 {
            assert!(!clock.first.contains_key(&key));
            assert_eq!(clock.step().map(|load| load.prefill_tokens), Some(512));
        }
        assert!(clock.first.contains_key(&key));
    }
}

#[test]
fn a_chunk_is_as_long_with_a_draft_layer_as_without() {
    for chunk_tokens_max in [1, 64, 128, 256] {
        let steps = [config(64), drafting(64)].map(|kind| {
            let mut clock =
                Clocked::new(Config { step_tokens_max: 512, chunk_tokens_max, requests_max: 8, ..kind }, DENSE);
            clock.arrive(3, 900);
            clock.step();
            let key = clock.arrive(512, 1);
            (0..2000).take_while(|_| !clock.first.contains_key(&key) && clock.step().is_some()).count()
        });
        assert_eq!(steps, [512 / chunk_tokens_max as usize; 2], "chunks of {chunk_tokens_max}");
    }
}

#[test]
fn prompts_that_are_cached_but_for_a_token_do_not_hold_an_older_one_up() {
    let limits = Config { requests_max: 8, step_tokens_max: 64, chunk_tokens_max: 2, ..drafting(64) };
    let mut clock = Clocked::new(limits, DENSE);
    let cached = |clock: &mut Clocked| {
        clock.keys += 1;
        let key = RequestKey(clock.keys);
        let g = generate(&format!("r{}", clock.keys), tokens(1, 65), 1);
        clock.core.on(clock.now, Event::Generate(key, g), &mut clock.out);
    };
    cached(&mut clock);
    while clock.step().is_some() {}
    clock.arrive(3, 400);
    clock.step();
    let old = clock.arrive(40, 1);
    for _ in 0..20 {
        cached(&mut clock);
        clock.step();
    }
    assert!(clock.first.contains_key(&old), "two rows of each step are its own");
}

#[test]
fn what_a_preempted_request_computes_again_is_bounded_like_a_prompt() {
    let limits = Config { step_tokens_max: 512, chunk_tokens_max: 64, requests_max: 4, ..config(20) };
    let mut clock = Clocked::new(limits, DENSE);
    let old = clock.arrive(60, 700);
    let young = clock.arrive(600, 500);
    while clock.step().is_some() {}
    assert!(clock.core.stats().preemptions > 0, "memory is short");
    assert!(clock.core.requests.is_empty() && clock.first.contains_key(&young), "both came to their end");
    assert!(clock.gap_max <= clock.bound(1100), "{old:?} waited {:?}", clock.gap_max);
}

fn shape() -> impl Strategy<Value = Config> {
    let shape = (1..10u32, 1..300u32, 1..300u32, 12..80u32, any::<bool>());
    shape.prop_map(|(requests_max, more, chunk_tokens_max, pages, drafts)| {
        let kind = if drafts { drafting(pages) } else { config(pages) };
        Config { requests_max, step_tokens_max: rows_each(&kind) * requests_max + more, chunk_tokens_max, ..kind }
    })
}

/// Rows of a request that lacks one token, at most.
fn rows_each(config: &Config) -> u32 {
    if config.drafts() { 2 } else { 1 }
}

fn model() -> impl Strategy<Value = StepModel> {
    (0..1000u32, 0..100u32, 0..100u32, 0..100u32).prop_map(|(step, prefill, decode, context)| StepModel {
        step_us: f64::from(step),
        prefill_token_us: f64::from(prefill),
        decode_token_us: f64::from(decode),
        context_token_us: f64::from(context) * 1e-3,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_bounds_hold_in_every_step(
        config in shape(),
        model in model(),
        arrivals in proptest::collection::vec((1..2000usize, 1..200u32, 0..40usize), 1..16),
    ) {
        let mut clock = Clocked::new(config.clone(), model);
        let mut arrivals = arrivals.into_iter().peekable();
        let context = 2200;
        let bound = config.decode_step_max(context);
        let more = rows_each(&config) * config.requests_max;
        let rows_min = u64::from(config.chunk_tokens_max.min(config.step_tokens_max - more));
        // Each slice may begin a token early, and one of these rows does not count.
        let whole = u64::from(config.step_tokens_max - (rows_each(&config) - 1) * (config.requests_max - 1));
        let mut wait = 0;
        loop {
            if wait == 0 && let Some((prompt, max_tokens, steps)) = arrivals.next() {
                clock.arrive(prompt, max_tokens);
                wait = steps;
            }
            wait = wait.saturating_sub(1);
            let Some(load) = clock.step() else {
                if arrivals.peek().is_some() { wait = 0; continue } else { break }
            };
            let waiting = clock.prompt_rows;
            let prefilled = u64::from(load.prefill_tokens);
            if load.decode_tokens > 0 {
                prop_assert!(load.prefill_tokens <= bound.prefill_tokens && load.decode_tokens <= bound.decode_tokens);
                prop_assert!(load.context_tokens <= bound.context_tokens);
                prop_assert!(prefilled >= waiting.min(rows_min.saturating_sub(63).max(1)), "{load:?}, {waiting} waited");
            } else {
                prop_assert!(prefilled >= waiting.min(whole.saturating_sub(63).max(1)), "{load:?}, {waiting} waited");
            }
        }
        prop_assert!(clock.gap_max <= clock.bound(context));
        prop_assert!(clock.core.requests.is_empty());
    }
}
