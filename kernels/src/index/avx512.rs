//! Pages of index keys as lines, a key an output, and the sums of heads over them.
//!
//! Turning a page costs some percent of the products of 64 heads with it, so that pages keep rows that can be written
//! and moved one by one.
#![allow(unsafe_code, reason = "vector instructions and unchecked addressing; the safe entries check both")]
#![allow(clippy::needless_range_loop, reason = "values stay in registers only if each index is known to the compiler")]

use std::arch::x86_64::*;
use std::mem::transmute;

use super::lines::{Kind, WORD_LINES};
use crate::cache::PAGE_ROWS;
use crate::panel::{Line, PANEL, ask_for, e4m3_halves, transpose};

/// Heads whose sums fit the registers, with those of 64 keys each.
const GROUP: usize = 6;

/// One query and one page.
pub(super) struct Heads<'a> {
    /// [words, 4].
    pub(super) lines: &'a [Line],
    /// [heads, words].
    pub(super) x: &'a [f32],
    /// Of the heads; and the bits of what their products begin at.
    pub(super) weights: &'a [f32],
    pub(super) starts: &'a [f32],
}

impl Heads<'_> {
    fn words(&self) -> usize {
        self.lines.len() / WORD_LINES
    }
}

/// Turns a page of keys [64, dim] into lines [words, 4].
pub(super) fn turn(kind: Kind, page: &[u8], dim: usize, lines: &mut [Line]) {
    let words = kind.words(dim);
    let row_bytes = if kind == Kind::Bf16 { dim * 2 } else { dim };
    // What is read of the last key: integers fill up 64, of which zeros of the query make nothing.
    let read = if kind == Kind::Int8 { words * 4 } else { row_bytes };
    assert!(words.is_multiple_of(PANEL) && lines.len() >= words * WORD_LINES);
    assert!(page.len() >= (PAGE_ROWS - 1) * row_bytes + read);
    // SAFETY: a `Ctx` of this path exists only where the machine has it; by the checks, keys and lines are all there.
    unsafe {
        match kind {
            Kind::Bf16 => turn_page::<Bf16>(page, row_bytes, words, lines),
            Kind::E4m3 => turn_page::<E4m3>(page, row_bytes, words, lines),
            Kind::Int8 => turn_page::<Int8>(page, row_bytes, words, lines),
        }
    }
}

/// `sums[key] += weights[head] × relu(head · key)`, heads ascending, each operation rounded. Meanwhile `next` is asked
/// for.
pub(super) fn sums(kind: Kind, heads: &Heads<'_>, next: &[u8]) -> [f32; PAGE_ROWS] {
    let count = heads.weights.len();
    assert!(heads.lines.len().is_multiple_of(WORD_LINES) && heads.starts.len() == count);
    assert!(heads.x.len() >= count * heads.words());
    // SAFETY: as above; every head has its words, weight and start.
    unsafe {
        match kind {
            Kind::Bf16 | Kind::E4m3 => groups::<Pairs>(heads, next),
            Kind::Int8 => groups::<Integers>(heads, next),
        }
    }
}

/// How 16 words of a key are read.
trait Words {
    /// Bytes of the page.
    const BYTES: usize;
    /// # Safety
    /// The machine has the features, and so many bytes are readable.
    unsafe fn load(from: *const u8) -> __m512i;
}

struct Bf16;
struct E4m3;
struct Int8;

impl Words for Bf16 {
    const BYTES: usize = 64;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx512vbmi,avx2,fma")]
    unsafe fn load(from: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
}

impl Words for E4m3 {
    const BYTES: usize = 32;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx512vbmi,avx2,fma")]
    unsafe fn load(from: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { e4m3_halves(_mm256_loadu_si256(from.cast())) }
    }
}

impl Words for Int8 {
    const BYTES: usize = 64;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx512vbmi,avx2,fma")]
    unsafe fn load(from: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_xor_si512(_mm512_loadu_si512(from.cast()), _mm512_set1_epi8(i8::MIN)) }
    }
}

/// # Safety
/// The machine has the features, and the sizes are those that the caller checks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx512vbmi,avx2,fma")]
unsafe fn turn_page<W: Words>(page: &[u8], row_bytes: usize, words: usize, lines: &mut [Line]) {
    for panel in 0..WORD_LINES {
        for chunk in 0..words / PANEL {
            let mut rows = [_mm512_setzero_si512(); PANEL];
            for row in 0..PANEL {
                // SAFETY: the chunk lies in the key, or behind the last one, within what the caller checks.
                rows[row] = unsafe { W::load(page.as_ptr().add((panel * PANEL + row) * row_bytes + chunk * W::BYTES)) };
            }
            let columns = transpose(rows);
            for word in 0..PANEL {
                // SAFETY: a chunk has 16 words, each of them a line of this panel.
                unsafe {
                    let line = lines.as_mut_ptr().add((chunk * PANEL + word) * WORD_LINES + panel);
                    _mm512_store_si512(line.cast(), columns[word]);
                }
            }
        }
    }
}

