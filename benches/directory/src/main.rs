//! What the coordinator's directory of cached blocks can do: its throughput beside that of the directories of the crate
//! `dynamo-kv-router`, its memory, and the time of a placement.

mod contender;
mod memory;
mod placing;
mod stream;

use std::process::{Command, ExitCode};

use anyhow::{Result, bail, ensure};
use contender::{Compressed, Contender, Ours, Positional, Radix};
use dynamo_kv_router::nested_map::SearchMode;
use rustix::time::{ClockId, clock_gettime};
use stream::{AGENTS, CHATS, Shape, Stream};

const USAGE: &str = "hadal-bench-directory [throughput [REPEATS] | memory HOLDERS | placing usual|spread]";

/// Turns of a round.
const TURNS: usize = 64;
const ROUNDS: usize = 400;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match dispatch(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hadal-bench-directory: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(words: &[&str]) -> Result<()> {
    match words {
        [] => everything(),
        ["throughput"] => throughput(3),
        ["throughput", repeats] => throughput(repeats.parse()?),
        ["memory", holders] => memory::run(holders.parse()?),
        ["placing", "usual"] => placing::run(false),
        ["placing", "spread"] => placing::run(true),
        _ => bail!("{USAGE}"),
    }
}

/// Each in a process of its own, so that none finds the memory of another.
fn everything() -> Result<()> {
    let all: [&[&str]; 6] = [
        &["throughput"],
        &["memory", "1"],
        &["memory", "2"],
        &["memory", "100"],
        &["placing", "usual"],
        &["placing", "spread"],
    ];
    for arguments in all {
        let status = Command::new(std::env::current_exe()?).args(arguments).status()?;
        ensure!(status.success(), "{arguments:?} failed");
    }
    Ok(())
}

fn contenders() -> Vec<Box<dyn Contender>> {
    vec![
        Box::new(Ours::default()),
        Box::new(Radix::default()),
        Box::new(Compressed::new()),
        Box::new(Positional::new(SearchMode::Strided)),
        Box::new(Positional::new(SearchMode::Binary)),
    ]
}

/// CPU time of a contender, and its answers.
#[derive(Clone, Copy, Default)]
struct Taken {
    lookup_ns: u64,
    change_ns: u64,
    sum: u64,
}

fn throughput(repeats: usize) -> Result<()> {
    for shape in [AGENTS, CHATS] {
        let mut best = vec![Taken::default(); contenders().len()];
        for _ in 0..repeats {
            once(shape, &mut best)?;
        }
        let lookups = ROUNDS * TURNS;
        let changes = changes(shape);
        let total = |taken: &Taken| (taken.lookup_ns + taken.change_ns) as f64;
        let fastest = best[1..].iter().map(total).fold(f64::INFINITY, f64::min);
        println!("{}: {lookups} lookups, {changes} blocks stored or removed; best of {repeats}", shape.name);
        for (contender, taken) in contenders().iter().zip(&best) {
            println!(
                "  {:40} {:6.2} us a lookup, {:6.1} ns a block changed, {:6.2} M operations/s",
                contender.name(),
                taken.lookup_ns as f64 / lookups as f64 / 1e3,
                taken.change_ns as f64 / changes as f64,
                (lookups + changes) as f64 / total(taken) * 1e3,
            );
        }
        println!("  hadal / the fastest other: {:.2}", fastest / total(&best[0]));
    }
    Ok(())
}

fn changes(shape: Shape) -> usize {
    let mut stream = full(shape, &mut []);
    (0..ROUNDS).map(|_| stream.round(TURNS)).map(|round| round.stored() + round.removed()).sum()
}

/// A fleet whose caches are full.
fn full(shape: Shape, contenders: &mut [Box<dyn Contender>]) -> Stream {
    let mut stream = Stream::new(shape, 7);
    while !stream.is_full() {
        let round = stream.round(TURNS);
        for contender in &mut *contenders {
            contender.prepare(&round);
            contender.changes();
        }
    }
    stream
}

/// All contenders take the same rounds, one after another in turn, so that what else the machine does meets all alike.
fn once(shape: Shape, best: &mut [Taken]) -> Result<()> {
    let mut contenders = contenders();
    let mut stream = full(shape, &mut contenders);
    let mut taken = vec![Taken::default(); contenders.len()];
    for _ in 0..ROUNDS {
        let round = stream.round(TURNS);
        for (contender, taken) in contenders.iter_mut().zip(&mut taken) {
            contender.prepare(&round);
            let start = cpu_ns();
            taken.sum = taken.sum.wrapping_add(contender.lookups());
            let middle = cpu_ns();
            contender.changes();
            taken.lookup_ns += middle - start;
            taken.change_ns += cpu_ns() - middle;
        }
    }
    let first = taken[0].sum;
    for (best, taken) in best.iter_mut().zip(&taken) {
        ensure!(taken.sum == first, "two directories gave different answers");
        if best.change_ns == 0 || taken.lookup_ns + taken.change_ns < best.lookup_ns + best.change_ns {
            *best = *taken;
        }
    }
    Ok(())
}

/// Of all threads, since one of the contenders needs two, which take turns.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
