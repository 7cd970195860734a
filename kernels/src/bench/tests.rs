//! Limits and cases on every path; what a share is.

use std::cell::Cell;

use hadal_types::Dtype;

use super::*;
use crate::context::{Ctx, Path};

fn case(bytes: f64, operations: f64) -> Case {
    let work = Work { bytes, working_set: 1, operations, unit: Unit::F32 };
    Case::new("nothing", "none", work, || ())
}

/// A clock that is one later whenever it is asked.
fn ticking() -> impl Fn() -> f64 {
    let time = Cell::new(0.0);
    move || {
        time.set(time.get() + 1.0);
        time.get()
    }
}

#[test]
fn the_best_round_counts() {
    let time = Cell::new(0.0);
    let mut case = case(10.0, 20.0);
    for step in [3.0, 2.0, 4.0] {
        case.round(&|| {
            time.set(time.get() + step);
            time.get()
        });
    }
    assert_eq!((case.seconds, case.bandwidth(), case.rate()), (2.0, 5.0, 10.0));
}

#[test]
fn a_short_run_is_repeated_and_counts_once() {
    let runs = std::rc::Rc::new(Cell::new(0));
    let (counted, time) = (runs.clone(), Cell::new(0.0));
    let work = Work { bytes: 1.0, working_set: 1, operations: 0.0, unit: Unit::F32 };
    let mut case = Case::new("short", "none", work, move || counted.set(counted.get() + 1));
    // Every run takes a quarter of the shortest time.
    let now = || {
        time.set(f64::from(runs.get()) * RUN_MIN / 4.0);
        time.get()
    };
    for expected in [1, 3, 7, 11] {
        case.round(&now);
        assert_eq!(runs.get(), expected);
        assert!((case.seconds - RUN_MIN / 4.0).abs() < 1e-12, "{}", case.seconds);
    }
}

#[test]
fn every_case_runs_on_every_path_and_has_a_name_of_its_own() {
    for path in Path::available() {
        let ctx = Ctx::new(path, Dtype::Bf16).unwrap();
        let now = ticking();
        let mut cases = cases(&ctx, &Shapes::QUICK, 600_000).unwrap();
        let mut limits = Limits::new(&ctx, 1 << 20, cases.iter().map(|c| c.working_set));
        limits.round(&now);
        for case in &mut cases {
            case.round(&now);
            assert_eq!(case.seconds, 1.0, "{}", case.name);
            let (limit, share) = limits.share(case);
            assert!(share.is_finite() && share > 0.0 && ["memory", "f32", "bf16", "int8"].contains(&limit));
        }
        let mut names: Vec<&str> = cases.iter().map(|c| c.name.as_str()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "{names:?}");
        for name in ["linear_fp8_1", "linear_bf16_32", "index_int8_8", "mla_sparse_fp8", "experts_fp8", "sample"] {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
    }
}

#[test]
fn weights_exceed_the_cache_that_was_said() {
    let ctx = Ctx::new(Path::Portable, Dtype::F32).unwrap();
    let cases = cases(&ctx, &Shapes::QUICK, 600_000).unwrap();
    let product = cases.iter().find(|c| c.name == "linear_bf16_1").unwrap();
    assert_eq!((product.bytes, product.working_set), (262_144.0, 786_432));
    assert_eq!(product.operations, 2.0 * 256.0 * 512.0);
}

#[test]
fn what_takes_longer_binds() {
    let ctx = Ctx::new(Path::Portable, Dtype::F32).unwrap();
    let mut limits = Limits::new(&ctx, 1 << 20, []);
    limits.round(&ticking());
    // A round took a second each, so that a mebibyte is a second of reading.
    assert_eq!(limits.bandwidths().collect::<Vec<_>>(), [(1 << 20, f64::from(1 << 20))]);
    let peak = limits.peak(Unit::F32);
    let share = |bytes: f64, operations: f64| {
        let mut case = case(bytes, operations);
        case.seconds = 4.0;
        limits.share(&case)
    };
    assert_eq!(share(f64::from(1 << 20), 0.5 * peak), ("memory", 0.25));
    assert_eq!(share(f64::from(1 << 20), 2.0 * peak), ("f32", 0.5));
}

#[test]
fn a_working_set_is_compared_with_reading_as_much() {
    let ctx = Ctx::new(Path::Portable, Dtype::F32).unwrap();
    let mut limits = Limits::new(&ctx, 1 << 20, [1, 70_000, 100_000, 1 << 30]);
    limits.round(&ticking());
    let sizes: Vec<usize> = limits.bandwidths().map(|(size, _)| size).collect();
    assert_eq!(sizes, [1 << 16, 1 << 17, 1 << 20]);
    assert_eq!(limits.bandwidth(80_000), f64::from(1 << 17));
    assert_eq!(limits.bandwidth(1 << 30), f64::from(1 << 20));
}