/// What a word of a key and one of a query give.
trait Dot {
    /// # Safety
    /// The machine has the features of [`tile`].
    unsafe fn add(sum: __m512i, keys: __m512i, x: __m512i) -> __m512i;
    /// A sum, or 0 if it is negative; NaN if it is that.
    ///
    /// # Safety
    /// As for `add`.
    unsafe fn positive(sum: __m512i) -> __m512;
}

struct Pairs;
struct Integers;

impl Dot for Pairs {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx512vbmi,avx2,fma")]
    unsafe fn add(sum: __m512i, keys: __m512i, x: __m512i) -> __m512i {
        // SAFETY: every bit pattern is one of bf16.
        let [keys, x] = unsafe { [transmute::<__m512i, __m512bh>(keys), transmute::<__m512i, __m512bh>(x)] };
        _mm512_castps_si512(_mm512_dpbf16_ps(_mm512_castsi512_ps(sum), x, keys))
    }
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx512vbmi,avx2,fma")]
    unsafe fn positive(sum: __m512i) -> __m512 {
        // Of a NaN and a number, the instruction gives the second.
        _mm512_max_ps(_mm512_setzero_ps(), _mm512_castsi512_ps(sum))
    }
}

impl Dot for Integers {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx512vbmi,avx2,fma")]
    unsafe fn add(sum: __m512i, keys: __m512i, x: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(sum, keys, x)
    }
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx512vbmi,avx2,fma")]
    unsafe fn positive(sum: __m512i) -> __m512 {
        _mm512_cvtepi32_ps(_mm512_max_epi32(_mm512_setzero_si512(), sum))
    }
}

/// # Safety
/// The machine has the features, and the sizes are those that [`sums`] checks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx512vbmi,avx2,fma")]
unsafe fn groups<D: Dot>(heads: &Heads<'_>, next: &[u8]) -> [f32; PAGE_ROWS] {
    let mut sums = [0.0; PAGE_ROWS];
    let (mut first, mut left) = (0, heads.weights.len().div_ceil(GROUP));
    let mut parts = next.chunks(next.len().div_ceil(left.max(1)).max(1));
    while left > 0 {
        // Of nearly equal size.
        let count = (heads.weights.len() - first).div_ceil(left);
        // SAFETY: the heads from `first` on are at least `count`, which is 1 to 6.
        unsafe {
            match count {
                1 => tile::<D, 1>(heads, first, &mut sums),
                2 => tile::<D, 2>(heads, first, &mut sums),
                3 => tile::<D, 3>(heads, first, &mut sums),
                4 => tile::<D, 4>(heads, first, &mut sums),
                5 => tile::<D, 5>(heads, first, &mut sums),
                _ => tile::<D, 6>(heads, first, &mut sums),
            }
        }
        ask_for(parts.next().unwrap_or_default());
        (first, left) = (first + count, left - 1);
    }
    sums
}

/// # Safety
/// The machine has the features, the sizes are those that [`sums`] checks, and there are `first + R` heads.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx512vbmi,avx2,fma")]
unsafe fn tile<D: Dot, const R: usize>(heads: &Heads<'_>, first: usize, sums: &mut [f32; PAGE_ROWS]) {
    let words = heads.words();
    // SAFETY: every address lies among the lines, or in the words, weights or starts of R heads from `first` on.
    unsafe {
        let (mut x, mut dots) = ([heads.x.as_ptr(); R], [[_mm512_setzero_si512(); WORD_LINES]; R]);
        for r in 0..R {
            x[r] = x[r].add((first + r) * words);
            dots[r] = [_mm512_set1_epi32((*heads.starts.as_ptr().add(first + r)).to_bits() as i32); WORD_LINES];
        }
        let mut line = heads.lines.as_ptr();
        for word in 0..words {
            let mut keys = [_mm512_setzero_si512(); WORD_LINES];
            for p in 0..WORD_LINES {
                keys[p] = _mm512_load_si512(line.add(p).cast());
            }
            line = line.add(WORD_LINES);
            for r in 0..R {
                let x = _mm512_set1_epi32((*x[r].add(word)).to_bits() as i32);
                for p in 0..WORD_LINES {
                    dots[r][p] = D::add(dots[r][p], keys[p], x);
                }
            }
        }
        for p in 0..WORD_LINES {
            let to = sums.as_mut_ptr().add(p * PANEL);
            let mut sum = _mm512_loadu_ps(to);
            for r in 0..R {
                let weight = _mm512_set1_ps(*heads.weights.as_ptr().add(first + r));
                sum = _mm512_add_ps(sum, _mm512_mul_ps(weight, D::positive(dots[r][p])));
            }
            _mm512_storeu_ps(to, sum);
        }
    }
}
