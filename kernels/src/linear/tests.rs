//! Products against f64 in every weight type, and bits that no batch, thread or slice changes.

use super::*;
use crate::number::{E4M3, bf16_to_f32, f32_to_bf16, round_bf16};
use crate::testing::{Random, assert_close, bits, contexts, threaded};
use crate::{PackError, ShapeError};

/// [n, k] with their values as the reference sees them.
struct Case {
    n: usize,
    k: usize,
    bf16: Vec<u16>,
    codes: Vec<u8>,
    scales: Vec<f32>,
    block: [usize; 2],
}

impl Case {
    fn new(n: usize, k: usize, block: [usize; 2]) -> Self {
        let mut random = Random::new((n * 10_000 + k) as u64);
        Self {
            n,
            k,
            bf16: random.numbers(n * k).into_iter().map(f32_to_bf16).collect(),
            codes: (0..n * k).map(|_| random.word() as u8).map(|c| if c & 0x7f == 0x7f { 0x7e } else { c }).collect(),
            scales: random.numbers(n.div_ceil(block[0]) * k.div_ceil(block[1])).iter().map(|s| s * 0.01).collect(),
            block,
        }
    }

    fn f32(&self) -> Vec<f32> {
        self.bf16.iter().map(|&b| bf16_to_f32(b)).collect()
    }

    fn fp8(&self) -> WeightRef<'_> {
        WeightRef::Fp8 { data: &self.codes, scales: &self.scales, block: self.block }
    }

    fn dequantised(&self) -> Vec<f32> {
        let across = self.k.div_ceil(self.block[1]);
        (0..self.n * self.k)
            .map(|i| {
                let (row, column) = (i / self.k, i % self.k);
                let scale = self.scales[row / self.block[0] * across + column / self.block[1]];
                E4M3[usize::from(self.codes[i])] * scale
            })
            .collect()
    }
}

fn reference(w: &[f32], n: usize, k: usize, x: &[f32]) -> Vec<f64> {
    let dot = |row: &[f32], w: &[f32]| row.iter().zip(w).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    x.chunks(k).flat_map(|row| w.chunks(k).take(n).map(move |w| dot(row, w))).collect()
}

const SHAPES: [(usize, usize); 9] =
    [(1, 1), (15, 3), (16, 16), (17, 129), (33, 128), (64, 64), (100, 127), (160, 300), (70, 1100)];

