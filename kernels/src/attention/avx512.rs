//! Rows as lines of K-pairs, and the softmax of a tile, on AVX-512.
//!
//! 16 keys × 32 numbers of the latent are loaded once, as bf16, and leave twice: transposed, as lines of 16 keys × 2
//! numbers for the scores, and interleaved, as lines of 16 outputs × 2 keys for the values.
#![allow(unsafe_code, reason = "vector instructions and unchecked addressing; the safe entries check both")]
#![allow(clippy::needless_range_loop, reason = "values stay in registers only if each index is known to the compiler")]

use std::arch::x86_64::*;
use std::mem::transmute;

use hadal_types::KvEncoding;

use super::TILE;
use crate::cache::{LatentCodec, SCALE_GROUP};
use crate::math;
use crate::panel::{Line, PANEL, TILE_ROWS, e4m3_halves, transpose};

/// Numbers of a row that fill a vector as bf16.
const CHUNK: usize = 32;

/// Turns the stored rows of a tile into lines.
///
/// `keys` is [4 panels of keys, pairs]: the pairs of the latent, then those of the rotated part, each padded to an even
/// number. `values` is [panels of the latent, 32 pairs of keys]. Keys that are missing in a pair or panel are zeros.
pub(crate) fn lines_of(codec: &LatentCodec, rows: &[&[u8]], keys: &mut [Line], values: &mut [Line]) {
    let pairs = codec.rank().div_ceil(2) + codec.rope().div_ceil(2);
    let panels = rows.len().div_ceil(PANEL);
    assert!(rows.len() <= TILE && rows.iter().all(|r| r.len() >= codec.row_bytes()));
    assert!(keys.len() >= panels * pairs && values.len() >= codec.rank().div_ceil(PANEL) * TILE / 2);
    for (panel, rows) in rows.chunks(PANEL).enumerate() {
        let mut at = [None; PANEL];
        at.iter_mut().zip(rows).for_each(|(at, row)| *at = Some(row.as_ptr()));
        let (keys, values) = (&mut keys[panel * pairs..], &mut values[panel * PANEL / 2..]);
        // SAFETY: a `Ctx` of this path exists only where the machine has it; the rows are whole, and the lines of a
        // panel of keys and of all panels of values are there.
        unsafe {
            match codec.encoding() {
                KvEncoding::Bf16 | KvEncoding::Int8Index => turn::<false>(codec, &at, keys, values),
                KvEncoding::Fp8 => turn::<true>(codec, &at, keys, values),
                KvEncoding::F32 => {}
            }
        }
    }
}

/// Rounds rows of f32, [rows, k] with `stride` from row to row, to pairs of bf16 as a tile takes them,
/// `words[pair × rows + row]`. An odd last number is paired with zero.
pub(crate) fn lay_out(x: &[f32], stride: usize, [rows, k]: [usize; 2], words: &mut [f32]) {
    if rows == 0 || k == 0 {
        return;
    }
    assert!(rows <= TILE_ROWS && x.len() >= (rows - 1) * stride + k && words.len() >= k.div_ceil(2) * rows);
    // SAFETY: as above; rows and words are there.
    unsafe { interleave(x, stride, [rows, k], words) }
}

/// Rounds two neighbouring rows of f32 each, [rows, columns] with `stride` from row to row, to the pairs of a line:
/// `lines[panel of columns × panel_lines + pair of rows]`. An odd last row is paired with zero.
pub(crate) fn pair_up(x: &[f32], stride: usize, [rows, columns]: [usize; 2], panel_lines: usize, lines: &mut [Line]) {
    if rows == 0 || columns == 0 {
        return;
    }
    let panels = columns.div_ceil(PANEL);
    assert!(x.len() >= (rows - 1) * stride + columns && lines.len() >= (panels - 1) * panel_lines + rows.div_ceil(2));
    for panel in 0..panels {
        let mask = mask16(columns - panel * PANEL);
        for (pair, line) in lines[panel * panel_lines..][..rows.div_ceil(2)].iter_mut().enumerate() {
            let row = |row: usize| x.get(row * stride + panel * PANEL..).filter(|_| row < rows).map(|x| x.as_ptr());
            // SAFETY: as above; the mask covers the columns that a row has.
            unsafe { put_pair([row(2 * pair), row(2 * pair + 1)], mask, line) };
        }
    }
}

/// `exp(s - max)` of every score, with the bits of [`crate::math::exp`].
pub(super) fn exponentials(scores: &mut [f32], max: f32) {
    // SAFETY: as above.
    unsafe { exp_all(scores, max) }
}

