//! What is measured, within the memory there is.

use hadal_model::{Config, geometry};
use hadal_shell::exit::Exit;
use hadal_types::{KvEncoding, blocks_for};

use super::dense::Rival;
use super::shape::Shape;
use super::{BATCH, CHUNK, Options, POSITIONS, ROUNDS, ROWS};
use crate::bench::machine::{self, Cache};
use crate::fault::{Fault, OrExit};

/// What is measured.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    pub(super) shape: Shape,
    /// Ascending.
    pub(super) positions: Vec<u32>,
    pub(super) batch: usize,
    pub(super) chunk: usize,
    /// Rows of a chunk that are computed.
    pub(super) rows: usize,
    pub(super) kv: Vec<KvEncoding>,
    pub(super) rounds: usize,
    pub(super) cache: Cache,
    /// Bytes that are read to measure the bandwidth of memory.
    pub(super) headline: usize,
    pub(super) quick: bool,
}

impl Sizes {
    /// As given or left out. Only what was left out is reduced where memory is short.
    pub(super) fn of(options: &Options) -> Result<Self, Fault> {
        let mut sizes = Self::asked(options);
        let Sizes { rows, chunk, .. } = sizes;
        if rows > chunk {
            let problem = format!("--rows {rows} are more than a chunk has, --chunk {chunk}");
            return Err(Fault::say(Exit::Usage, problem));
        }
        let budget = machine::memory_budget();
        let wanted = sizes.batch;
        while sizes.bytes()? > budget && options.batch.is_none() && sizes.batch > 1 {
            sizes.batch /= 2;
        }
        let needed = sizes.bytes()?;
        if needed > budget {
            return Err(machine::too_little(needed, "give a smaller --batch or shorter --positions"));
        }
        if sizes.batch < wanted {
            eprintln!("hadal: memory is short: {} sequences decode instead of {wanted}", sizes.batch);
        }
        Ok(sizes)
    }

    fn asked(options: &Options) -> Self {
        let Options { quick, .. } = *options;
        let or =
            |given: Option<u32>, real: u32, quickly: u32| given.unwrap_or(if quick { quickly } else { real }) as usize;
        let mut positions = match (options.positions.as_slice(), quick) {
            ([], true) => vec![128, 256],
            ([], false) => POSITIONS.to_vec(),
            (given, _) => given.to_vec(),
        };
        positions.sort_unstable();
        positions.dedup();
        let mut kv = options.kv.clone();
        if kv.is_empty() {
            kv = vec![KvEncoding::Int8Index, KvEncoding::Bf16];
        }
        let cache = Cache::last_level();
        Self {
            shape: if quick { Shape::QUICK } else { Shape::V32 },
            positions,
            batch: or(options.batch, BATCH, 2),
            chunk: or(options.chunk, CHUNK, 64),
            rows: or(options.rows, ROWS.min(options.chunk.unwrap_or(CHUNK)), 16),
            kv,
            rounds: or(options.rounds, ROUNDS, 1),
            cache,
            headline: if quick { 1 << 20 } else { cache.beyond() },
            quick,
        }
    }

    /// The longest sequence.
    pub(super) fn position_max(&self) -> u32 {
        self.positions.last().copied().unwrap_or(1)
    }

    /// Rows that are computed at the end of a chunk that ends at a position.
    pub(super) fn rows_at(&self, position: u32) -> usize {
        self.rows.min(position as usize)
    }

    /// Bytes of the caches of all sequences in the encoding that takes most.
    pub(super) fn cache_bytes(&self) -> Result<u64, Fault> {
        let config = Config::parse(self.shape.config().to_string().as_bytes()).or_exit(Exit::Software)?;
        let blocks = blocks_for(self.position_max().into()) * self.batch as u64;
        let of = |kv: &KvEncoding| geometry(&config, *kv).stores.iter().map(|s| s.block_bytes()).sum::<u64>();
        Ok(blocks * self.kv.iter().map(of).max().unwrap_or(0))
    }

    /// Bytes at most: random weights as published and packed, caches, what the step works in, and what is read to
    /// measure the bandwidth.
    fn bytes(&self) -> Result<u64, Fault> {
        let rows = self.batch.max(self.rows);
        let fixed = self.shape.weights() * 9 / 4 + rows * self.shape.row_bytes() + self.headline;
        let rival = Rival::bytes(&self.shape, self.position_max() as usize);
        Ok((fixed + rival) as u64 + self.cache_bytes()?)
    }
}
