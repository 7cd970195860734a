//! What a type of activations and an encoding of the cache cost in quality, against f32 with an f32 cache on the same
//! tokens.
//!
//! **Overlap of choices**, layer by layer on the same inputs: the residual stream that a layer reads is that of the f32
//! run, in every row. So what is seen is what the layer itself makes of it, with its own keys in the cache, and no error
//! of the layers before. Rows that have no more positions than are chosen say nothing and do not count.
//!
//! **Perplexity** is that of a run of its own, in which every error reaches all that follow.

use std::fmt;

use hadal_types::{Attention, Dtype, KvEncoding, LayerId, Part, blocks_for};
use serde::Serialize;

use super::CheckError;
use crate::cache::Cache;
use crate::config::LayerChoice;
use crate::files::Files;
use crate::model::{LoadOptions, Model, Progress};
use crate::probe::Probe;
use crate::step::{Logits, Slice, Step};
use crate::workspace::Workspace;

/// How to measure.
pub struct QualityOptions<'a> {
    /// Kernel path.
    pub path: hadal_kernels::Path,
    /// Threads; none for the calling one alone.
    pub pool: Option<std::sync::Arc<hadal_kernels::Pool>>,
    /// Tokens of a chunk.
    pub chunk_tokens: usize,
    /// What to measure.
    pub kinds: Vec<(Dtype, KvEncoding)>,
    /// Called while weights are loaded.
    pub progress: &'a dyn Fn(Progress),
}

/// How far the choices of a layer are those of f32.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LayerOverlap {
    /// The layer.
    pub layer: u32,
    /// Rows that had more positions than were chosen.
    pub rows: usize,
    /// The share of what f32 chose that was chosen, averaged over these rows; none without any.
    pub overlap: Option<f64>,
}

/// One type of activations and encoding of the cache.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// Activations.
    pub dtype: Dtype,
    /// Cache.
    pub kv: KvEncoding,
    /// Of the text.
    pub perplexity: f64,
    /// By that of f32, less 1.
    pub perplexity_change: f64,
    /// Layers with an indexer.
    pub layers: Vec<LayerOverlap>,
}

/// What `hadal check --quality` prints.
#[derive(Clone, Debug, Serialize)]
pub struct QualityReport {
    /// The folder.
    pub checkpoint: String,
    /// Its architecture.
    pub architecture: String,
    /// Kernel path.
    pub kernels: String,
    /// Sequences of the text.
    pub windows: usize,
    /// Tokens that were predicted.
    pub tokens: usize,
    /// Perplexity in f32 with an f32 cache.
    pub perplexity: f64,
    /// What was measured against it.
    pub kinds: Vec<Quality>,
}

/// Measures each kind against f32 on these sequences of tokens.
///
/// # Errors
/// When the weights cannot be loaded or a sequence does not fit the model.
pub fn quality(files: &Files, windows: &[Vec<u32>], options: &QualityOptions<'_>) -> Result<QualityReport, CheckError> {
    let exact = load(files, (Dtype::F32, KvEncoding::F32), options)?;
    let mut base = Surprise::default();
    let mut kinds = Vec::new();
    for &kind in &options.kinds {
        let model = load(files, kind, options)?;
        let mut found = Found { overlaps: vec![(0, 0.0); exact.config.main_layers()], ..Found::default() };
        for (number, tokens) in windows.iter().enumerate() {
            window(&exact, &model, tokens, options.chunk_tokens, &mut found)
                .map_err(|source| CheckError::Forward { prompt: (number + 1).to_string(), source })?;
        }
        base = found.exact;
        kinds.push(found.quality(kind, &exact));
    }
    Ok(QualityReport {
        checkpoint: files.origin().display().to_string(),
        architecture: files.config().architecture.name.to_owned(),
        kernels: options.path.name().to_owned(),
        windows: windows.len(),
        tokens: base.tokens,
        perplexity: base.perplexity(),
        kinds,
    })
}

fn load(files: &Files, kind: (Dtype, KvEncoding), options: &QualityOptions<'_>) -> Result<Model, CheckError> {
    let (dtype, kv) = kind;
    let (path, pool, progress) = (options.path, options.pool.clone(), options.progress);
    Model::load(files, &LoadOptions { dtype, kv, path, drafts: false, pool, progress })
        .map_err(|source| CheckError::Load { origin: files.origin().to_owned(), source })
}

/// Sum of negative log-probabilities.
#[derive(Clone, Copy, Debug, Default)]
struct Surprise {
    tokens: usize,
    nats: f64,
}

impl Surprise {
    fn add(&mut self, logits: &[f32], token: u32) {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&x| f64::from(x - most).exp()).sum();
        let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        self.nats += sum.ln() - f64::from(logit - most);
        self.tokens += 1;
    }

    fn perplexity(&self) -> f64 {
        (self.nats / self.tokens.max(1) as f64).exp()
    }
}