/// The running softmax of some rows of scores.
pub(super) struct Softmax<'a> {
    /// Scores, [rows, 64]; then the weights rounded to bf16, zero behind the last key.
    pub(super) scores: &'a mut [f32],
    /// Maximum, and the factor of what was added up before, [rows].
    pub(super) max: &'a mut [f32],
    pub(super) factors: &'a mut [f32],
    /// Sums of the rounded weights in 16 lanes, [rows, 16].
    pub(super) lanes: &'a mut [[f32; PANEL]],
}

impl Softmax<'_> {
    /// Takes in the first `count` scores of every row. A lane takes every 16th of the 64 weights, p0 to p3:
    /// `lane = lane × factor + ((p0 + p1) + (p2 + p3))`.
    pub(super) fn weigh(&mut self, count: usize, scale: f32) {
        let rows = self.max.len();
        assert!(count <= TILE && self.scores.len() >= rows * TILE);
        assert!(self.factors.len() == rows && self.lanes.len() == rows);
        // SAFETY: as above; every row has 64 scores.
        unsafe {
            maxima(self, count, scale);
            weights(self, count, scale);
        }
    }
}

/// Multiplies each row of sums, [rows, width], by its factor. `width` is a multiple of 16.
pub(super) fn rescale(sums: &mut [f32], width: usize, factors: &[f32]) {
    assert!(width.is_multiple_of(PANEL) && sums.len() >= factors.len() * width);
    for (row, &factor) in factors.iter().enumerate() {
        if factor != 1.0 {
            // SAFETY: as above; the row is there.
            unsafe { multiply(&mut sums[row * width..][..width], factor) }
        }
    }
}

/// The first `count` of 16.
fn mask16(count: usize) -> __mmask16 {
    if count >= 16 { u16::MAX } else { (1 << count) - 1 }
}

/// The first `count` of 32.
fn mask32(count: usize) -> __mmask32 {
    if count >= 32 { u32::MAX } else { (1 << count) - 1 }
}

/// # Safety
/// The machine has the features; the rows of `at` have all their bytes; `keys` has the lines of a panel of keys, and
/// `values` those from this panel's first pair to its last one in the last panel of the latent.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
unsafe fn turn<const FP8: bool>(
    codec: &LatentCodec,
    at: &[Option<*const u8>; PANEL],
    keys: &mut [Line],
    values: &mut [Line],
) {
    let (rank, rope) = (codec.rank(), codec.rope());
    let rope_at = codec.row_bytes() - 2 * rope;
    // SAFETY: the masks keep within a row what is loaded, and within the lines what is stored.
    unsafe {
        for chunk in 0..rank.div_ceil(CHUNK) {
            let left = rank - chunk * CHUNK;
            let mut rows = [_mm512_setzero_si512(); PANEL];
            for (row, at) in rows.iter_mut().zip(at) {
                if let Some(at) = *at {
                    *row = if FP8 { e4m3(at, rank, chunk, mask32(left)) } else { bf16(at, chunk, mask32(left)) };
                }
            }
            put_values(&rows, &mut values[2 * chunk * TILE / 2..], left > PANEL);
            put_keys(rows, &mut keys[chunk * PANEL..], left.div_ceil(2));
        }
        let keys = &mut keys[rank.div_ceil(2)..];
        for chunk in 0..rope.div_ceil(CHUNK) {
            let left = rope - chunk * CHUNK;
            let mut rows = [_mm512_setzero_si512(); PANEL];
            for (row, at) in rows.iter_mut().zip(at) {
                if let Some(at) = *at {
                    *row = bf16(at.add(rope_at), chunk, mask32(left));
                }
            }
            put_keys(rows, &mut keys[chunk * PANEL..], left.div_ceil(2));
        }
    }
}

/// A chunk of numbers that are stored as bf16.
///
/// # Safety
/// The machine has the features, and the numbers of the mask are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
unsafe fn bf16(row: *const u8, chunk: usize, mask: __mmask32) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_maskz_loadu_epi16(mask, row.add(chunk * CHUNK * 2).cast()) }
}

/// A chunk of numbers that are stored as e4m3: code × scale, rounded to f32 and then to bf16.
///
/// # Safety
/// The machine has the features, the codes of the mask are there, and behind the row's `rank` codes their scales.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
unsafe fn e4m3(row: *const u8, rank: usize, chunk: usize, mask: __mmask32) -> __m512i {
    // SAFETY: the caller's promise; bf16 are bits like any others.
    unsafe {
        let halves = e4m3_halves(_mm256_maskz_loadu_epi8(mask, row.add(chunk * CHUNK).cast()));
        let scale = row.add(rank + chunk * CHUNK / SCALE_GROUP * 4).cast::<f32>().read_unaligned();
        let low = widen(_mm512_castsi512_si256(halves), scale);
        let high = widen(_mm512_extracti64x4_epi64::<1>(halves), scale);
        transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
    }
}

/// 16 bf16 as f32, times a scale.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
fn widen(halves: __m256i, scale: f32) -> __m512 {
    let bits = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves));
    _mm512_mul_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(scale))
}

