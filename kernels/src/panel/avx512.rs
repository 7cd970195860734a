//! Tiles on AVX-512: an output a lane, 1 row × 8 panels to 12 rows × 2 panels at once.
#![allow(unsafe_code, reason = "vector instructions and unchecked addressing; the safe entry is `run`")]
#![allow(clippy::needless_range_loop, reason = "sums stay in registers only if each index is known to the compiler")]

use std::arch::x86_64::*;
use std::mem::transmute;

use super::{Encoding, Line, PANEL, Tile};

/// Lines that are asked for ahead of use in every stream.
const AHEAD: usize = 24;

/// When a scale block's factor is applied.
#[derive(PartialEq, Eq)]
enum Scale {
    Never,
    Values,
    Sums,
}

/// How a line of weights meets words of activations.
trait Dot {
    const SCALE: Scale;
    /// Words of a row for one line.
    const WORDS: usize;
    /// The weights of the line for each word; the rest is not used.
    ///
    /// # Safety
    /// The machine has the features of [`tile`].
    unsafe fn widen(line: &Line, scale: __m512) -> [__m512; 4];
    /// `sum + x × w`.
    ///
    /// # Safety
    /// As for `widen`.
    unsafe fn add(sum: __m512, x: __m512, w: __m512) -> __m512;
}

struct F32Words;
struct Bf16Words;
struct E4m3Words;
struct Bf16Pairs;
struct E4m3Pairs;

impl Dot for F32Words {
    const SCALE: Scale = Scale::Never;
    const WORDS: usize = 1;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
    unsafe fn widen(line: &Line, _scale: __m512) -> [__m512; 4] {
        [load(line); 4]
    }
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
    unsafe fn add(sum: __m512, x: __m512, w: __m512) -> __m512 {
        _mm512_fmadd_ps(x, w, sum)
    }
}

impl Dot for Bf16Words {
    const SCALE: Scale = Scale::Never;
    const WORDS: usize = 2;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
    unsafe fn widen(line: &Line, _scale: __m512) -> [__m512; 4] {
        let [even, odd] = split(load(line));
        [even, odd, even, odd]
    }
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
    unsafe fn add(sum: __m512, x: __m512, w: __m512) -> __m512 {
        _mm512_fmadd_ps(x, w, sum)
    }
}

impl Dot for E4m3Words {
    const SCALE: Scale = Scale::Values;
    const WORDS: usize = 4;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
    unsafe fn widen(line: &Line, scale: __m512) -> [__m512; 4] {
        let [low, high] = e4m3_to_bf16(load(line));
        let ([a, b], [c, d]) = (split(low), split(high));
        [_mm512_mul_ps(a, scale), _mm512_mul_ps(b, scale), _mm512_mul_ps(c, scale), _mm512_mul_ps(d, scale)]
    }
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
    unsafe fn add(sum: __m512, x: __m512, w: __m512) -> __m512 {
        _mm512_fmadd_ps(x, w, sum)
    }
}

impl Dot for Bf16Pairs {
    const SCALE: Scale = Scale::Never;
    const WORDS: usize = 1;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
    unsafe fn widen(line: &Line, _scale: __m512) -> [__m512; 4] {
        [load(line); 4]
    }
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
    unsafe fn add(sum: __m512, x: __m512, w: __m512) -> __m512 {
        // SAFETY: the caller's promise; every bit pattern is one of bf16.
        unsafe { _mm512_dpbf16_ps(sum, transmute::<__m512, __m512bh>(x), transmute::<__m512, __m512bh>(w)) }
    }
}

impl Dot for E4m3Pairs {
    const SCALE: Scale = Scale::Sums;
    const WORDS: usize = 2;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
    unsafe fn widen(line: &Line, _scale: __m512) -> [__m512; 4] {
        let [low, high] = e4m3_to_bf16(load(line));
        [low, high, low, high]
    }
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
    unsafe fn add(sum: __m512, x: __m512, w: __m512) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { Bf16Pairs::add(sum, x, w) }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
fn load(line: &Line) -> __m512 {
    // SAFETY: a line is 64 bytes.
    unsafe { _mm512_loadu_ps(line.0.as_ptr().cast()) }
}

/// The even and the odd bf16 of a line as f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
fn split(pairs: __m512) -> [__m512; 2] {
    let bits = _mm512_castps_si512(pairs);
    let odd = _mm512_and_si512(bits, _mm512_set1_epi32(0xffff_0000u32 as i32));
    [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits)), _mm512_castsi512_ps(odd)]
}

