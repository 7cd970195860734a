//! The curves as lines of text.

use std::fmt::Write;

use hadal_kernels::bench::Unit;
use hadal_shell::units::show_bytes;

use super::{Cost, Curve, MODEL_LAYERS, Pair, Point, Report, Stage, growth};
use crate::plot;

/// A rival that reaches less of the peak says nothing.
const FAIR_SHARE: f64 = 0.6;

impl Report {
    /// For people.
    pub(in super::super) fn table(&self) -> String {
        let mut out = self.head();
        for curve in &self.curves {
            let decode =
                format!("Decode, {} cache, {} sequences: ms for a token of the layer", curve.kv, self.sizes.batch);
            section(&mut out, &decode, curve, |p| p.decode);
            let rows = self.sizes.rows;
            let chunk = format!("chunks of {} by their last {rows} rows", self.sizes.chunk);
            section(&mut out, &format!("Prefill, {} cache, {chunk}: ms for a token", curve.kv), curve, |p| p.prefill);
        }
        self.dollars(&mut out);
        self.rival(&mut out);
        for plot in self.plots() {
            let _ = writeln!(out, "\n{}", plot::terminal(&plot).trim_end());
        }
        out.trim_end().to_owned()
    }

    fn head(&self) -> String {
        let (sizes, limits) = (&self.sizes, &self.limits);
        let mut out = format!(
            "One layer of DeepSeek-V3.2: {}, {} threads, {} time, best of {} rounds\n",
            self.path,
            self.threads,
            self.clock.name(),
            sizes.rounds,
        );
        let weights = show_bytes(self.weights_bytes);
        let _ = writeln!(out, "{} experts resident, all weights {weights} (fp8, random)", sizes.shape.experts);
        let peak = |unit| limits.peak(unit) / 1e9;
        let _ = writeln!(
            out,
            "Limits: reading {} at {:.1} GB/s, peak of bf16 {:.0} and of int8 {:.0} GFLOP/s",
            show_bytes(sizes.headline as u64),
            limits.bandwidth(sizes.headline) / 1e9,
            peak(Unit::Bf16),
            peak(Unit::Int8),
        );
        if sizes.quick {
            out.push_str("--quick: small sizes, so these are no figures of the model.\n");
        }
        out
    }

    fn dollars(&self, out: &mut String) {
        let Some(price) = self.dollars_per_hour else { return };
        let _ = writeln!(
            out,
            "\nDollars for a million tokens of the whole model on this machine at {price} an hour,\n{MODEL_LAYERS} layers \
             times this one, without embedding and head:\n  {:>8} {:<11} {:>12} {:>12} {:>13} {:>12}",
            "position", "cache", "dense decode", "DSA decode", "dense prefill", "DSA prefill"
        );
        for curve in &self.curves {
            for p in &curve.points {
                let dollars = |cost: Option<Cost>| cost.map_or("-".to_owned(), |c| format!("{:.2}", c.dollars(price)));
                let _ = writeln!(
                    out,
                    "  {:>8} {:<11} {:>12} {:>12} {:>13} {:>12}",
                    p.position,
                    curve.kv.to_string(),
                    dollars(p.decode.dense),
                    dollars(p.decode.sparse),
                    dollars(p.prefill.dense),
                    dollars(p.prefill.sparse),
                );
            }
        }
    }

    /// How good the rival is, and how flat DSA.
    fn rival(&self, out: &mut String) {
        if let Some((decode, prefill)) = self.dense_shares() {
            let said = |share: f64| {
                let unfair = if share < FAIR_SHARE && !self.sizes.quick { ", no fair rival" } else { "" };
                format!("{share:.2}{unfair}")
            };
            let prefill = prefill.map_or("not on this kernel path".to_owned(), said);
            let _ = writeln!(
                out,
                "\nDense attention at the last position reaches of the bf16 peak: decode (absorbed) {},\nprefill \
                 (expanded) {prefill}.",
                said(decode)
            );
        }
        for curve in &self.curves {
            let Some(growth) = growth(curve) else { continue };
            let figure = |key: &str| growth[key].as_f64().unwrap_or(f64::NAN);
            let _ = writeln!(
                out,
                "DSA decode, {}, at 128K ÷ at 4K: scan and attention {:.2}, scan {:.2}, whole layer {:.2}.",
                curve.kv,
                figure("scan_and_attention"),
                figure("scan"),
                figure("layer"),
            );
        }
    }
}

fn section(out: &mut String, title: &str, curve: &Curve, of: fn(&Point) -> Pair) {
    let _ = writeln!(
        out,
        "\n{title}\n  {:>8} {:>9} {:>9} {:>6}   of DSA: {:>8} {:>9} {:>8} {:>8}",
        "position", "dense", "DSA", "ratio", "scan", "attention", "experts", "others"
    );
    for p in &curve.points {
        let pair = of(p);
        let Some(sparse) = pair.sparse else { continue };
        let (scan, attention, experts) = (sparse.stages.of(Stage::IndexScan), sparse.attention(), sparse.experts());
        let ms = |seconds: f64| format!("{:.3}", 1e3 * seconds);
        let _ = writeln!(
            out,
            "  {:>8} {:>9} {:>9} {:>6}           {:>8} {:>9} {:>8} {:>8}",
            p.position,
            pair.dense.map_or("-".to_owned(), |dense| ms(dense.total())),
            ms(sparse.total()),
            pair.ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
            ms(scan),
            ms(attention),
            ms(experts),
            ms(sparse.total() - scan - attention - experts),
        );
    }
}
