//! The safe entry of the vector kernels over every tile shape, with slices that end where the block does, so that the
//! address sanitizer (command in `lib.rs`) sees any access beyond.

use super::*;
use crate::testing::{Random, bits};

/// Exactly as many elements as `fits` asks for, on the heap, so that a sanitizer sees one too many.
fn product<T: Element>(
    path: Path,
    rows: usize,
    panels: usize,
    k: usize,
    value: impl Fn(u32) -> T,
) -> (Vec<f32>, Vec<f32>) {
    let mut random = Random::new((rows * 1000 + panels * 100 + k) as u64);
    let x = random.numbers(rows * k);
    let w: Vec<T> = (0..panels * k * PANEL).map(|_| value(random.word())).collect();
    let scale: Vec<f32> = (0..panels * PANEL).map(|_| random.number()).collect();
    let mut acc = random.numbers(rows * panels * PANEL);
    let mut want = acc.clone();
    for row in 0..rows {
        for c in 0..panels * PANEL {
            let s = if T::SCALED { scale[c] } else { 1.0 };
            let sum = &mut want[row * panels * PANEL + c];
            for i in 0..k {
                let w = w[c / PANEL * k * PANEL + i * PANEL + c % PANEL].decode(s);
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
        scale: if T::SCALED { &scale } else { &[] },
        scale_stride: PANEL,
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
                    let (got, want) = product(path, rows, panels, k, |r| (r >> 8) as f32 / 1e6);
                    assert_eq!(bits(&got), bits(&want), "{path} f32 {rows} {panels} {k}");
                    let (got, want) = product(path, rows, panels, k, |r| Bf16(r as u16 & 0xbfff));
                    assert_eq!(bits(&got), bits(&want), "{path} bf16 {rows} {panels} {k}");
                    let code = |r: u32| E4m3(if r & 0x7f == 0x7f { 0 } else { r as u8 });
                    let (got, want) = product(path, rows, panels, k, code);
                    assert_eq!(bits(&got), bits(&want), "{path} fp8 {rows} {panels} {k}");
                }
            }
        }
    }
}

#[test]
fn every_e4m3_code_decodes_alike_on_every_path() {
    for path in Path::available() {
        let codes: Vec<u8> = (0..=255u8).filter(|c| c & 0x7f != 0x7f).chain([0, 0]).collect();
        for scale in [1.0, 0.3, 1e-3, 2.0f32.powi(-130), -1.0] {
            for codes in codes.chunks_exact(PANEL) {
                let w: Vec<E4m3> = codes.iter().map(|&c| E4m3(c)).collect();
                let mut acc = vec![0.0; PANEL];
                let block = Block {
                    x: &[1.0],
                    x_stride: 1,
                    rows: 1,
                    w: &w,
                    k_stride: PANEL,
                    panel_stride: PANEL,
                    panels: 1,
                    k: 1,
                    scale: &[scale; PANEL],
                    scale_stride: PANEL,
                    acc: &mut acc,
                    acc_stride: PANEL,
                };
                run(path, block);
                let want: Vec<f32> = codes.iter().map(|&c| 0.0 + E4M3[usize::from(c)] * scale).collect();
                assert_eq!(bits(&acc), bits(&want), "{path} × {scale}");
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
        w: &[0.0f32; 64],
        k_stride: PANEL,
        panel_stride: 64,
        panels: 1,
        k: 4,
        scale: &[],
        scale_stride: 0,
        acc: &mut [0.0; 32],
        acc_stride: PANEL,
    };
    run(Path::detect(), block);
}