/// Lower and upper byte of the bf16 that equals the e4m3 of each code without sign.
static BYTES: [[Line; 2]; 2] = bf16_bytes();

const fn bf16_bytes() -> [[Line; 2]; 2] {
    let mut bytes = [[Line::ZERO; 2]; 2];
    let mut code = 0;
    while code < 128 {
        let bits = crate::number::E4M3[code].to_bits() >> 16;
        let (half, word, shift) = (code / 64, code % 64 / 4, code % 4 * 8);
        bytes[0][half].0[word] |= (bits & 0xff) << shift;
        bytes[1][half].0[word] |= (bits >> 8) << shift;
        code += 1;
    }
    bytes
}

/// A line of e4m3 as two of bf16, the first for the lower pair of k. Exact.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
fn e4m3_to_bf16(codes: __m512) -> [__m512; 2] {
    let codes = _mm512_castps_si512(codes);
    let low = look_up(&BYTES[0], codes);
    // upper | (code & 0x80)
    let high = _mm512_ternarylogic_epi32::<0xf8>(look_up(&BYTES[1], codes), codes, _mm512_set1_epi8(i8::MIN));
    [_mm512_castsi512_ps(_mm512_unpacklo_epi8(low, high)), _mm512_castsi512_ps(_mm512_unpackhi_epi8(low, high))]
}

/// 32 codes as bf16, in order. Exact.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
pub(crate) fn e4m3_halves(codes: __m256i) -> __m512i {
    // Code 0 is 0, so that the upper bytes stay empty.
    let codes = _mm512_cvtepu8_epi16(codes);
    let low = look_up(&BYTES[0], codes);
    let high = _mm512_or_si512(look_up(&BYTES[1], codes), _mm512_and_si512(codes, _mm512_set1_epi16(0x80)));
    _mm512_or_si512(low, _mm512_slli_epi16::<8>(high))
}

/// 16 × 16 words with rows and columns exchanged.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let (mut a, mut b) = ([_mm512_setzero_si512(); 16], [_mm512_setzero_si512(); 16]);
    // Within 128 bits: pairs of rows, then groups of four.
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    for i in 0..4 {
        b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
        b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
    }
    // b[4 g + c] holds rows 4 g.. of columns c, c + 4, c + 8 and c + 12, 128 bits each.
    for c in 0..4 {
        let low = [_mm512_shuffle_i32x4::<0x88>(b[c], b[4 + c]), _mm512_shuffle_i32x4::<0xdd>(b[c], b[4 + c])];
        let high =
            [_mm512_shuffle_i32x4::<0x88>(b[8 + c], b[12 + c]), _mm512_shuffle_i32x4::<0xdd>(b[8 + c], b[12 + c])];
        for odd in 0..2 {
            a[4 * odd + c] = _mm512_shuffle_i32x4::<0x88>(low[odd], high[odd]);
            a[8 + 4 * odd + c] = _mm512_shuffle_i32x4::<0xdd>(low[odd], high[odd]);
        }
    }
    a
}

/// The table's bytes at the lower 7 bits of every index.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
fn look_up(table: &[Line; 2], indices: __m512i) -> __m512i {
    let [a, b] = [_mm512_castps_si512(load(&table[0])), _mm512_castps_si512(load(&table[1]))];
    _mm512_permutex2var_epi8(a, indices, b)
}