/// Puts a chunk of 16 rows into the lines of one or two panels of outputs, which are 32 lines each.
///
/// # Safety
/// The machine has the features, and the lines are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
unsafe fn put_values(rows: &[__m512i; PANEL], values: &mut [Line], both: bool) {
    let at = values.as_mut_ptr();
    for pair in 0..PANEL / 2 {
        let (a, b) = (rows[2 * pair], rows[2 * pair + 1]);
        // SAFETY: the caller's promise.
        unsafe {
            let low = _mm512_permutex2var_epi16(a, transmute::<[u16; 32], __m512i>(INTERLEAVED[0]), b);
            _mm512_storeu_si512(at.add(pair).cast(), low);
            if both {
                let high = _mm512_permutex2var_epi16(a, transmute::<[u16; 32], __m512i>(INTERLEAVED[1]), b);
                _mm512_storeu_si512(at.add(TILE / 2 + pair).cast(), high);
            }
        }
    }
}

/// Where the halves of the lower and of the upper line of two rows come from.
static INTERLEAVED: [[u16; 32]; 2] = interleaved();

const fn interleaved() -> [[u16; 32]; 2] {
    let mut from = [[0; 32]; 2];
    let mut i = 0;
    while i < 64 {
        from[i / 32][i % 32] = (i / 2 + i % 2 * 32) as u16;
        i += 1;
    }
    from
}

/// Puts a chunk of 16 rows into the lines of its `pairs` pairs of numbers, of which it takes up to 16.
///
/// # Safety
/// The machine has the features, and the lines are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
unsafe fn put_keys(rows: [__m512i; PANEL], keys: &mut [Line], pairs: usize) {
    let columns = transpose(rows);
    for pair in 0..PANEL {
        if pair < pairs {
            // SAFETY: the caller's promise.
            unsafe { _mm512_storeu_si512(keys.as_mut_ptr().add(pair).cast(), columns[pair]) };
        }
    }
}

/// # Safety
/// The machine has the features, and rows and words are as [`lay_out`] checks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
unsafe fn interleave(x: &[f32], stride: usize, [rows, k]: [usize; 2], words: &mut [f32]) {
    // SAFETY: the masks keep within a row what is loaded, and within the words what is stored.
    unsafe {
        for chunk in 0..k.div_ceil(CHUNK) {
            let mask = mask32(k - chunk * CHUNK);
            let mut pairs = [_mm512_setzero_si512(); PANEL];
            for row in 0..TILE_ROWS {
                if row < rows {
                    let from = x.as_ptr().add(row * stride + chunk * CHUNK);
                    let low = _mm512_maskz_loadu_ps(mask as __mmask16, from);
                    let high = _mm512_maskz_loadu_ps((mask >> 16) as __mmask16, from.wrapping_add(PANEL));
                    pairs[row] = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                }
            }
            let columns = transpose(pairs);
            let left = (k - chunk * CHUNK).div_ceil(2);
            for pair in 0..PANEL {
                if pair < left {
                    let to = words.as_mut_ptr().add((chunk * PANEL + pair) * rows);
                    _mm512_mask_storeu_epi32(to.cast(), mask16(rows), columns[pair]);
                }
            }
        }
    }
}

/// # Safety
/// The machine has the features, and the numbers of the mask are there in both rows, of which the second may be none.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
unsafe fn put_pair(rows: [Option<*const f32>; 2], mask: __mmask16, line: &mut Line) {
    let mut halves = [_mm512_setzero_si512(); 2];
    for (half, row) in halves.iter_mut().zip(rows) {
        if let Some(row) = row {
            // SAFETY: the caller's promise; bf16 are bits like any others.
            let bf16 = unsafe { transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, row))) };
            *half = _mm512_cvtepu16_epi32(bf16);
        }
    }
    let words = _mm512_or_si512(halves[0], _mm512_slli_epi32::<16>(halves[1]));
    // SAFETY: a line is 64 bytes.
    unsafe { _mm512_storeu_si512(line.0.as_mut_ptr().cast(), words) };
}

/// # Safety
/// The machine has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
unsafe fn exp_all(scores: &mut [f32], max: f32) {
    for scores in scores.chunks_mut(PANEL) {
        let (at, mask) = (scores.as_mut_ptr(), mask16(scores.len()));
        // SAFETY: the mask covers the scores that there are.
        unsafe {
            let less = _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, at), _mm512_set1_ps(max));
            _mm512_mask_storeu_ps(at, mask, exp(less));
        }
    }
}

