//! Cache rows: how latents and index keys are encoded, and where the row of a position lies.
//!
//! A page holds 64 consecutive positions. Position `p` of a sequence is slot `p % 64` of page `pages[p / 64]`.
//!
//! ```text
//! latent  f32, bf16   64 × [rank numbers | rope numbers]                              int8-index: as bf16
//!         fp8         64 × [rank e4m3 | ceil(rank / 128) f32 scales | rope bf16]      656 B for 512 and 64 (FlashMLA)
//! index   f32, bf16   64 × [dim numbers]
//!         fp8         64 × [dim e4m3], then 64 × [ceil(dim / 128) f32 scales]         8,448 B for 128 (DeepGEMM)
//!         int8-index  64 × [dim integers], then 64 × [f32 scale]                      8,448 B for 128
//! ```
//!
//! A scale of fp8 is the largest magnitude of its 128 numbers / 448, not rounded, and at least the smallest normal f32;
//! of int8, that of the whole key / 127. Index keys are not rotated (no Hadamard matrix). A NaN stays one through every
//! encoding, and an infinity becomes one under fp8; an int8 key that has either is all NaN, by its scale. So damaged
//! numbers end the request rather than pass for values.

use hadal_types::{BLOCK_TOKENS, Encoding, Field, KvEncoding, Placement};

use crate::number::{E4M3_MAX, bf16_to_f32, e4m3_to_f32, f32_to_bf16, f32_to_e4m3};

mod index;
mod latent;

pub use index::IndexCodec;
pub use latent::LatentCodec;

/// Rows of a page.
pub const PAGE_ROWS: usize = BLOCK_TOKENS as usize;

/// Numbers that share a scale.
pub(crate) const SCALE_GROUP: usize = 128;

/// The largest integer of an int8 key.
const INT8_MAX: f32 = 127.0;

/// The pages of one sequence in the pool of one store.
#[derive(Clone, Copy, Debug)]
pub struct Paged<'a> {
    bytes: &'a [u8],
    page_bytes: usize,
    pages: &'a [u32],
}

/// A page list that points beyond its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("page {page} is beyond the pool of {pages} pages")]
pub struct PagedError {
    /// The page.
    pub page: u32,
    /// Pages of the pool.
    pub pages: usize,
}

impl<'a> Paged<'a> {
    /// `bytes` is the whole pool of one store, `pages` the sequence's page list.
    ///
    /// # Errors
    /// A page that the pool does not have.
    pub fn new(bytes: &'a [u8], page_bytes: usize, pages: &'a [u32]) -> Result<Self, PagedError> {
        let count = bytes.len() / page_bytes.max(1);
        match pages.iter().find(|&&p| p as usize >= count) {
            Some(&page) => Err(PagedError { page, pages: count }),
            None => Ok(Self { bytes, page_bytes, pages }),
        }
    }

    /// Positions that the page list covers.
    pub fn positions(&self) -> usize {
        self.pages.len() * PAGE_ROWS
    }

    /// The page that holds `position`.
    pub(crate) fn page_of(&self, position: usize) -> &'a [u8] {
        let page = self.pages[position / PAGE_ROWS] as usize;
        &self.bytes[page * self.page_bytes..][..self.page_bytes]
    }
}

fn field(name: &str, encoding: Encoding, count: usize) -> Field {
    Field { name: name.to_owned(), encoding, count: count as u32 }
}

/// The scale that makes `largest_code` of the largest magnitude.
fn scale_of(group: &[f32], largest_code: f32) -> f32 {
    // A NaN is not larger than anything and so leaves the scale alone; it is encoded as NaN itself.
    let largest = group.iter().fold(0.0f32, |m, v| if v.abs() > m { v.abs() } else { m });
    let scale = largest / largest_code;
    if scale < f32::MIN_POSITIVE { f32::MIN_POSITIVE } else { scale }
}

fn encode_f32(values: &[f32], out: &mut [u8]) {
    out.chunks_exact_mut(4).zip(values).for_each(|(o, v)| o.copy_from_slice(&v.to_le_bytes()));
}

fn encode_bf16(values: &[f32], out: &mut [u8]) {
    out.chunks_exact_mut(2).zip(values).for_each(|(o, &v)| o.copy_from_slice(&f32_to_bf16(v).to_le_bytes()));
}

fn encode_e4m3(values: &[f32], out: &mut [u8], scales: &mut [u8]) {
    let groups = values.chunks(SCALE_GROUP).zip(out.chunks_mut(SCALE_GROUP));
    for ((values, out), to) in groups.zip(scales.chunks_exact_mut(4)) {
        let scale = scale_of(values, E4M3_MAX);
        out.iter_mut().zip(values).for_each(|(o, &v)| *o = f32_to_e4m3(v / scale));
        to.copy_from_slice(&scale.to_le_bytes());
    }
}

/// The scale of numbers that become integers of −127 to 127; NaN where one is not finite, as no integer could say so.
pub(crate) fn int8_scale(values: &[f32]) -> f32 {
    if values.iter().all(|v| v.is_finite()) { scale_of(values, INT8_MAX) } else { f32::NAN }
}

/// A number as such an integer, rounded to even. Of no meaning where the scale is NaN.
#[inline]
pub(crate) fn int8_code(value: f32, scale: f32) -> i8 {
    // 1.5 × 2^23: what is added to it is an integer in the low bits. A quotient exceeds 127 by its rounding, if at all.
    const ROUND: f32 = 12_582_912.0;
    (value / scale + ROUND).to_bits() as i8
}

fn encode_int8(values: &[f32], out: &mut [u8], to: &mut [u8]) {
    let scale = int8_scale(values);
    out.iter_mut().zip(values).for_each(|(o, &v)| *o = if scale.is_nan() { 0 } else { int8_code(v, scale) as u8 });
    to.copy_from_slice(&scale.to_le_bytes());
}

fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    bytes.chunks_exact(4).zip(out).for_each(|(b, o)| *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
}

fn decode_int8(bytes: &[u8], scale: f32, out: &mut [f32]) {
    out.iter_mut().zip(bytes).for_each(|(o, &b)| *o = f32::from(b as i8) * scale);
}

fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    bytes.chunks_exact(2).zip(out).for_each(|(b, o)| *o = bf16_to_f32(u16::from_le_bytes([b[0], b[1]])));
}

fn decode_e4m3(bytes: &[u8], scales: &[u8], out: &mut [f32]) {
    let groups = bytes.chunks(SCALE_GROUP).zip(out.chunks_mut(SCALE_GROUP));
    for ((bytes, out), s) in groups.zip(scales.chunks_exact(4)) {
        let scale = f32::from_le_bytes([s[0], s[1], s[2], s[3]]);
        out.iter_mut().zip(bytes).for_each(|(o, &b)| *o = e4m3_to_f32(b) * scale);
    }
}

#[cfg(test)]
mod tests;
