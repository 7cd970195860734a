//! What was measured: the curves, for people and for programs.

use hadal_kernels::bench::{Limits, Unit};
use hadal_model::{Path, Stage};
use hadal_types::KvEncoding;
use serde_json::{Map, Value, json};

use super::layer::Stages;
use super::shape::MODEL_LAYERS;
use super::sizes::Sizes;
use super::{FAR, NEAR};
use crate::bench::clock::Clock;
use crate::plot::{Curve as Line, Plot};

mod table;

/// Attention in the expanded form, in seconds for a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Expanded {
    /// Scores and values.
    pub(super) attend: f64,
    /// A row's share of expanding the keys and values that its whole chunk reads.
    pub(super) expand: f64,
    /// Operations of both.
    pub(super) operations: f64,
}

/// Seconds for a token in the layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) stages: Stages,
    /// What takes the place of absorbed attention.
    pub(super) expanded: Option<Expanded>,
}

impl Cost {
    pub(super) fn new(stages: Stages) -> Self {
        Self { stages, expanded: None }
    }

    pub(super) fn total(&self) -> f64 {
        self.stages.total() + self.expanded.map_or(0.0, |e| e.attend + e.expand)
    }

    /// Attention itself, without projections.
    fn attention(&self) -> f64 {
        self.stages.of(Stage::Attention) + self.expanded.map_or(0.0, |e| e.attend + e.expand)
    }

    /// The scan and attention: what depends on the position.
    fn positional(&self) -> f64 {
        self.stages.of(Stage::IndexScan) + self.attention()
    }

    fn experts(&self) -> f64 {
        [Stage::Gate, Stage::Shared, Stage::Experts].iter().map(|&s| self.stages.of(s)).sum()
    }

    fn json(&self, dollars_per_hour: Option<f64>) -> Value {
        let mut parts: Map<String, Value> =
            Stage::ALL.iter().map(|&s| (s.name().to_owned(), json!(self.stages.of(s)))).collect();
        if let Some(e) = self.expanded {
            parts.insert("attention".to_owned(), json!(e.attend));
            parts.insert("expand".to_owned(), json!(e.expand));
        }
        json!({
            "seconds_per_token": self.total(),
            "parts": parts,
            "dollars_per_million_tokens": dollars_per_hour.map(|price| self.dollars(price)),
        })
    }

    /// Dollars for a million tokens of the whole model.
    fn dollars(&self, dollars_per_hour: f64) -> f64 {
        self.total() * MODEL_LAYERS as f64 * 1e6 / 3600.0 * dollars_per_hour
    }
}

/// Dense and sparse at one position, the best of all rounds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pair {
    /// None where the kernel path has no dense form to compare with.
    dense: Option<Cost>,
    sparse: Option<Cost>,
}

impl Pair {
    /// Keeps what was faster, each by itself.
    pub(super) fn better(&mut self, dense: Option<Cost>, sparse: Cost) {
        let faster = |a: Cost, b: Cost| if b.total() < a.total() { b } else { a };
        let keep = |old: Option<Cost>, new: Option<Cost>| old.into_iter().chain(new).reduce(faster);
        *self = Self { dense: keep(self.dense, dense), sparse: keep(self.sparse, Some(sparse)) };
    }

    /// Dense ÷ sparse.
    fn ratio(&self) -> Option<f64> {
        Some(self.dense?.total() / self.sparse?.total())
    }

    fn json(&self, dollars_per_hour: Option<f64>) -> Value {
        let cost = |cost: Option<Cost>| cost.map(|c| c.json(dollars_per_hour));
        json!({ "dense": cost(self.dense), "dsa": cost(self.sparse), "ratio": self.ratio() })
    }
}

/// One position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) position: u32,
    /// Rows of the chunk that were computed.
    pub(super) rows: usize,
    pub(super) decode: Pair,
    pub(super) prefill: Pair,
}

impl Point {
    pub(super) fn new(position: u32, rows: usize) -> Self {
        Self { position, rows, decode: Pair::default(), prefill: Pair::default() }
    }
}

/// One encoding of the cache.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    pub(super) kv: KvEncoding,
    pub(super) points: Vec<Point>,
}

impl Curve {
    fn at(&self, position: u32) -> Option<&Point> {
        self.points.iter().find(|p| p.position == position)
    }
}

/// Everything.
pub(super) struct Report {
    pub(super) path: Path,
    pub(super) threads: usize,
    pub(super) clock: Clock,
    pub(super) weights_bytes: u64,
    pub(super) sizes: Sizes,
    pub(super) limits: Limits,
    pub(super) curves: Vec<Curve>,
    pub(super) dollars_per_hour: Option<f64>,
}

impl Report {
    fn curve(&self, kv: &str) -> Option<&Curve> {
        self.curves.iter().find(|c| c.kv.to_string() == kv)
    }

