//! Both layouts of RoPE against f64.

use super::*;
use crate::testing::{Random, assert_close};

fn angles(position: u32, half: usize) -> (Vec<f32>, Vec<f32>, Vec<f64>) {
    let frequencies: Vec<f32> = (0..half).map(|i| 10_000f64.powf(-(i as f64) / half as f64) as f32).collect();
    let (mut cos, mut sin) = (vec![0.0; half], vec![0.0; half]);
    rope_angles(&frequencies, 1.0, position, &mut cos, &mut sin);
    let angles = frequencies.iter().map(|&f| f64::from(position as f32 * f)).collect();
    (cos, sin, angles)
}

#[test]
fn both_layouts_rotate_their_pairs() {
    let mut random = Random::new(1);
    for position in [0, 1, 63, 4096, 163_839, 1_048_575] {
        let (cos, sin, angles) = angles(position, 8);
        let x = random.numbers(16);
        for layout in [RopeLayout::Interleaved, RopeLayout::Half] {
            let mut got = x.clone();
            rope(&mut got, &cos, &sin, layout);
            let mut want = vec![0.0; 16];
            for (i, angle) in angles.iter().enumerate() {
                let (a, b) = if layout == RopeLayout::Half { (i, i + 8) } else { (2 * i, 2 * i + 1) };
                let (va, vb) = (f64::from(x[a]), f64::from(x[b]));
                want[a] = va * angle.cos() - vb * angle.sin();
                want[b] = vb * angle.cos() + va * angle.sin();
            }
            assert_close(&got, &want, 1e-6);
        }
    }
}

#[test]
fn position_zero_changes_nothing_and_the_factor_scales() {
    let (mut cos, mut sin) = ([0.0; 2], [0.0; 2]);
    rope_angles(&[1.0, 0.1], 1.5, 0, &mut cos, &mut sin);
    assert_eq!((cos, sin), ([1.5; 2], [0.0; 2]));
}
