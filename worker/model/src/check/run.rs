//! Runs one golden prompt and compares.

use hadal_types::{Attention, LayerId, Part, blocks_for};

use super::golden::{Golden, GoldenError, Prompt};
use super::report::{Choices, Constants, LayerMargin, PromptReport};
use super::{CheckError, CheckOptions};
use crate::cache::Cache;
use crate::model::Model;
use crate::probe::{Probe, Route};
use crate::step::{Draft, Logits, Slice, Step};

/// Draft positions with a narrower margin are left out: prompts were not searched for wide ones in that layer.
const MTP_MARGIN_MIN: f32 = 1e-3;

/// What a run of all tokens showed, by layer and row.
#[derive(Default)]
struct Seen {
    layers: usize,
    /// First row of the chunk that is running.
    first: usize,
    chosen: Vec<Vec<Vec<u32>>>,
    experts: Vec<Vec<Vec<u32>>>,
    weights: Vec<Vec<f32>>,
    hidden: Vec<Vec<f32>>,
    last: Vec<f32>,
    index_margins: Vec<LayerMargin>,
    router_margins: Vec<LayerMargin>,
}

impl Seen {
    fn new(layers: usize) -> Self {
        Self {
            layers,
            chosen: vec![Vec::new(); layers],
            experts: vec![Vec::new(); layers],
            weights: vec![Vec::new(); layers],
            hidden: vec![Vec::new(); layers],
            ..Self::default()
        }
    }
}

/// Keeps the narrowest margin of each layer; one that left nothing out is infinite and is not kept.
fn see(margins: &mut Vec<LayerMargin>, layer: LayerId, margin: f32, row: usize) {
    let seen = LayerMargin { layer: layer.0, margin, row };
    match margins.iter_mut().find(|m| m.layer == layer.0) {
        Some(least) if margin < least.margin => *least = seen,
        Some(_) => {}
        None if margin.is_finite() => margins.push(seen),
        None => {}
    }
}

impl Probe for Seen {
    fn written(&mut self, _: LayerId, _: &Cache) {}

    fn details(&self) -> bool {
        true
    }

    fn chose(&mut self, layer: LayerId, row: usize, positions: &[u32], margin: Option<f32>) {
        self.chosen[layer.0 as usize].push(positions.to_vec());
        see(&mut self.index_margins, layer, margin.unwrap_or(f32::INFINITY), self.first + row);
    }

    fn routed(&mut self, layer: LayerId, row: usize, route: Route<'_>) {
        self.experts[layer.0 as usize].push(route.experts.to_vec());
        self.weights[layer.0 as usize].extend(route.weights);
        see(&mut self.router_margins, layer, route.margin, self.first + row);
    }

    fn hidden(&mut self, layer: LayerId, rows: &mut [f32]) {
        self.hidden[layer.0 as usize].extend_from_slice(rows);
    }

    fn last_hidden(&mut self, rows: &[f32]) {
        self.last.extend(rows);
    }
}

/// Compares frequencies and factors, relative to their size.
pub(super) fn constants(model: &Model, golden: &Golden) -> Result<Constants, CheckError> {
    let rope = &model.config.rope;
    let relative = |a: f64, b: f64| ((a - b) / b).abs();
    let frequencies = golden
        .floats("rope.inv_freq", rope.inv_freq.len())?
        .map(|f| f.iter().zip(&rope.inv_freq).map(|(&b, &a)| relative(f64::from(a), f64::from(b))).fold(0.0, f64::max));
    Ok(Constants {
        inv_freq: frequencies,
        cos_sin_factor: golden.cos_sin_factor.map(|b| relative(f64::from(rope.angle_factor), b)),
        attention_scale: golden.attention_scale.map(|b| relative(f64::from(model.config.attention_scale()), b)),
    })
}

/// Runs prompt and greedy tokens in chunks, and compares all that the golden data have.
pub(super) fn prompt(
    model: &Model,
    golden: &Golden,
    prompt: &Prompt,
    options: &CheckOptions<'_>,
) -> Result<PromptReport, CheckError> {
    let ids: Vec<u32> = prompt.input_ids.iter().chain(&prompt.greedy_ids).copied().collect();
    let failed = |source| CheckError::Forward { prompt: prompt.name.clone(), source };
    // Pages in descending order: an address must not matter.
    let blocks = blocks_for(ids.len() as u64) as u32;
    let pages: Vec<u32> = (0..blocks).rev().collect();
    let mut cache = Cache::new(&model.geometry, &Part::ALL.map(|p| (p, blocks)));
    let chunk = options.chunk_tokens.clamp(1, ids.len());
    let mut ws = model.new_workspace(chunk);
    let mut seen = Seen::new(model.config.main_layers());
    let mut logits: Vec<f32> = Vec::with_capacity(ids.len() * model.config.vocab);
    for (number, tokens) in ids.chunks(chunk).enumerate() {
        seen.first = number * chunk;
        let slice = slice_of(tokens, seen.first as u32, &pages);
        let step = Step { slices: vec![slice] };
        model.forward_probed(&step, &mut cache, &mut ws, &mut seen).map_err(failed)?;
        logits.extend(ws.logits(0));
    }
    let mut report = PromptReport {
        name: prompt.name.clone(),
        tokens: prompt.input_ids.len(),
        new_tokens: prompt.greedy_ids.len(),
        greedy_same: greedy_same(prompt, &logits, model.config.vocab),
        index_margins: std::mem::take(&mut seen.index_margins),
        router_margins: std::mem::take(&mut seen.router_margins),
        ..PromptReport::default()
    };
    compare(&mut report, golden, &seen, &logits)?;
    report.mtp = drafts(model, golden, (&prompt.name, &ids), chunk, &mut cache)?;
    Ok(report)
}

