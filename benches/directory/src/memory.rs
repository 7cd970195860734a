//! Memory of the directory: what the process grew by, and the most that it had meanwhile, for each pair of block and
//! worker.

use std::fs;

use anyhow::{Context, Result};
use hadal_coordinator_core::directory::{Change, Directory};
use hadal_types::{CacheChange, ChainHash, Part, PartSet, Tier};

use crate::stream::{Random, chain_hash};

const PAIRS: usize = 10_000_000;
const WORKERS: usize = 1000;

/// A figure of /proc/self/status, in bytes.
fn status(name: &str) -> Result<usize> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find(|line| line.starts_with(name)).context("a line of /proc/self/status")?;
    let kib = line.split_whitespace().nth(1).context("a number in /proc/self/status")?;
    Ok(kib.parse::<usize>()? * 1024)
}

/// Fills a directory with blocks that `holders` workers hold each.
pub fn run(holders: usize) -> Result<()> {
    let parts: PartSet = Part::ALL.into_iter().collect();
    let mut random = Random(7);
    let before = status("VmRSS")?;
    let mut directory = Directory::default();
    while directory.blocks() < PAIRS {
        let hashes: [ChainHash; 256] = std::array::from_fn(|_| chain_hash(random.next()));
        let first = random.below(WORKERS as u64) as usize;
        for slot in (first..first + holders).map(|n| (n % WORKERS) as u16) {
            let stored =
                |hash: &ChainHash| Change { hash: *hash, change: CacheChange::Stored, parts, tier: Tier::Device };
            directory.apply(slot, &hashes, stored);
        }
    }
    let (pairs, after, most) = (directory.blocks(), status("VmRSS")?, status("VmHWM")?);
    let each = |bytes: usize| (bytes - before) as f64 / pairs as f64;
    println!(
        "memory: {pairs} pairs, {holders:4} workers a block: {:5.1} bytes a pair, at most {:5.1} on the way",
        each(after),
        each(most)
    );
    Ok(())
}
