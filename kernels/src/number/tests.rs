//! bf16 and e4m3 conversions at their edges.

use super::*;
use crate::testing::Random;

#[test]
fn every_e4m3_keeps_its_code() {
    for code in 0..=255u8 {
        let value = e4m3_to_f32(code);
        if value.is_nan() {
            assert_eq!(code & 0x7f, 0x7f);
            assert_eq!(f32_to_e4m3(value) & 0x7f, 0x7f);
        } else {
            assert_eq!(f32_to_e4m3(value), code, "{value}");
        }
    }
    assert_eq!(e4m3_to_f32(0x7e), 448.0);
    assert_eq!(e4m3_to_f32(0x01), 1.0 / 512.0);
    assert_eq!(e4m3_to_f32(0x07), 7.0 / 512.0);
    assert_eq!(e4m3_to_f32(0x08), 1.0 / 64.0);
}

#[test]
fn e4m3_rounds_to_the_nearest_and_ties_to_even() {
    for code in 0..0x7e_u8 {
        let (low, high) = (e4m3_to_f32(code), e4m3_to_f32(code + 1));
        let middle = (low + high) / 2.0;
        let even = if code % 2 == 0 { code } else { code + 1 };
        assert_eq!(f32_to_e4m3(middle), even, "{middle}");
        assert_eq!(f32_to_e4m3(f32::from_bits(middle.to_bits() - 1)), code);
        assert_eq!(f32_to_e4m3(f32::from_bits(middle.to_bits() + 1)), code + 1);
        assert_eq!(f32_to_e4m3(-middle), even | 0x80);
    }
}

#[test]
fn e4m3_saturates_and_keeps_signed_zero() {
    assert_eq!(f32_to_e4m3(1e9), 0x7e);
    assert_eq!(f32_to_e4m3(f32::INFINITY), 0x7e);
    assert_eq!(f32_to_e4m3(f32::NEG_INFINITY), 0xfe);
    assert_eq!(f32_to_e4m3(449.0), 0x7e);
    assert_eq!(f32_to_e4m3(0.0), 0);
    assert_eq!(f32_to_e4m3(-0.0), 0x80);
    assert_eq!(f32_to_e4m3(1e-30), 0);
    assert_eq!(f32_to_e4m3(f32::NAN) & 0x7f, 0x7f);
}

#[test]
fn bf16_rounds_to_the_nearest_and_ties_to_even() {
    let mut random = Random::new(3);
    for _ in 0..100_000 {
        let x = f32::from_bits(random.word());
        let got = round_bf16(x);
        if x.is_nan() {
            assert!(got.is_nan());
            continue;
        }
        let below = f32::from_bits(x.to_bits() & 0xffff_0000);
        let above = f32::from_bits((x.to_bits() & 0xffff_0000).wrapping_add(0x1_0000));
        let (to_below, to_above) = ((f64::from(x) - f64::from(below)).abs(), (f64::from(above) - f64::from(x)).abs());
        let even = if below.to_bits() >> 16 & 1 == 0 { below } else { above };
        let want = match to_below.partial_cmp(&to_above) {
            Some(std::cmp::Ordering::Less) => below,
            Some(std::cmp::Ordering::Greater) => above,
            _ => even,
        };
        if above.is_finite() {
            assert_eq!(got.to_bits(), want.to_bits(), "{x}");
        }
    }
    assert_eq!(round_bf16(f32::MAX), f32::INFINITY);
    assert_eq!(round_bf16(-0.0).to_bits(), (-0.0f32).to_bits());
    // A NaN whose mantissa is in the low half only must not become an infinity.
    assert!(round_bf16(f32::from_bits(0x7f80_0001)).is_nan());
}