    /// Share of the peak that dense attention of the last position reaches: in decode, and in prefill.
    fn dense_shares(&self) -> Option<(f64, Option<f64>)> {
        let point = self.curves.first()?.points.last()?;
        let peak = self.limits.peak(Unit::Bf16);
        let decode = self.sizes.shape.absorbed_operations(point.position as usize);
        let prefill = point.prefill.dense.and_then(|dense| dense.expanded);
        let prefill = prefill.map(|e| e.operations / (e.attend + e.expand) / peak);
        Some((decode / point.decode.dense?.attention() / peak, prefill))
    }

    /// The curves as plots: decode and prefill.
    pub(super) fn plots(&self) -> Vec<Plot> {
        let plot = |title: &str, of: fn(&Point) -> Pair| {
            let line = |name: String, curve: &Curve, cost: fn(&Pair) -> Option<Cost>| Line {
                name,
                points: curve
                    .points
                    .iter()
                    .filter_map(|p| Some((p.position.into(), 1e3 * cost(&of(p))?.total())))
                    .collect(),
            };
            let dense = self.curves.first().map(|c| line("dense".to_owned(), c, |pair| pair.dense));
            let sparse = self.curves.iter().map(|c| line(format!("DSA, {}", c.kv), c, |pair| pair.sparse));
            Plot {
                title: format!("{title}, ms for a token of a layer"),
                x: "position, tokens".to_owned(),
                x_log2: true,
                y_ends: None,
                curves: dense.into_iter().chain(sparse).collect(),
            }
        };
        vec![plot("Decode", |p| p.decode), plot("Prefill", |p| p.prefill)]
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Value {
        let Self { sizes, limits, .. } = self;
        let point = |p: &Point| {
            json!({
                "position": p.position,
                "sample_rows": p.rows,
                "decode": p.decode.json(self.dollars_per_hour),
                "prefill": p.prefill.json(self.dollars_per_hour),
            })
        };
        let curve =
            |c: &Curve| json!({ "kv": c.kv.to_string(), "points": c.points.iter().map(point).collect::<Vec<_>>() });
        json!({
            "summary": self.summary(),
            "cpu": self.path.name(),
            "threads": self.threads,
            "clock": self.clock.name(),
            "rounds": sizes.rounds,
            "quick": sizes.quick,
            "experts_resident": sizes.shape.experts,
            "weights_bytes": self.weights_bytes,
            "layers": MODEL_LAYERS,
            "dollars_per_hour": self.dollars_per_hour,
            "last_level_cache_bytes": sizes.cache.bytes,
            "limits": {
                "read_bytes_per_s": limits.bandwidth(sizes.headline),
                "f32_operations_per_s": limits.peak(Unit::F32),
                "bf16_operations_per_s": limits.peak(Unit::Bf16),
                "int8_operations_per_s": limits.peak(Unit::Int8),
            },
            "curves": self.curves.iter().map(curve).collect::<Vec<_>>(),
        })
    }

    fn summary(&self) -> Value {
        let far = |kv: &str| self.curve(kv).and_then(|c| c.at(FAR));
        let decode = |kv: &str| far(kv).and_then(|p| p.decode.ratio());
        let prefill = |kv: &str| far(kv).and_then(|p| p.prefill.ratio());
        let shares = self.dense_shares();
        let growth = |c: &Curve| (c.kv.to_string(), growth(c).unwrap_or(Value::Null));
        json!({
            "decode_ratio_128k": decode("int8-index"),
            "prefill_ratio_128k": prefill("int8-index"),
            "decode_ratio_128k_bf16_index": decode("bf16"),
            "prefill_ratio_128k_bf16_index": prefill("bf16"),
            "dense_decode_peak_share": shares.map(|(decode, _)| decode),
            "dense_prefill_peak_share": shares.and_then(|(_, prefill)| prefill),
            "batch": self.sizes.batch,
            "chunk": self.sizes.chunk,
            "decode_attention_128k_over_4k": self.curves.iter().map(growth).collect::<Map<_, _>>(),
        })
    }
}

/// What attention of DSA costs a decoded token at 128K by what it costs at 4K; the scan alone, the rows that it chose
/// alone, and both.
fn growth(curve: &Curve) -> Option<Value> {
    let cost = |position| curve.at(position).and_then(|p| p.decode.sparse);
    let (near, far) = (cost(NEAR)?, cost(FAR)?);
    let ratio = |of: fn(&Cost) -> f64| of(&far) / of(&near);
    let scan = |cost: &Cost| cost.stages.of(Stage::IndexScan);
    Some(json!({
        "scan_and_attention": ratio(Cost::positional),
        "scan": ratio(scan),
        "attention": ratio(Cost::attention),
        "layer": ratio(Cost::total),
        "scan_seconds_4k": scan(&near),
        "scan_seconds_128k": scan(&far),
        "attention_seconds_4k": near.attention(),
        "attention_seconds_128k": far.attention(),
    }))
}

#[cfg(test)]
mod tests;