#[test]
fn products_follow_the_reference_in_every_encoding() {
    for ctx in contexts() {
        for (n, k) in SHAPES {
            let case = Case::new(n, k, [128, 128]);
            let tolerance = 2e-6 * (k as f64).sqrt();
            for rows in [1, 3, 8, 41] {
                let x = Random::new(5).numbers(rows * k);
                let weights = [
                    (WeightRef::F32(&case.f32()), case.f32()),
                    (WeightRef::Bf16(&case.bf16), case.f32()),
                    (case.fp8(), case.dequantised()),
                ];
                for (weight, values) in weights {
                    let w = Linear::pack(weight, n, k).unwrap();
                    let mut out = vec![f32::NAN; rows * n];
                    linear(&ctx, &w, &x, &mut out);
                    assert_close(&out, &reference(&values, n, k, &x), tolerance);
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_batch_and_on_any_threads() {
    let dtypes = [Dtype::F32, Dtype::Bf16];
    for ctx in contexts().iter().flat_map(|c| dtypes.map(|d| Ctx::new(c.path(), d).unwrap())) {
        // Rows beyond one group, steps beyond one along k, an odd k, and blocks that end within a line.
        let (n, k, rows) = (200, 1101, 67);
        let case = Case::new(n, k, [128, 70]);
        let x = Random::new(6).numbers(rows * k);
        for weight in [WeightRef::Bf16(&case.bf16), case.fp8(), WeightRef::F32(&case.f32())] {
            let w = Linear::pack(weight, n, k).unwrap();
            let mut together = vec![0.0; rows * n];
            linear(&threaded(&ctx), &w, &x, &mut together);
            let mut apart = vec![0.0; rows * n];
            let mut row = 0;
            for size in [1, 2, 3, 4, 5, 7, 8, 37] {
                linear(&ctx, &w, &x[row * k..][..size * k], &mut apart[row * n..][..size * n]);
                row += size;
            }
            assert_eq!(row, rows);
            assert_eq!(bits(&together), bits(&apart), "{}", ctx.path());
        }
    }
}

#[test]
fn bf16_activations_are_rounded_before_the_product() {
    for ctx in contexts() {
        let ctx = Ctx::new(ctx.path(), Dtype::Bf16).unwrap();
        for (n, k) in SHAPES {
            let case = Case::new(n, k, [128, 24]);
            for rows in [1, 5, 30] {
                let x = Random::new(7).numbers(rows * k);
                let rounded: Vec<f32> = x.iter().map(|&v| round_bf16(v)).collect();
                assert_ne!(bits(&x), bits(&rounded));
                for (weight, values) in [(WeightRef::Bf16(&case.bf16), case.f32()), (case.fp8(), case.dequantised())] {
                    let w = Linear::pack(weight, n, k).unwrap();
                    let mut out = vec![f32::NAN; rows * n];
                    linear(&ctx, &w, &x, &mut out);
                    assert_close(&out, &reference(&values, n, k, &rounded), 4e-6 * (k as f64).sqrt());
                }
            }
        }
    }
}

#[test]
fn fused_products_are_those_of_single_calls() {
    for ctx in contexts() {
        let (a, b) = (Case::new(70, 90, [128, 128]), Case::new(33, 200, [128, 128]));
        let (wa, wb) =
            (Linear::pack(a.fp8(), 70, 90).unwrap(), Linear::pack(WeightRef::Bf16(&b.bf16), 33, 200).unwrap());
        let (xa, xb) = (Random::new(8).numbers(50 * 90), Random::new(9).numbers(200));
        let (mut oa, mut ob) = (vec![0.0; 50 * 70], vec![0.0; 33]);
        let (mut sa, mut sb) = (oa.clone(), ob.clone());
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let ctx = threaded(&Ctx::new(ctx.path(), dtype).unwrap());
            let products = [Product { w: &wa, x: &xa, out: &mut oa }, Product { w: &wb, x: &xb, out: &mut ob }];
            linear_many(&ctx, &mut { products });
            linear(&ctx, &wa, &xa, &mut sa);
            linear(&ctx, &wb, &xb, &mut sb);
            assert_eq!((bits(&oa), bits(&ob)), (bits(&sa), bits(&sb)));
        }
    }
}

#[test]
fn any_slice_has_the_values_of_its_tensor() {
    // Blocks that neither the rows nor the columns of the slice fall in with.
    let (rows, columns) = (75, 50);
    let pool = threaded(&contexts()[0]);
    let case = Case::new(rows, columns, [32, 24]);
    for (weight, values) in [(case.fp8(), case.dequantised()), (WeightRef::Bf16(&case.bf16), case.f32())] {
        for range in [0..75, 10..60, 32..64, 63..66, 70..75] {
            for transposed in [false, true] {
                let slice = WeightSlice { weight, shape: [rows, columns], rows: range.clone(), transposed };
                let w = Linear::pack_slice(&pool, &slice).unwrap();
                let want = |output: usize, k: usize| {
                    let (r, c) = if transposed { (range.start + k, output) } else { (range.start + output, k) };
                    values[r * columns + c]
                };
                for output in 0..w.n() {
                    let row: Vec<f32> = (0..w.k()).map(|k| want(output, k)).collect();
                    assert_eq!(bits(&w.row_f32(output)), bits(&row), "{range:?} {transposed} {output}");
                }
                // A unit vector picks out one input, through the kernels.
                for ctx in contexts() {
                    for k in 0..w.k() {
                        let mut x = vec![0.0; w.k()];
                        x[k] = 1.0;
                        let mut out = vec![0.0; w.n()];
                        linear(&ctx, &w, &x, &mut out);
                        assert!((0..w.n()).all(|o| out[o] == want(o, k)), "{range:?} {transposed} {k}");
                    }
                }
            }
        }
    }
}

#[test]
fn many_rows_are_those_of_single_calls() {
    // Beyond the groups of one job.
    let (n, k, rows) = (40, 33, 300);
    let case = Case::new(n, k, [128, 128]);
    let x = Random::new(10).numbers(rows * k);
    for ctx in contexts() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let ctx = Ctx::new(ctx.path(), dtype).unwrap();
            let w = Linear::pack(WeightRef::Bf16(&case.bf16), n, k).unwrap();
            let mut together = vec![f32::NAN; rows * n];
            linear(&ctx, &w, &x, &mut together);
            for (x, together) in x.chunks(k).zip(together.chunks(n)) {
                let mut alone = vec![0.0; n];
                linear(&ctx, &w, x, &mut alone);
                assert_eq!(bits(&alone), bits(together));
            }
        }
    }
}

#[test]
fn a_product_of_nothing_is_zero() {
    let ctx = &contexts()[0];
    let w = Linear::pack(WeightRef::Bf16(&[]), 3, 0).unwrap();
    linear(ctx, &w, &[], &mut []);
    let w = Linear::pack(WeightRef::Bf16(&[0; 12]), 3, 4).unwrap();
    linear(ctx, &w, &[], &mut []);
    let w = Linear::pack(WeightRef::Bf16(&[]), 0, 4).unwrap();
    linear(ctx, &w, &[0.0; 8], &mut []);
}

#[test]
fn weights_keep_their_size() {
    let case = Case::new(256, 256, [128, 128]);
    assert_eq!(Linear::pack(WeightRef::Bf16(&case.bf16), 256, 256).unwrap().bytes(), 2 * 256 * 256);
    assert_eq!(Linear::pack(case.fp8(), 256, 256).unwrap().bytes(), 256 * 256 + 2 * 256 * 4);
}

#[test]
fn wrong_shapes_and_nan_weights_are_refused() {
    assert_eq!(
        Linear::pack(WeightRef::F32(&[0.0; 5]), 2, 3).unwrap_err(),
        PackError::Shape(ShapeError { what: "weights", unit: "elements", expected: 6, got: 5 })
    );
    let scales = [1.0; 3];
    let few = WeightRef::Fp8 { data: &[0; 160 * 130], scales: &scales, block: [128, 128] };
    assert!(Linear::pack(few, 160, 130).unwrap_err().to_string().contains("expected 4 blocks, got 3"));
    let nan = WeightRef::Fp8 { data: &[0, 0xff], scales: &scales[..1], block: [128, 128] };
    assert_eq!(Linear::pack(nan, 1, 2).unwrap_err(), PackError::NanWeight { element: 1 });
    let slice = WeightSlice { weight: WeightRef::F32(&[0.0; 6]), shape: [2, 3], rows: 1..3, transposed: true };
    assert_eq!(
        Linear::pack_slice(&threaded(&contexts()[0]), &slice).unwrap_err(),
        PackError::NoSuchRows { start: 1, end: 3, rows: 2 }
    );
}

#[test]
fn bytes_of_a_file_pack_as_the_numbers_that_they_are() {
    for (n, k) in SHAPES {
        let case = Case::new(n, k, [128, 128]);
        let bytes: Vec<[u8; 2]> = case.bf16.iter().map(|bits| bits.to_le_bytes()).collect();
        let pack = |weight: WeightRef<'_>, rows: std::ops::Range<usize>, transposed| {
            let slice = WeightSlice { weight, shape: [n, k], rows, transposed };
            let linear = Linear::pack_slice(&Ctx::serial(), &slice).unwrap();
            (0..linear.n()).flat_map(|output| linear.row_f32(output)).collect::<Vec<_>>()
        };
        for (rows, transposed) in [(0..n, false), (n / 3..n, false), (n / 3..n, true)] {
            let packed = pack(WeightRef::Bf16Bytes(&bytes), rows.clone(), transposed);
            assert_eq!(packed, pack(WeightRef::F32(&case.f32()), rows, transposed), "{n} {k} {transposed}");
        }
    }
}

#[test]
fn embedding_rows_are_those_of_the_table() {
    let case = Case::new(10, 6, [128, 128]);
    for (weight, values) in [
        (WeightRef::F32(&case.f32()), case.f32()),
        (WeightRef::Bf16(&case.bf16), case.f32()),
        (WeightRef::Bf16Bytes(&case.bf16.iter().map(|bits| bits.to_le_bytes()).collect::<Vec<_>>()), case.f32()),
        (case.fp8(), case.dequantised()),
    ] {
        let table = Embedding::new(weight, 10, 6).unwrap();
        let mut out = vec![0.0; 18];
        table.lookup(&[9, 0, 9], &mut out).unwrap();
        assert_eq!(out[..6], values[54..]);
        assert_eq!(out[6..12], values[..6]);
        assert_eq!(out[12..], values[54..]);
        let error = table.lookup(&[10], &mut out).unwrap_err();
        assert_eq!(error.to_string(), "token id 10 is beyond the vocabulary of 10 tokens");
    }
}
