//! Own exp, ln, sin and cos against f64, over their whole range.

use super::*;
use crate::testing::Random;

/// Distance in units of the last place of the true value.
fn ulps(got: f32, want: f64) -> f64 {
    let nearest = want as f32;
    if got == nearest {
        return 0.0;
    }
    let unit = f64::from(f32::from_bits(nearest.abs().to_bits() + 1)) - f64::from(nearest.abs());
    (f64::from(got) - want).abs() / unit
}

#[test]
fn exp_is_within_two_units_from_smallest_to_largest() {
    for i in -104_000..88_720 {
        let x = i as f32 / 1000.0;
        assert!(ulps(exp(x), f64::from(x).exp()) <= 2.0, "{x}: {}", exp(x));
    }
}

#[test]
fn exp_ends_in_zero_and_infinity_and_keeps_nan() {
    assert_eq!(exp(0.0), 1.0);
    assert_eq!(exp(-0.0), 1.0);
    assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(exp(-1000.0), 0.0);
    assert_eq!(exp(f32::INFINITY), f32::INFINITY);
    assert_eq!(exp(88.8), f32::INFINITY);
    assert!(exp(88.7).is_finite());
    assert!(exp(f32::NAN).is_nan());
}

#[test]
fn ln_is_the_nearest_f32_or_its_neighbour() {
    let mut random = Random::new(1);
    for _ in 0..100_000 {
        let x = f32::from_bits(random.word() >> 1);
        if x.is_finite() && x > 0.0 {
            assert!(ulps(ln(x), f64::from(x).ln()) <= 1.0, "{x}");
        }
    }
    assert_eq!(ln(1.0), 0.0);
    assert_eq!(ln(0.0), f32::NEG_INFINITY);
    assert_eq!(ln(f32::INFINITY), f32::INFINITY);
    assert!(ln(-1.0).is_nan() && ln(f32::NAN).is_nan());
    assert!((ln_f64(5e-324) - 5e-324f64.ln()).abs() < 1e-10);
}

#[test]
fn sine_and_cosine_hold_for_all_angles_of_a_long_context() {
    let mut random = Random::new(2);
    for scale in [1e-6, 0.1, 1.0, 10.0, 1e3, 1e5, 1.1e6, 1.6e7, ANGLE_MAX] {
        for _ in 0..20_000 {
            let x = random.number() * scale;
            let (s, c) = sin_cos(x);
            // Near a zero the unit shrinks without end, so the difference counts as well.
            for (got, want) in [(s, f64::from(x).sin()), (c, f64::from(x).cos())] {
                assert!(ulps(got, want) <= 1.0 || (f64::from(got) - want).abs() < 1e-9, "{x}: {got}, not {want}");
            }
        }
    }
    // Multiples of π/2 as near as f32 comes to them.
    for n in 0..100_000u32 {
        let x = (f64::from(n) * std::f64::consts::FRAC_PI_2) as f32;
        let (s, c) = sin_cos(x);
        assert!((f64::from(s) - f64::from(x).sin()).abs() < 1e-7 && (f64::from(c) - f64::from(x).cos()).abs() < 1e-7);
    }
    assert_eq!(sin_cos(0.0), (0.0, 1.0));
}

#[test]
fn angles_that_cannot_be_reduced_give_nan() {
    for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, ANGLE_MAX * 2.0] {
        let (s, c) = sin_cos(x);
        assert!(s.is_nan() && c.is_nan());
    }
}

#[test]
fn sigmoid_and_silu_follow_their_definitions() {
    for i in -2000..2000 {
        let x = i as f32 / 20.0;
        let want = 1.0 / (1.0 + f64::from(-x).exp());
        assert!((f64::from(sigmoid(x)) - want).abs() <= 1e-6 * want.max(1e-30));
        assert!((f64::from(silu(x)) - want * f64::from(x)).abs() <= 2e-6 * (want * f64::from(x)).abs().max(1e-30));
    }
    assert_eq!(silu(0.0), 0.0);
    assert!(silu(f32::NAN).is_nan());
}
