//! Random schedules of two workers with tiny pools: arrivals, cancellations, deadlines, steps and their faults, packets
//! early and late, lost pages, broken connections. The rig checks every invariant after every call (pages conserved,
//! ledger exact, cache events, no page of a live step freed, token order, no decode left out); here the end is checked.

use std::time::Duration;

use hadal_types::{Part, SamplingParams};
use proptest::prelude::*;

use super::engine::Fault;
use super::pair::Pair;
use super::rig::{Rig, reference};
use crate::test_util::{config, generate, geometry, tokens, with_drafts};
use crate::{Config, Event, FailureKind, Generate, RequestKey};

/// What happens next.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Arrive {
        worker: usize,
        prefix: u32,
        length: usize,
        max_tokens: u32,
        remote: bool,
        limit_ms: Option<u64>,
    },
    /// Goes on with part of an output, as after the loss of another worker.
    Continue {
        worker: usize,
        prefix: u32,
        length: usize,
        done: u32,
        remote: bool,
    },
    Cancel {
        worker: usize,
        nth: usize,
    },
    Begin {
        worker: usize,
    },
    End {
        worker: usize,
        fault: Fault,
    },
    /// Whole steps of both workers, with packets in between.
    Steps {
        count: usize,
    },
    Deliver {
        packets: usize,
    },
    Break {
        nth: usize,
    },
    LosePage,
    Time {
        ms: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let worker = 0..2usize;
    let fault = prop_oneof![12 => Just(Fault::None), 1 => Just(Fault::NotFinite), 1 => Just(Fault::Step)];
    let limit = prop_oneof![3 => Just(None), 1 => (1..4000u64).prop_map(Some)];
    prop_oneof![
        4 => (worker.clone(), 0..3u32, 1..260usize, 1..150u32, any::<bool>(), limit).prop_map(
            |(worker, prefix, length, max_tokens, remote, limit_ms)| {
                Op::Arrive { worker, prefix, length, max_tokens, remote, limit_ms }
            }
        ),
        1 => (worker.clone(), 0..3u32, 1..200usize, 1..60u32, any::<bool>())
            .prop_map(|(worker, prefix, length, done, remote)| Op::Continue { worker, prefix, length, done, remote }),
        1 => (worker.clone(), 0..8usize).prop_map(|(worker, nth)| Op::Cancel { worker, nth }),
        12 => worker.clone().prop_map(|worker| Op::Begin { worker }),
        12 => (worker, fault).prop_map(|(worker, fault)| Op::End { worker, fault }),
        2 => (1..60usize).prop_map(|count| Op::Steps { count }),
        8 => (1..12usize).prop_map(|packets| Op::Deliver { packets }),
        1 => (0..8usize).prop_map(|nth| Op::Break { nth }),
        1 => Just(Op::LosePage),
        1 => (1..3000u64).prop_map(|ms| Op::Time { ms }),
    ]
}

/// A small worker of any shape.
fn worker() -> impl Strategy<Value = Config> {
    let drafts = prop_oneof![1 => Just(false), 2 => Just(true)];
    (3..12u32, 0..4u32, any::<bool>(), drafts, 17..200u32, 1..100u32).prop_map(
        |(pages, more, index, drafts, step, chunk)| Config {
            geometry: if drafts { with_drafts(geometry(2, index)) } else { geometry(2, index) },
            pages: if index { [pages + more, pages] } else { [0, pages] },
            step_tokens_max: step,
            chunk_tokens_max: chunk,
            ..config(pages)
        },
    )
}

/// What an engine does that the core does not decide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub(crate) layers_reported: bool,
    /// Of a hundred drafts, how many are right.
    pub(crate) right: u64,
    /// What a row takes.
    pub(crate) row_us: u64,
}

#[cfg(test)]
fn machine() -> impl Strategy<Value = Machine> {
    let parts = (any::<bool>(), 0..101u64, 0..50u64);
    parts.prop_map(|(layers_reported, right, row_us)| Machine { layers_reported, right, row_us })
}

/// Two of them that understand each other.
pub(crate) fn alike(a: Config, b: Config) -> [Config; 2] {
    let index = a.pages[Part::Index.index()] > 0;
    let pages = if index { [b.pages[1] + 1, b.pages[1]] } else { [0, b.pages[1]] };
    let b = Config { geometry: a.geometry.clone(), pages, ..b };
    [a, b]
}

/// A schedule from its first arrival until nothing is left to do, with every check on the way.
pub(crate) fn run(workers: [Config; 2], machines: [Machine; 2], window: u64, ops: &[Op]) {
    let mut pair = Pair::new(workers);
    pair.window = window.max(512);
    for (rig, machine) in pair.workers.iter_mut().zip(machines) {
        (rig.layers_reported, rig.engine.right) = (machine.layers_reported, machine.right);
        rig.row_time = Duration::from_micros(machine.row_us);
    }
    let mut schedule = Schedule { pair, excuses: Excuses::default(), arrivals: 0 };
    ops.iter().for_each(|op| schedule.apply(op));
    schedule.end();
}

/// What a request of the schedule may fail with, beside having been refused.
#[derive(Default)]
struct Excuses {
    cancelled: Vec<(usize, RequestKey)>,
    limited: Vec<(usize, RequestKey)>,
    faults: bool,
}

struct Schedule {
    pair: Pair,
    excuses: Excuses,
    arrivals: u32,
}

