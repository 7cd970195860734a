//! The layer at work: random weights, caches filled with random rows, distinct for every sequence, and steps that are
//! timed stage by stage. It computes through the model's own forward pass.

use std::sync::Arc;

use hadal_model::{Cache, Files, LoadOptions, Logits, Model, Path, Pool, Probe, Slice, Stage, Step, Workspace};
use hadal_shell::exit::Exit;
use hadal_types::{Attention, Dtype, KvEncoding, LayerId, Part, blocks_for};

use super::Sizes;
use crate::bench::clock::Clock;
use crate::fault::{Fault, OrExit};

/// Seconds of each stage.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stages([f64; Stage::ALL.len()]);

impl Stages {
    pub(super) fn of(&self, stage: Stage) -> f64 {
        self.0[stage as usize]
    }

    pub(super) fn total(&self) -> f64 {
        self.0.iter().sum()
    }

    /// Each divided by a number.
    pub(super) fn per(&self, count: usize) -> Self {
        Self(self.0.map(|seconds| seconds / count as f64))
    }

    /// Without some stages.
    pub(super) fn without(&self, stages: &[Stage]) -> Self {
        let mut kept = *self;
        stages.iter().for_each(|&stage| kept.0[stage as usize] = 0.0);
        kept
    }

    #[cfg(test)]
    pub(super) fn made(of: &[(Stage, f64)]) -> Self {
        let mut made = Self::default();
        of.iter().for_each(|&(stage, seconds)| made.0[stage as usize] = seconds);
        made
    }
}

/// Times the stages of a step.
struct Timer {
    clock: Clock,
    last: f64,
    stages: Stages,
}

impl Probe for Timer {
    fn written(&mut self, _: LayerId, _: &Cache) {}

    fn computed(&mut self, stage: Stage) {
        let now = self.clock.now();
        self.stages.0[stage as usize] += now - self.last;
        self.last = now;
    }
}

/// How it computes.
#[derive(Clone)]
pub(super) struct Engine {
    pub(super) path: Path,
    pub(super) pool: Arc<Pool>,
    pub(super) clock: Clock,
}

/// A layer with its caches in one encoding.
pub(super) struct Layer {
    model: Model,
    cache: Cache,
    workspace: Workspace,
    /// Pages of each sequence, the same of every part.
    pages: Vec<Vec<u32>>,
    clock: Clock,
}

impl Layer {
    /// Loads the weights and fills the caches.
    pub(super) fn new(files: &Files, kv: KvEncoding, engine: &Engine, sizes: &Sizes) -> Result<Self, Fault> {
        let pool = Some(engine.pool.clone());
        let options = LoadOptions { dtype: Dtype::Bf16, kv, path: engine.path, drafts: false, pool, progress: &|_| {} };
        let model = Model::load(files, &options).or_exit(Exit::Unavailable)?;
        let blocks = blocks_for(sizes.position_max().into()) as u32;
        let batch = sizes.batch as u32;
        let mut cache = model.new_cache(&Part::ALL.map(|part| (part, blocks * batch)));
        cache.fill(&model);
        // Sequences that grow together get their pages in turn.
        let pages = (0..batch).map(|sequence| (0..blocks).map(|block| block * batch + sequence).collect()).collect();
        let workspace = model.new_workspace(sizes.batch.max(sizes.rows));
        Ok(Self { model, cache, workspace, pages, clock: engine.clock })
    }

    /// The next token of every sequence, each of which is `position` tokens long then. Seconds for all of them.
    pub(super) fn decode(&mut self, position: u32, attention: Attention) -> Result<Stages, Fault> {
        let tokens: Vec<[u32; 1]> = (0..self.pages.len() as u32).map(|sequence| [(7 * sequence + 1) % 256]).collect();
        let pages = std::mem::take(&mut self.pages);
        let slices = pages.iter().zip(&tokens).map(|(pages, tokens)| slice(pages, tokens, position, attention));
        let stages = self.step(slices.collect());
        self.pages = pages;
        stages
    }

    /// The last `rows` of a chunk of one sequence, which is `position` tokens long then. Seconds for all of them.
    pub(super) fn prefill(&mut self, position: u32, rows: usize) -> Result<Stages, Fault> {
        let tokens: Vec<u32> = (0..rows as u32).map(|row| (11 * row + 5) % 256).collect();
        let pages = std::mem::take(&mut self.pages);
        let slices = pages.iter().take(1).map(|pages| slice(pages, &tokens, position, Attention::Sparse));
        let stages = self.step(slices.collect());
        self.pages = pages;
        stages
    }

    fn step(&mut self, slices: Vec<Slice<'_>>) -> Result<Stages, Fault> {
        let step = Step { slices };
        let mut timer = Timer { clock: self.clock, last: self.clock.now(), stages: Stages::default() };
        self.model.forward_probed(&step, &mut self.cache, &mut self.workspace, &mut timer).or_exit(Exit::Software)?;
        match (0..step.slices.len()).find_map(|slice| self.workspace.failure(slice)) {
            Some(failure) => Err(Fault::new(Exit::Software, failure.clone())),
            None => Ok(timer.stages),
        }
    }
}

fn slice<'a>(pages: &'a [u32], tokens: &'a [u32], position: u32, attention: Attention) -> Slice<'a> {
    Slice { tokens, start: position - tokens.len() as u32, pages: [pages, pages], logits: Logits::None, attention }
}