/// The maximum of every row and the factor that follows. A NaN is not larger than anything.
///
/// # Safety
/// The machine has the features, and every row is there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
unsafe fn maxima(s: &mut Softmax<'_>, count: usize, scale: f32) {
    let scale = _mm512_set1_ps(scale);
    for first in (0..s.max.len()).step_by(PANEL) {
        let rows = (s.max.len() - first).min(PANEL);
        let mut largest = [f32::NEG_INFINITY; PANEL];
        for row in 0..rows {
            let mut max = _mm512_set1_ps(f32::NEG_INFINITY);
            for part in 0..TILE / PANEL {
                let mask = mask16(count.saturating_sub(part * PANEL));
                // SAFETY: the row has 64 scores.
                let scores = unsafe { _mm512_loadu_ps(s.scores.as_ptr().add((first + row) * TILE + part * PANEL)) };
                // Of a NaN and a number, the instruction gives the second.
                max = _mm512_mask_max_ps(max, mask, _mm512_mul_ps(scores, scale), max);
            }
            largest[row] = _mm512_reduce_max_ps(max);
        }
        // SAFETY: the mask covers the rows that there are.
        unsafe {
            let mask = mask16(rows);
            let before = _mm512_maskz_loadu_ps(mask, s.max.as_ptr().add(first));
            let max = _mm512_max_ps(_mm512_loadu_ps(largest.as_ptr()), before);
            let same = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(max, before);
            let factor = _mm512_mask_mov_ps(exp(_mm512_sub_ps(before, max)), same, _mm512_set1_ps(1.0));
            _mm512_mask_storeu_ps(s.max.as_mut_ptr().add(first), mask, max);
            _mm512_mask_storeu_ps(s.factors.as_mut_ptr().add(first), mask, factor);
        }
    }
}

/// Scores become weights, and lanes add them up.
///
/// # Safety
/// The machine has the features, and every row is there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
unsafe fn weights(s: &mut Softmax<'_>, count: usize, scale: f32) {
    let scale = _mm512_set1_ps(scale);
    for row in 0..s.max.len() {
        let max = _mm512_set1_ps(s.max[row]);
        let mut p = [_mm512_setzero_ps(); TILE / PANEL];
        // SAFETY: the row has 64 scores and 16 lanes.
        unsafe {
            let at = s.scores.as_mut_ptr().add(row * TILE);
            for part in 0..TILE / PANEL {
                let score = _mm512_mul_ps(_mm512_loadu_ps(at.add(part * PANEL)), scale);
                let mask = mask16(count.saturating_sub(part * PANEL));
                p[part] = _mm512_maskz_mov_ps(mask, round(exp(_mm512_sub_ps(score, max))));
                _mm512_storeu_ps(at.add(part * PANEL), p[part]);
            }
            let sum = _mm512_add_ps(_mm512_add_ps(p[0], p[1]), _mm512_add_ps(p[2], p[3]));
            let lanes = s.lanes[row].as_mut_ptr();
            let before = _mm512_mul_ps(_mm512_loadu_ps(lanes), _mm512_set1_ps(s.factors[row]));
            _mm512_storeu_ps(lanes, _mm512_add_ps(before, sum));
        }
    }
}

/// Rounded to bf16; subnormal numbers become zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
fn round(x: __m512) -> __m512 {
    // SAFETY: bf16 are bits like any others.
    let halves = unsafe { transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)) };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
}

/// [`crate::math::exp`], operation by operation; `scalef` rounds once, as its two factors do.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx2,fma")]
fn exp(x: __m512) -> __m512 {
    let constant = |c: f32| _mm512_set1_ps(c);
    // Of a NaN and a number, the instructions give the second.
    let x = _mm512_min_ps(constant(89.0), _mm512_max_ps(constant(-104.0), x));
    let shift = constant(math::ROUND_F32);
    let n = _mm512_sub_ps(_mm512_add_ps(_mm512_mul_ps(x, constant(std::f32::consts::LOG2_E)), shift), shift);
    let r = _mm512_sub_ps(x, _mm512_mul_ps(n, constant(math::LN2_HIGH)));
    let r = _mm512_sub_ps(r, _mm512_mul_ps(n, constant(math::LN2_LOW)));
    let mut p = constant(math::EXP[0]);
    for &c in &math::EXP[1..] {
        p = _mm512_add_ps(_mm512_mul_ps(p, r), constant(c));
    }
    p = _mm512_add_ps(_mm512_mul_ps(p, _mm512_mul_ps(r, r)), r);
    _mm512_scalef_ps(_mm512_add_ps(p, constant(1.0)), n)
}

/// # Safety
/// The machine has the features, and there is a multiple of 16 numbers.
#[target_feature(enable = "avx512f")]
unsafe fn multiply(x: &mut [f32], factor: f32) {
    let factor = _mm512_set1_ps(factor);
    for x in x.chunks_exact_mut(PANEL) {
        // SAFETY: 16 numbers.
        unsafe { _mm512_storeu_ps(x.as_mut_ptr(), _mm512_mul_ps(_mm512_loadu_ps(x.as_ptr()), factor)) };
    }
}