/// What all windows showed of a kind.
#[derive(Default)]
struct Found {
    exact: Surprise,
    free: Surprise,
    /// By layer, rows that count and the sum of their overlaps.
    overlaps: Vec<(usize, f64)>,
}

impl Found {
    fn quality(&self, (dtype, kv): (Dtype, KvEncoding), exact: &Model) -> Quality {
        let layers = exact.config.layers.iter().zip(&self.overlaps).zip(0..);
        let layers = layers.filter(|((plan, _), _)| plan.choice == LayerChoice::Own);
        let layers = layers.map(|((_, &(rows, sum)), layer)| LayerOverlap {
            layer,
            rows,
            overlap: (rows > 0).then(|| sum / rows as f64),
        });
        let perplexity = self.free.perplexity();
        let perplexity_change = perplexity / self.exact.perplexity() - 1.0;
        Quality { dtype, kv, perplexity, perplexity_change, layers: layers.collect() }
    }
}

/// A sequence as one model computes it.
struct Run<'m> {
    model: &'m Model,
    cache: Cache,
    workspace: Workspace,
    pages: Vec<u32>,
}

impl<'m> Run<'m> {
    fn new(model: &'m Model, tokens: usize, chunk: usize) -> Self {
        let blocks = blocks_for(tokens as u64) as u32;
        Self {
            model,
            cache: model.new_cache(&Part::ALL.map(|p| (p, blocks))),
            workspace: model.new_workspace(chunk),
            pages: (0..blocks).collect(),
        }
    }

    fn chunk(&mut self, tokens: &[u32], start: usize, probe: &mut dyn Probe) -> Result<(), crate::ForwardError> {
        let pages = [&self.pages[..], &self.pages[..]];
        let (logits, attention) = (Logits::All, Attention::Sparse);
        let slice = Slice { tokens, start: start as u32, pages, logits, attention };
        self.model.forward_probed(&Step { slices: vec![slice] }, &mut self.cache, &mut self.workspace, probe)
    }

    /// How surprised it was by what follows each token of the chunk just computed.
    fn surprise(&self, following: &[u32], sum: &mut Surprise) {
        let rows = self.workspace.logits(0).chunks_exact(self.model.config.vocab);
        rows.zip(following).for_each(|(logits, &token)| sum.add(logits, token));
    }
}

fn window(
    exact: &Model,
    model: &Model,
    tokens: &[u32],
    chunk: usize,
    found: &mut Found,
) -> Result<(), crate::ForwardError> {
    let chunk = chunk.clamp(1, tokens.len().max(1));
    let mut runs = [exact, model, model].map(|model| Run::new(model, tokens.len(), chunk));
    let [by_f32, forced, free] = &mut runs;
    for (number, ids) in tokens.chunks(chunk).enumerate() {
        let start = number * chunk;
        let following = &tokens[start + 1..tokens.len().min(start + ids.len() + 1)];
        let mut seen = Recorded::default();
        by_f32.chunk(ids, start, &mut seen)?;
        by_f32.surprise(following, &mut found.exact);
        forced.chunk(
            ids,
            start,
            &mut Forced { by_f32: &seen, start, layer: 0, row: 0, overlaps: &mut found.overlaps },
        )?;
        free.chunk(ids, start, &mut Nothing)?;
        free.surprise(following, &mut found.free);
    }
    Ok(())
}

/// A chunk of the f32 run: what each layer left for the next, and chose, in the order of the calls.
#[derive(Default)]
struct Recorded {
    hidden: Vec<Vec<f32>>,
    chosen: Vec<Vec<u32>>,
}

impl Probe for Recorded {
    fn written(&mut self, _: LayerId, _: &Cache) {}

    fn details(&self) -> bool {
        true
    }

    fn chose(&mut self, _: LayerId, _: usize, positions: &[u32], _: Option<f32>) {
        self.chosen.push(positions.to_vec());
    }

    fn hidden(&mut self, _: LayerId, rows: &mut [f32]) {
        self.hidden.push(rows.to_vec());
    }
}

/// Gives each layer what it had in the f32 run, and compares what it chooses.
struct Forced<'a> {
    by_f32: &'a Recorded,
    /// Position of the chunk's first row.
    start: usize,
    /// Calls so far.
    layer: usize,
    row: usize,
    overlaps: &'a mut [(usize, f64)],
}

impl Probe for Forced<'_> {
    fn written(&mut self, _: LayerId, _: &Cache) {}

    fn details(&self) -> bool {
        true
    }

    fn chose(&mut self, layer: LayerId, row: usize, positions: &[u32], _: Option<f32>) {
        let wanted = self.by_f32.chosen.get(self.row).map_or(&[][..], Vec::as_slice);
        self.row += 1;
        if wanted.len() <= self.start + row && !wanted.is_empty() {
            let common = wanted.iter().filter(|p| positions.binary_search(p).is_ok()).count();
            let (rows, sum) = &mut self.overlaps[layer.0 as usize];
            *rows += 1;
            *sum += common as f64 / wanted.len() as f64;
        }
    }

    fn hidden(&mut self, _: LayerId, rows: &mut [f32]) {
        if let Some(exact) = self.by_f32.hidden.get(self.layer) {
            rows.copy_from_slice(exact);
        }
        self.layer += 1;
    }
}