impl Schedule {
    fn arrive(&mut self, worker: usize, g: Generate) {
        self.arrivals += 1;
        let limited = g.deadline.is_some();
        let key = self.pair.generate(worker, g);
        if limited {
            self.excuses.limited.push((worker, key));
        }
    }

    fn request(&self, prefix: u32, length: usize, max_tokens: u32) -> Generate {
        let g = generate(&format!("r{}", self.arrivals), tokens(prefix, length), max_tokens);
        let sampling = SamplingParams { seed: u64::from(self.arrivals % 3), ..g.sampling };
        let stop_token_ids = (0..5).map(|t| t * 200).collect();
        // Some begin with forced tokens, and some are measured row by row.
        let forced = tokens(prefix + 5, if self.arrivals % 4 == 1 { max_tokens as usize / 2 } else { 0 });
        let overlap = self.arrivals % 5 == 2;
        let logprobs = overlap.then_some(0);
        let sampling = SamplingParams { stop_token_ids, forced, choice_overlap: overlap, logprobs, ..sampling };
        Generate { sampling, ..g }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Arrive { worker, prefix, length, max_tokens, remote, limit_ms } => {
                let deadline = limit_ms.map(|ms| self.pair.workers[worker].now + Duration::from_millis(ms));
                let g = Generate { prefill: remote, deadline, ..self.request(prefix, length, max_tokens) };
                self.arrive(worker, g);
            }
            Op::Continue { worker, prefix, length, done, remote } => {
                let g = Generate { prefill: remote, ..self.request(prefix, length, done + 20) };
                let output = reference(self.pair.workers[worker].core.config(), &g);
                if output.len() > done as usize {
                    let tokens = [&g.tokens[..], &output[..done as usize]].concat();
                    self.arrive(worker, Generate { tokens, ..g });
                }
            }
            Op::Cancel { worker, nth } => {
                let owned = |k: &&RequestKey| self.pair.workers[worker].watched[k].expected.is_some();
                let key = self.pair.workers[worker].core.requests.keys().filter(owned).nth(nth).copied();
                if let Some(key) = key {
                    self.excuses.cancelled.push((worker, key));
                    self.pair.on(worker, Event::Cancel(key));
                }
            }
            Op::Begin { worker } => {
                if !self.pair.workers[worker].stepping {
                    self.pair.begin_step(worker);
                }
            }
            Op::End { worker, fault } => {
                self.excuses.faults |= fault != Fault::None;
                self.pair.end_step(worker, fault);
            }
            Op::Steps { count } => self.steps(count),
            Op::Deliver { packets } => (0..packets).for_each(|_| _ = self.pair.deliver()),
            Op::Break { nth } => self.pair.break_link(nth),
            Op::LosePage => self.pair.lose_page(),
            Op::Time { ms } => {
                for worker in [0, 1] {
                    self.pair.workers[worker].now += Duration::from_millis(ms);
                    self.pair.on(worker, Event::Tick);
                }
            }
        }
    }

    fn steps(&mut self, count: usize) {
        for _ in 0..count {
            for worker in [0, 1] {
                self.pair.end_step(worker, Fault::None);
                self.pair.begin_step(worker);
            }
            self.pair.deliver();
        }
    }

    fn end(&mut self) {
        [0, 1].into_iter().for_each(|worker| self.pair.end_step(worker, Fault::None));
        self.pair.settle();
        for (worker, rig) in self.pair.workers.iter().enumerate() {
            rig.assert_idle();
            for (key, watched) in rig.watched.iter().filter(|(_, w)| w.expected.is_some()) {
                let Some(Err(failure)) = &watched.end else { continue };
                let excused = match failure.kind {
                    FailureKind::Busy | FailureKind::Invalid => watched.started.is_none(),
                    FailureKind::Cancelled => self.excuses.cancelled.contains(&(worker, *key)),
                    FailureKind::Deadline => self.excuses.limited.contains(&(worker, *key)),
                    FailureKind::Numerics | FailureKind::Internal => self.excuses.faults,
                    _ => false,
                };
                assert!(excused, "{key:?} of worker {worker}: {failure:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_pages_are_conserved_and_tokens_are_right(
        workers in (worker(), worker()),
        machines in [machine(), machine()],
        window in 256..8192u64,
        ops in proptest::collection::vec(op(), 1..160),
    ) {
        run(alike(workers.0, workers.1), machines, window, &ops);
    }

    #[test]
    fn a_full_worker_finishes_everything_that_it_admitted(
        pages in 3..7u32,
        drafts in any::<bool>(),
        requests in proptest::collection::vec((0..4u32, 1..150usize, 1..120u32), 1..12),
    ) {
        let geometry = if drafts { with_drafts(geometry(2, true)) } else { geometry(2, true) };
        let mut rig = Rig::new(Config { geometry, ..config(pages) });
        let mut admitted = Vec::new();
        for (i, (prefix, length, max_tokens)) in requests.into_iter().enumerate() {
            let (key, _) = rig.generate(generate(&format!("r{i}"), tokens(prefix, length), max_tokens));
            admitted.extend(rig.failure(key).is_none().then_some(key));
            rig.step();
        }
        rig.run();
        rig.assert_idle();
        prop_assert!(admitted.iter().all(|key| rig.finished(*key).is_some()));
    }
}