/// Whether the best token after each of the continuation's positions is the golden one, ties to the lower id.
fn greedy_same(prompt: &Prompt, logits: &[f32], vocab: usize) -> bool {
    let best = |row: &[f32]| (0..row.len()).reduce(|a, b| if row[b] > row[a] { b } else { a });
    let rows = logits.chunks_exact(vocab).skip(prompt.input_ids.len() - 1);
    rows.zip(&prompt.greedy_ids).all(|(row, &id)| best(row) == Some(id as usize))
}

fn compare(report: &mut PromptReport, golden: &Golden, seen: &Seen, logits: &[f32]) -> Result<(), GoldenError> {
    let name = |what: &str| format!("{}.{what}", report.name);
    let rows = report.tokens + report.new_tokens;
    report.logits = golden.floats(&name("logits"), logits.len())?.map(|g| largest(&g, logits));
    for layer in 0..seen.layers {
        if let Some(want) = golden.integers(&name(&format!("indexer_topk.{layer}")), rows)? {
            report.indexer.count(&want, &seen.chosen[layer]);
        }
        if let Some(want) = golden.integers(&name(&format!("router_experts.{layer}")), rows)? {
            report.router.count(&want, &seen.experts[layer]);
        }
        let weights = &seen.weights[layer];
        if let Some(want) = golden.floats(&name(&format!("router_weights.{layer}")), weights.len())? {
            report.router_weights = Some(largest(&want, weights).max(report.router_weights.unwrap_or(0.0)));
        }
        let hidden = &seen.hidden[layer];
        if let Some(want) = golden.floats(&name(&format!("hidden.{layer}")), hidden.len())? {
            report.hidden = Some(largest(&want, hidden).max(report.hidden.unwrap_or(0.0)));
        }
    }
    if let Some(want) = golden.floats(&name("hidden.final"), seen.last.len())? {
        report.hidden = Some(largest(&want, &seen.last).max(report.hidden.unwrap_or(0.0)));
    }
    Ok(())
}

/// The largest difference; NaN counts as infinite.
fn largest(a: &[f32], b: &[f32]) -> f32 {
    let difference = |(x, y): (&f32, &f32)| if (x - y).is_nan() { f32::INFINITY } else { (x - y).abs() };
    a.iter().zip(b).map(difference).fold(0.0, f32::max)
}

impl Choices {
    /// Compares rows of positions or experts; negative golden entries fill up.
    fn count(&mut self, want: &[Vec<i64>], got: &[Vec<u32>]) {
        let differs = |(want, got): (&Vec<i64>, &Vec<u32>)| {
            !want.iter().copied().filter(|&w| w >= 0).eq(got.iter().map(|&g| i64::from(g)))
        };
        self.rows += want.len();
        self.different += want.iter().zip(got).filter(|pair| differs(*pair)).count() + want.len().abs_diff(got.len());
    }
}

/// The draft layer's logits against golden ones, where both exist: of a second run, whose chunks begin a token early.
fn drafts(
    model: &Model,
    golden: &Golden,
    (prompt, ids): (&str, &[u32]),
    chunk: usize,
    cache: &mut Cache,
) -> Result<Option<f32>, CheckError> {
    let (rows, vocab) = (ids.len() - 1, model.config.vocab);
    let want = golden.floats(&format!("{prompt}.mtp_logits"), rows * vocab)?;
    let margins = golden.floats(&format!("{prompt}.mtp_margin"), rows)?;
    let (Some(want), Some(margins), true) = (want, margins, model.drafts()) else { return Ok(None) };
    let pages: Vec<u32> = (0..blocks_for(ids.len() as u64) as u32).collect();
    let mut ws = model.new_workspace(chunk + 1);
    let mut logits = Vec::with_capacity(rows * vocab);
    for begin in (0..ids.len()).step_by(chunk) {
        let first = begin.saturating_sub(1);
        let tokens = &ids[first..ids.len().min(begin + chunk)];
        let slice = Slice { logits: Logits::None, ..slice_of(tokens, first as u32, &pages) };
        let step = Step { slices: vec![slice] };
        let kept = [Draft { kept: tokens.len(), next: None, logits: Logits::All }];
        model
            .forward(&step, cache, &mut ws, &mut |_, _| {})
            .and_then(|()| model.draft((&step, &kept), cache, &mut ws, &mut |_, _| {}))
            .map_err(|source| CheckError::Forward { prompt: prompt.to_owned(), source })?;
        logits.extend(ws.logits(0));
    }
    let clear = margins.iter().map(|m| *m > MTP_MARGIN_MIN);
    let pairs = want.chunks_exact(vocab).zip(logits.chunks_exact(vocab)).zip(clear);
    let differences = pairs.filter(|(_, clear)| *clear).map(|((a, b), _)| largest(a, b));
    Ok(Some(differences.fold(if logits.len() == want.len() { 0.0 } else { f32::INFINITY }, f32::max)))
}

/// Tokens of the one sequence of a run.
fn slice_of<'a>(tokens: &'a [u32], start: u32, pages: &'a [u32]) -> Slice<'a> {
    Slice { tokens, start, pages: [pages, pages], logits: Logits::All, attention: Attention::Sparse }
}
