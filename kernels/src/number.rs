//! bfloat16 and OCP e4m3fn: rounding to nearest, ties to even, and exact widening.

/// The largest finite e4m3.
pub const E4M3_MAX: f32 = 448.0;

/// Every e4m3 by its code; the two NaN codes give NaN.
pub static E4M3: [f32; 256] = e4m3_table();

const fn e4m3_table() -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let (exponent, mantissa) = ((code as u32 >> 3) & 15, code as u32 & 7);
        let magnitude = if exponent == 15 && mantissa == 7 {
            f32::NAN
        } else if exponent == 0 {
            mantissa as f32 / 512.0
        } else {
            f32::from_bits((exponent + 120) << 23 | mantissa << 20)
        };
        table[code] = if code >= 128 { -magnitude } else { magnitude };
        code += 1;
    }
    table
}

/// The nearest bfloat16. NaN stays NaN.
#[inline]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        // Truncating could leave an infinity, so a mantissa bit is set.
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// Exact.
#[inline]
pub fn bf16_to_f32(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// `x` rounded to bfloat16.
#[inline]
pub fn round_bf16(x: f32) -> f32 {
    bf16_to_f32(f32_to_bf16(x))
}

/// The nearest e4m3; magnitudes above 448 become 448, NaN stays NaN.
#[inline]
pub fn f32_to_e4m3(x: f32) -> u8 {
    let sign = (x.to_bits() >> 24 & 0x80) as u8;
    let magnitude = x.abs();
    if magnitude.is_nan() {
        return sign | 0x7f;
    }
    if magnitude >= E4M3_MAX {
        return sign | 0x7e;
    }
    if magnitude < 1.0 / 64.0 {
        // Below the smallest normal the steps are 2^-9. Adding 2^23 steps leaves the count of them, rounded to even,
        // in the low bits; a count of 8 is the code of the smallest normal.
        let steps = (magnitude * 512.0 + 8_388_608.0).to_bits() & 0xff;
        return sign | steps as u8;
    }
    let bits = magnitude.to_bits();
    // Three mantissa bits stay; a carry goes into the exponent, which is what rounding up to the next power means.
    let rounded = bits + 0x7ffff + (bits >> 20 & 1);
    let code = (rounded >> 20) - (120 << 3);
    sign | code.min(0x7e) as u8
}

/// Exact.
#[inline]
pub fn e4m3_to_f32(code: u8) -> f32 {
    E4M3[usize::from(code)]
}

#[cfg(test)]
mod tests;