/// Looks at nothing.
struct Nothing;

impl Probe for Nothing {
    fn written(&mut self, _: LayerId, _: &Cache) {}
}

impl fmt::Display for QualityReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({}, {})", self.checkpoint, self.architecture, self.kernels)?;
        let (windows, tokens, perplexity) = (self.windows, self.tokens, self.perplexity);
        writeln!(f, "f32 with an f32 cache: perplexity {perplexity:.4}, of {tokens} tokens in {windows} sequences")?;
        writeln!(
            f,
            "{:<6} {:<11} {:>10} {:>9}  overlap of choices with f32, by layer",
            "dtype", "kv", "perplexity", "change"
        )?;
        for kind in &self.kinds {
            let (dtype, kv, change) = (kind.dtype.name(), kind.kv.name(), 100.0 * kind.perplexity_change);
            write!(f, "{dtype:<6} {kv:<11} {:>10.4} {change:>+8.3}% ", kind.perplexity)?;
            for layer in &kind.layers {
                match layer.overlap {
                    Some(overlap) => write!(f, " {}:{overlap:.4}", layer.layer)?,
                    None => write!(f, " {}:-", layer.layer)?,
                }
            }
            writeln!(f, "{}", if kind.layers.is_empty() { " -" } else { "" })?;
        }
        write!(f, "each layer's choice is made on the inputs that it has in f32; perplexity is that of a whole run")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::golden;

    const EXACT: (Dtype, KvEncoding) = (Dtype::F32, KvEncoding::F32);

    fn measure(name: &str, kinds: &[(Dtype, KvEncoding)]) -> QualityReport {
        let path = hadal_kernels::Path::detect();
        let options = QualityOptions { path, pool: None, chunk_tokens: 64, kinds: kinds.to_vec(), progress: &|_| {} };
        let windows: Vec<Vec<u32>> = vec![(0..150).map(|i| 3 + i * 37 % 500).collect(), vec![5, 9, 2]];
        quality(&Files::open(&golden(name)).unwrap(), &windows, &options).unwrap()
    }

    #[test]
    fn f32_is_as_good_as_f32() {
        let report = measure("deepseek_v32", &[EXACT]);
        assert_eq!(report.tokens, 149 + 2);
        let kind = &report.kinds[0];
        assert_eq!((kind.perplexity, kind.perplexity_change), (report.perplexity, 0.0));
        // 32 positions are chosen: the rows from position 32 on count.
        let all = |layer| LayerOverlap { layer, rows: 150 - 32, overlap: Some(1.0) };
        assert_eq!(kind.layers, [0, 1, 2, 3].map(all));
    }

    #[test]
    fn smaller_encodings_choose_nearly_the_same_and_not_quite() {
        let kinds: Vec<_> = KvEncoding::ALL.iter().map(|kv| (Dtype::Bf16, *kv)).collect();
        let report = measure("deepseek_v32", &kinds);
        for (kind, kv) in report.kinds.iter().zip(KvEncoding::ALL) {
            assert_eq!((kind.dtype, kind.kv), (Dtype::Bf16, *kv));
            assert!(kind.perplexity != report.perplexity && kind.perplexity_change.abs() < 0.3, "{report}");
            let overlaps: Vec<f64> = kind.layers.iter().filter_map(|l| l.overlap).collect();
            assert!(overlaps.len() == 4 && overlaps.iter().all(|o| (0.95..=1.0).contains(o)), "{report}");
            assert!(overlaps.iter().any(|o| *o < 1.0), "{report}");
        }
        assert!(report.to_string().contains("int8-index"), "{report}");
    }

    #[test]
    fn a_layer_reads_what_the_f32_run_left_it() {
        let model = load(
            &Files::open(&golden("deepseek_v32")).unwrap(),
            EXACT,
            &QualityOptions {
                path: hadal_kernels::Path::detect(),
                pool: None,
                chunk_tokens: 8,
                kinds: Vec::new(),
                progress: &|_| {},
            },
        );
        let model = model.unwrap();
        let logits = |probe: &mut dyn Probe, tokens: &[u32]| {
            let mut run = Run::new(&model, 8, 8);
            run.chunk(tokens, 0, probe).unwrap();
            run.workspace.logits(0).to_vec()
        };
        let (a, b) = ([1, 2, 3, 4], [9, 8, 7, 6]);
        let mut seen = Recorded::default();
        let wanted = logits(&mut seen, &a);
        let mut overlaps = vec![(0, 0.0); 4];
        let mut forced = Forced { by_f32: &seen, start: 0, layer: 0, row: 0, overlaps: &mut overlaps };
        assert_eq!(logits(&mut forced, &b), wanted, "what the last layer leaves decides");
        assert_ne!(logits(&mut Nothing, &b), wanted);
    }
}
