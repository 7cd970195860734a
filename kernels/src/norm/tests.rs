//! Norms against f64.

use super::*;
use crate::testing::{Random, assert_close, bits};

const WIDTHS: [usize; 8] = [1, 7, 15, 16, 17, 64, 160, 777];

#[test]
fn rms_norm_follows_its_definition() {
    let mut random = Random::new(1);
    for width in WIDTHS {
        let (x, w) = (random.numbers(3 * width), random.numbers(width));
        let mut out = vec![0.0; x.len()];
        rms_norm(&x, &w, 1e-6, &mut out);
        let want: Vec<f64> = x
            .chunks(width)
            .flat_map(|row| {
                let square = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / width as f64;
                let norm = (square + 1e-6).sqrt();
                row.iter().zip(&w).map(move |(&v, &w)| f64::from(v) / norm * f64::from(w)).collect::<Vec<_>>()
            })
            .collect();
        assert_close(&out, &want, 1e-6);
    }
}

#[test]
fn layer_norm_follows_its_definition() {
    let mut random = Random::new(2);
    for width in WIDTHS {
        let (x, w, b) = (random.numbers(3 * width), random.numbers(width), random.numbers(width));
        let mut out = vec![0.0; x.len()];
        layer_norm(&x, &w, &b, 1e-6, &mut out);
        let want: Vec<f64> = x
            .chunks(width)
            .flat_map(|row| {
                let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / width as f64;
                let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / width as f64;
                let norm = (variance + 1e-6).sqrt();
                let cell = move |((&v, &w), &b): ((&f32, &f32), &f32)| {
                    (f64::from(v) - mean) / norm * f64::from(w) + f64::from(b)
                };
                row.iter().zip(&w).zip(&b).map(cell).collect::<Vec<_>>()
            })
            .collect();
        assert_close(&out, &want, 3e-6);
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_others() {
    let mut random = Random::new(3);
    let (x, w, b) = (random.numbers(9 * 100), random.numbers(100), random.numbers(100));
    let (mut all, mut one) = (vec![0.0; 900], vec![0.0; 100]);
    rms_norm(&x, &w, 1e-5, &mut all);
    rms_norm(&x[700..800], &w, 1e-5, &mut one);
    assert_eq!(bits(&all[700..800]), bits(&one));
    layer_norm(&x, &w, &b, 1e-5, &mut all);
    layer_norm(&x[700..800], &w, &b, 1e-5, &mut one);
    assert_eq!(bits(&all[700..800]), bits(&one));
}

#[test]
fn swiglu_multiplies_the_gate_into_the_rest() {
    let mut out = [0.0; 3];
    swiglu(&[0.0, 1.0, -2.0], &[5.0, 2.0, 3.0], &mut out);
    assert_close(&out, &[0.0, 2.0 / (1.0 + (-1f64).exp()), -6.0 / (1.0 + 2f64.exp())], 1e-6);
    add(&mut out, &[1.0, 0.0, 0.0]);
    assert_eq!(out[0], 1.0);
}
