//! A schedule out of arbitrary bytes, for the fuzz target of the scheduler and for the tests that run its cases.
//!
//! The first bytes shape two workers, then each operation takes a few. Every check is that of the random schedules
//! (`tests/schedules.rs`): pages are conserved, the ledger is exact, every request ends, with the right tokens or for a
//! reason that the schedule gave.

use crate::Config;
use crate::test_util::{config, geometry, with_drafts};
use crate::tests::engine::Fault;
use crate::tests::schedules::{Machine, Op, alike, run};

/// Operations at most; more bytes are not looked at.
const OPS_MAX: usize = 400;

/// Reads a schedule and runs it to its end.
pub fn scheduler(bytes: &[u8]) {
    let mut draw = Draw(bytes);
    let workers = alike(worker(&mut draw), worker(&mut draw));
    let machines = [machine(&mut draw), machine(&mut draw)];
    let window = draw.within(256, 8192) as u64;
    let mut ops = Vec::new();
    while ops.len() < OPS_MAX && !draw.0.is_empty() {
        ops.push(op(&mut draw));
    }
    run(workers, machines, window, &ops);
}

/// Bytes that are drawn from; zeros when they are used up.
struct Draw<'a>(&'a [u8]);

impl Draw<'_> {
    fn byte(&mut self) -> usize {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        usize::from(*first)
    }

    fn bool(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    /// A number of `from..to`: of one byte where that is enough, so that a byte changed is a number changed.
    fn within(&mut self, from: usize, to: usize) -> usize {
        let span = to - from;
        let drawn = if span <= 256 { self.byte() } else { self.byte() << 8 | self.byte() };
        from + drawn % span
    }
}

fn worker(draw: &mut Draw<'_>) -> Config {
    let (pages, more) = (draw.within(3, 12) as u32, draw.within(0, 4) as u32);
    let (index, drafts) = (draw.bool(), draw.bool());
    Config {
        geometry: if drafts { with_drafts(geometry(2, index)) } else { geometry(2, index) },
        pages: if index { [pages + more, pages] } else { [0, pages] },
        step_tokens_max: draw.within(17, 200) as u32,
        chunk_tokens_max: draw.within(1, 100) as u32,
        ..config(pages)
    }
}

fn machine(draw: &mut Draw<'_>) -> Machine {
    Machine { layers_reported: draw.bool(), right: draw.within(0, 101) as u64, row_us: draw.within(0, 50) as u64 }
}

fn op(draw: &mut Draw<'_>) -> Op {
    let kind = draw.byte() % 16;
    let worker = draw.byte() % 2;
    match kind {
        0..3 => Op::Arrive {
            worker,
            prefix: draw.within(0, 3) as u32,
            length: draw.within(1, 260),
            max_tokens: draw.within(1, 150) as u32,
            remote: draw.bool(),
            limit_ms: if draw.bool() { Some(draw.within(1, 4000) as u64) } else { None },
        },
        3 => Op::Continue {
            worker,
            prefix: draw.within(0, 3) as u32,
            length: draw.within(1, 200),
            done: draw.within(1, 60) as u32,
            remote: draw.bool(),
        },
        4 => Op::Cancel { worker, nth: draw.within(0, 8) },
        5..8 => Op::Begin { worker },
        8..10 => Op::End { worker, fault: Fault::None },
        10 => Op::End { worker, fault: [Fault::NotFinite, Fault::Step][draw.within(0, 2)] },
        11 => Op::Steps { count: draw.within(1, 60) },
        12 => Op::Deliver { packets: draw.within(1, 12) },
        13 => Op::Break { nth: draw.within(0, 8) },
        14 => Op::LosePage,
        _ => Op::Time { ms: draw.within(1, 3000) as u64 },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_schedule_of_nothing_and_of_equal_bytes_ends() {
        scheduler(&[]);
        (0..=255).for_each(|byte| scheduler(&[byte; 300]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_a_schedule_that_ends(bytes in prop::collection::vec(any::<u8>(), 0..1000)) {
            scheduler(&bytes);
        }
    }
}
