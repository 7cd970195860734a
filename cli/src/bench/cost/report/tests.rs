//! What a report says of made-up measurements.

use hadal_kernels::Ctx;
use hadal_types::Dtype;

use super::*;
use crate::bench::cost::shape::Shape;
use crate::bench::machine::Cache;
use crate::plot::svg;

fn cost(scan: f64, attention: f64, rest: f64) -> Cost {
    Cost::new(Stages::made(&[
        (Stage::IndexScan, scan),
        (Stage::Attention, attention),
        (Stage::Experts, rest / 2.0),
        (Stage::Queries, rest / 2.0),
    ]))
}

fn pair(dense: Option<Cost>, sparse: Cost) -> Pair {
    Pair { dense, sparse: Some(sparse) }
}

fn point(position: u32, scale: f64) -> Point {
    let decode = pair(Some(cost(0.0, 0.032 * scale, 0.002)), cost(0.0005 * scale, 0.001, 0.002));
    let expanded = Some(Expanded { attend: 0.02, expand: 0.005, operations: 1e9 });
    let dense = Cost { stages: Stages::made(&[(Stage::Output, 0.005)]), expanded };
    Point { position, rows: 128, decode, prefill: pair(Some(dense), cost(0.002, 0.001, 0.005)) }
}

fn report(prices: Option<f64>) -> Report {
    let ctx = Ctx::new(Path::Portable, Dtype::Bf16).unwrap();
    let mut limits = Limits::new(&ctx, 1 << 16, []);
    let clock = std::cell::Cell::new(0.0);
    limits.round(&|| {
        clock.set(clock.get() + 1.0);
        clock.get()
    });
    let kv = KvEncoding::Bf16;
    Report {
        path: Path::Portable,
        threads: 1,
        clock: Clock::Thread,
        weights_bytes: 1 << 30,
        sizes: Sizes {
            shape: Shape::V32,
            positions: vec![NEAR, FAR],
            batch: 32,
            chunk: 2048,
            rows: 128,
            kv: vec![kv],
            rounds: 2,
            cache: Cache { bytes: 1, told: true },
            headline: 1 << 16,
            quick: false,
        },
        limits,
        curves: vec![Curve { kv, points: vec![point(NEAR, 0.25), point(FAR, 4.0)] }],
        dollars_per_hour: prices,
    }
}

#[test]
fn the_faster_round_counts_for_each_by_itself() {
    let mut best = Pair::default();
    best.better(Some(cost(0.0, 4.0, 1.0)), cost(1.0, 1.0, 1.0));
    best.better(Some(cost(0.0, 2.0, 1.0)), cost(2.0, 1.0, 1.0));
    assert_eq!((best.dense.unwrap().total(), best.sparse.unwrap().total()), (3.0, 3.0));
    best.better(None, cost(0.0, 1.0, 1.0));
    assert_eq!(best.ratio(), Some(1.5));
}

#[test]
fn the_summary_has_ratios_shares_and_growth() {
    let summary = report(None).summary();
    let near = |key: &str, expected: f64| {
        let got = summary[key].as_f64().unwrap();
        assert!((got / expected - 1.0).abs() < 1e-9, "{key}: {got}");
    };
    near("decode_ratio_128k_bf16_index", 0.13 / 0.005);
    near("prefill_ratio_128k_bf16_index", 0.03 / 0.008);
    assert_eq!((&summary["decode_ratio_128k"], &summary["batch"]), (&Value::Null, &32.into()));
    let peak = report(None).limits.peak(Unit::Bf16);
    near("dense_decode_peak_share", 2.0 * 128.0 * 1088.0 * 131_072.0 / 0.128 / peak);
    near("dense_prefill_peak_share", 1e9 / 0.025 / peak);
    let growth = &summary["decode_attention_128k_over_4k"]["bf16"];
    assert!((growth["scan"].as_f64().unwrap() - 16.0).abs() < 1e-9, "{growth}");
    assert!((growth["scan_and_attention"].as_f64().unwrap() - 0.003 / 0.001_125).abs() < 1e-9, "{growth}");
}

#[test]
fn dollars_are_those_of_all_layers() {
    let report = report(Some(3.6));
    let json = report.json();
    let dsa = &json["curves"][0]["points"][1]["decode"]["dsa"];
    assert!((dsa["dollars_per_million_tokens"].as_f64().unwrap() - 0.005 * 61.0 * 1000.0).abs() < 1e-6, "{dsa}");
    assert!(report.table().contains("305.00") && report.table().contains("61 layers"), "{}", report.table());
    assert_eq!(
        self::report(None).json()["curves"][0]["points"][1]["decode"]["dsa"]["dollars_per_million_tokens"],
        Value::Null
    );
}

#[test]
fn the_table_has_every_position_and_says_what_the_rival_reaches() {
    let table = report(None).table();
    for part in
        ["16 experts resident", "Decode, bf16 cache, 32 sequences", "131072", "26.00", "3.75", "at 128K ÷ at 4K"]
    {
        assert!(table.contains(part), "{part}\n{table}");
    }
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    assert!(!table.contains("Dollars"));
}

#[test]
fn without_a_dense_form_there_is_no_ratio() {
    let mut report = report(None);
    for point in &mut report.curves[0].points {
        point.prefill.dense = None;
    }
    let summary = report.summary();
    assert_eq!(summary["prefill_ratio_128k_bf16_index"], Value::Null);
    assert_eq!(summary["dense_prefill_peak_share"], Value::Null);
    assert!(report.table().contains("not on this kernel path"));
}

#[test]
fn parts_of_a_token_add_up_and_curves_are_drawn() {
    let report = report(None);
    let json = report.json();
    for kind in ["dense", "dsa"] {
        let cost = &json["curves"][0]["points"][0]["prefill"][kind];
        let parts: f64 = cost["parts"].as_object().unwrap().values().filter_map(Value::as_f64).sum();
        assert!((parts / cost["seconds_per_token"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{cost}");
    }
    assert_eq!(svg(&report.plots()).matches("<polyline").count(), 4);
}
