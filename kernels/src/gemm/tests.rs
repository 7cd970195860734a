//! The safe entry of the vector kernels over every tile shape, with slices that end where the block does, so that the
//! address sanitizer (command in `lib.rs`) sees any access beyond.

use super::*;
use crate::testing::{Random, bits};

/// Exactly as many elements as `fits` asks for, on the heap, so that a sanitizer sees one too many.
fn product(path: Path, rows: usize, panels: usize, k: usize) -> (Vec<f32>, Vec<f32>) {
    let mut random = Random::new((rows * 1000 + panels * 100 + k) as u64);
    let x = random.numbers(rows * k);
    let w = random.numbers(panels * k * PANEL);
    let mut acc = random.numbers(rows * panels * PANEL);
    let mut want = acc.clone();
    for row in 0..rows {
        for c in 0..panels * PANEL {
            let sum = &mut want[row * panels * PANEL + c];
            for i in 0..k {
                let w = w[c / PANEL * k * PANEL + i * PANEL + c % PANEL];
                *sum = if path == Path::Portable { *sum + x[row * k + i] * w } else { x[row * k + i].mul_add(w, *sum) };
            }
        }
    }
    let block = Block {
        x: &x,
        x_stride: k,
        rows,
        w: &w,
        k_stride: PANEL,
        panel_stride: k * PANEL,
        panels,
        k,
        acc: &mut acc,
        acc_stride: panels * PANEL,
    };
    run(path, block);
    (acc, want)
}

#[test]
fn every_tile_is_one_chain_of_sums_to_the_bit() {
    for path in Path::available() {
        for rows in [1, 2, 3, 4, 5, 7, 8, 9, 13, 17] {
            for panels in 1..=5 {
                for k in [1, 2, 31] {
                    let (got, want) = product(path, rows, panels, k);
                    assert_eq!(bits(&got), bits(&want), "{path} {rows} {panels} {k}");
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "lies within its slices")]
fn a_block_beyond_its_slices_is_refused() {
    let block = Block {
        x: &[0.0; 4],
        x_stride: 4,
        rows: 2,
        w: &[0.0; 64],
        k_stride: PANEL,
        panel_stride: 64,
        panels: 1,
        k: 4,
        acc: &mut [0.0; 32],
        acc_stride: PANEL,
    };
    run(Path::detect(), block);
}
