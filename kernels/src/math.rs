//! exp, ln, sin and cos as polynomials of our own. The C library picks its by processor, which would make two machines
//! of one numerics class differ. Only +, -, ×, ÷ and sqrt are used, all of them exactly rounded everywhere.

/// 1.5 × 2^23: adding and subtracting it rounds an f32 of moderate size to the nearest integer.
pub(crate) const ROUND_F32: f32 = 12_582_912.0;
/// 1.5 × 2^52, the same for f64.
const ROUND_F64: f64 = 6_755_399_441_055_744.0;

/// ln 2 in two parts, the first with few enough bits that its product with any exponent is exact.
pub(crate) const LN2_HIGH: f32 = 0.693_359_4;
pub(crate) const LN2_LOW: f32 = -2.121_944_4e-4;
/// Coefficients of (e^r - 1 - r) / r², highest power first.
pub(crate) const EXP: [f32; 6] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5];

/// e^x, within 2 units in the last place; 0 below the smallest subnormal, infinity above the largest f32.
#[inline]
pub fn exp(x: f32) -> f32 {
    // Comparisons, not min and max: those would drop a NaN.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let n = (x * std::f32::consts::LOG2_E + ROUND_F32) - ROUND_F32;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = EXP[0];
    for c in &EXP[1..] {
        p = p * r + c;
    }
    p = p * (r * r) + r;
    // 2^n in two factors, since n goes from -151 to 129.
    let n = n as i32;
    let half = n >> 1;
    (p + 1.0) * power_of_two(half) * power_of_two(n - half)
}

#[inline]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

/// Natural logarithm: -infinity of 0, NaN of negative numbers.
pub fn ln(x: f32) -> f32 {
    ln_f64(f64::from(x)) as f32
}

/// Natural logarithm of an f64, to about 15 digits.
pub fn ln_f64(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x == f64::INFINITY {
        return x;
    }
    // Subnormals are scaled up by 2^54 first.
    let (x, bias) = if x < f64::MIN_POSITIVE { (x * 18_014_398_509_481_984.0, -54) } else { (x, 0) };
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i32 - 1023 + bias;
    let mut m = f64::from_bits(bits & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    // ln m = 2 artanh s, and |s| < 0.172.
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    let mut p = 0.0;
    for odd in [19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        p = p * s2 + 1.0 / odd;
    }
    f64::from(exponent) * std::f64::consts::LN_2 + 2.0 * s * p
}

/// The largest magnitude that [`sin_cos`] takes.
pub const ANGLE_MAX: f32 = 268_435_456.0;

/// Sine and cosine of an angle in radians, each within 1 unit in the last place. NaN for what is not finite or
/// exceeds [`ANGLE_MAX`].
pub fn sin_cos(x: f32) -> (f32, f32) {
    // π/2 in two parts. The first has 25 bits and n has at most 28, so that its multiple is exact.
    const HALF_PI_HIGH: f64 = 1.570_796_310_901_641_8;
    const HALF_PI_LOW: f64 = 1.589_325_477_352_819_7e-8;
    if x.is_nan() || x.abs() > ANGLE_MAX {
        return (f32::NAN, f32::NAN);
    }
    let x = f64::from(x);
    let n = (x * std::f64::consts::FRAC_2_PI + ROUND_F64) - ROUND_F64;
    let r = (x - n * HALF_PI_HIGH) - n * HALF_PI_LOW;
    let (sin, cos) = sin_cos_quarter(r);
    match n as i64 & 3 {
        0 => (sin as f32, cos as f32),
        1 => (cos as f32, -sin as f32),
        2 => (-sin as f32, -cos as f32),
        _ => (-cos as f32, sin as f32),
    }
}

/// For |r| <= π/4.
fn sin_cos_quarter(r: f64) -> (f64, f64) {
    let r2 = r * r;
    let mut sin = 0.0;
    let mut cos = 0.0;
    // Horner over the Taylor series: 1 - r²/((k)(k+1)) × (...), twelve digits more than an f32 holds.
    for k in [14.0, 12.0, 10.0, 8.0, 6.0, 4.0, 2.0] {
        sin = r2 / (k * (k + 1.0)) * (1.0 - sin);
        cos = r2 / (k * (k - 1.0)) * (1.0 - cos);
    }
    (r * (1.0 - sin), 1.0 - cos)
}

/// 1 / (1 + e^-x).
#[inline]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// x / (1 + e^-x).
#[inline]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests;