/// Fetches these bytes into the second-level cache.
pub(super) fn ask_for(bytes: &[u8]) {
    for line in bytes.chunks(64) {
        // SAFETY: the instruction is in every x86-64 and may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
}

/// Runs a tile that [`super::run`] has checked.
pub(super) fn run(t: &mut Tile<'_>) {
    // SAFETY: a `Ctx` names this path only where the machine has it, and `super::run` checked the bounds.
    unsafe {
        match (t.encoding, t.pairs) {
            (Encoding::F32, _) => rows::<F32Words>(t),
            (Encoding::Bf16, false) => rows::<Bf16Words>(t),
            (Encoding::E4m3, false) => rows::<E4m3Words>(t),
            (Encoding::Bf16, true) => rows::<Bf16Pairs>(t),
            (Encoding::E4m3, true) => rows::<E4m3Pairs>(t),
        }
    }
}

/// # Safety
/// The machine has the features of [`tile`], and `t.fits()`.
unsafe fn rows<D: Dot>(t: &mut Tile<'_>) {
    // SAFETY: the caller's promise; R is the number of rows.
    unsafe {
        match t.rows {
            1 => panels::<D, 1, 4>(t),
            2 => panels::<D, 2, 4>(t),
            3 => panels::<D, 3, 4>(t),
            4 => panels::<D, 4, 4>(t),
            5 => panels::<D, 5, 4>(t),
            6 => panels::<D, 6, 4>(t),
            7 => panels::<D, 7, 2>(t),
            8 => panels::<D, 8, 2>(t),
            9 => panels::<D, 9, 2>(t),
            10 => panels::<D, 10, 2>(t),
            11 => panels::<D, 11, 2>(t),
            _ => panels::<D, 12, 2>(t),
        }
    }
}

/// # Safety
/// As for [`rows`], and `R` is the number of rows.
unsafe fn panels<D: Dot, const R: usize, const P: usize>(t: &mut Tile<'_>) {
    let mut panel = 0;
    // SAFETY: the panels of each call are below `t.panels`, within which every address fits.
    unsafe {
        while panel + P <= t.panels {
            tile::<D, R, P>(t, panel);
            panel += P;
        }
        while panel < t.panels {
            tile::<D, R, 1>(t, panel);
            panel += 1;
        }
    }
}

/// # Safety
/// The machine has the features, `t.fits()`, `R == t.rows` and `panel + P <= t.panels`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
unsafe fn tile<D: Dot, const R: usize, const P: usize>(t: &mut Tile<'_>, panel: usize) {
    // SAFETY: every address is one of those that `fits` covers; prefetching may name any.
    unsafe {
        let mut x = t.x.as_ptr();
        let mut lines = [t.lines.as_ptr(); P];
        for p in 0..P {
            lines[p] = lines[p].add((panel + p) * t.panel_lines);
        }
        let out = t.acc.as_mut_ptr().add(panel * PANEL);
        let (mut from, mut block) = (0, 0);
        let mut sums = [[_mm512_setzero_ps(); P]; R];
        if D::SCALE != Scale::Sums {
            for r in 0..R {
                for p in 0..P {
                    sums[r][p] = _mm512_loadu_ps(out.add(r * t.acc_stride + p * PANEL));
                }
            }
        }
        while from < t.steps {
            let to = if D::SCALE == Scale::Never { t.steps } else { t.block_end(from) };
            let mut scale = [_mm512_setzero_ps(); P];
            if D::SCALE != Scale::Never {
                for p in 0..P {
                    scale[p] = _mm512_loadu_ps(t.scale.as_ptr().add((panel + p) * t.scale_stride + block * PANEL));
                }
            }
            for _ in from..to {
                let mut w = [[_mm512_setzero_ps(); 4]; P];
                for p in 0..P {
                    _mm_prefetch::<_MM_HINT_T0>(lines[p].wrapping_add(AHEAD).cast());
                    w[p] = D::widen(&*lines[p], scale[p]);
                    lines[p] = lines[p].add(1);
                }
                for word in 0..D::WORDS {
                    for r in 0..R {
                        let x = _mm512_set1_ps(*x.add(r));
                        for p in 0..P {
                            sums[r][p] = D::add(sums[r][p], x, w[p][word]);
                        }
                    }
                    x = x.add(R);
                }
            }
            if D::SCALE == Scale::Sums {
                for r in 0..R {
                    for p in 0..P {
                        let to = out.add(r * t.acc_stride + p * PANEL);
                        _mm512_storeu_ps(to, _mm512_fmadd_ps(sums[r][p], scale[p], _mm512_loadu_ps(to)));
                        sums[r][p] = _mm512_setzero_ps();
                    }
                }
            }
            (from, block) = (to, block + 1);
        }
        if D::SCALE != Scale::Sums {
            for r in 0..R {
                for p in 0..P {
                    _mm512_storeu_ps(out.add(r * t.acc_stride + p * PANEL), sums[r][p]);
                }
            }
        }
    }
}
