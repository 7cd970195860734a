//! Round by round through limits, positions, decode and prefill, dense and sparse, so that what is compared was measured
//! close together; the best round of each counts.

use hadal_kernels::Ctx;
use hadal_kernels::bench::Limits;
use hadal_model::{Files, Stage};
use hadal_shell::exit::Exit;
use hadal_types::{Attention, Dtype, KvEncoding};

use super::dense::Rival;
use super::layer::{Engine, Layer};
use super::report::{Cost, Curve, Point, Report};
use super::sizes::Sizes;
use crate::fault::{Fault, OrExit};
use crate::progress::Progress;

/// What a dense layer does not compute.
const INDEX: [Stage; 3] = [Stage::IndexKeys, Stage::IndexQueries, Stage::IndexScan];
/// What expanded attention does without, or in another way.
const ABSORBED: [Stage; 3] = [Stage::Absorb, Stage::Attention, Stage::Values];

/// Measures everything.
pub(super) fn measure(
    engine: &Engine,
    sizes: &Sizes,
    dollars_per_hour: Option<f64>,
    progress: &Progress,
) -> Result<Report, Fault> {
    let ctx = Ctx::new(engine.path, Dtype::Bf16).or_exit(Exit::Unavailable)?.with_pool(engine.pool.clone());
    let mut limits = Limits::new(&ctx, sizes.headline, []);
    progress.show(|| "making up weights".to_owned());
    let files = Files::synthetic(sizes.shape.config().to_string().as_bytes()).or_exit(Exit::Software)?;
    let mut curves = Vec::new();
    for &kv in &sizes.kv {
        let bench = Bench { engine, sizes, kv, progress };
        curves.push(bench.curve(&files, &ctx, &mut limits)?);
    }
    let (path, threads, clock, sizes) = (ctx.path(), ctx.threads(), engine.clock, sizes.clone());
    Ok(Report { path, threads, clock, weights_bytes: files.tensor_bytes(), sizes, limits, curves, dollars_per_hour })
}

/// One curve at work.
struct Bench<'a> {
    engine: &'a Engine,
    sizes: &'a Sizes,
    kv: KvEncoding,
    progress: &'a Progress,
}

impl Bench<'_> {
    fn curve(&self, files: &Files, ctx: &Ctx, limits: &mut Limits) -> Result<Curve, Fault> {
        let Self { engine, sizes, kv, progress } = *self;
        progress.show(|| format!("{kv}: loading weights and filling {} caches", sizes.batch));
        let mut layer = Layer::new(files, kv, engine, sizes)?;
        let rival = Rival::new(ctx, sizes);
        let now = || engine.clock.now();
        let mut points: Vec<Point> = sizes.positions.iter().map(|&p| Point::new(p, sizes.rows_at(p))).collect();
        if let Some(first) = points.first() {
            // What only the first step pays: pages of buffers.
            layer.decode(first.position, Attention::Sparse)?;
        }
        for round in 1..=sizes.rounds {
            limits.round(&now);
            for point in &mut points {
                let at = |what: &str| {
                    let position = point.position;
                    progress.show(|| format!("{kv}, round {round} of {}: {what} at {position}", sizes.rounds));
                };
                at("dense decode");
                let dense = layer.decode(point.position, Attention::Dense)?.per(sizes.batch);
                limits.round_peaks(&now);
                at("sparse decode");
                let sparse = layer.decode(point.position, Attention::Sparse)?.per(sizes.batch);
                point.decode.better(Some(Cost::new(dense.without(&INDEX))), Cost::new(sparse));
                at("sparse prefill");
                let sparse = layer.prefill(point.position, point.rows)?.per(point.rows);
                at("dense prefill");
                let stages = sparse.without(&INDEX).without(&ABSORBED);
                let expanded = rival.prefill(point.position, &now);
                let dense = expanded.map(|expanded| Cost { stages, expanded: Some(expanded) });
                point.prefill.better(dense, Cost::new(sparse));
                limits.round_peaks(&now);
            }
        }
        Ok(Curve { kv, points })
    }
}
