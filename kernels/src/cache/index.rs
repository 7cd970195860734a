//! Rows of the lightning indexer: one key. Under fp8 the scales of a page follow all its keys.

use super::*;

/// The encoding of index keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexCodec {
    encoding: KvEncoding,
    dim: usize,
}

impl IndexCodec {
    /// For keys of `dim` numbers.
    pub fn new(encoding: KvEncoding, dim: usize) -> Self {
        Self { encoding, dim }
    }

    /// Numbers of a key.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How numbers are encoded.
    pub(crate) fn encoding(&self) -> KvEncoding {
        self.encoding
    }

    /// The scales of a page's keys, which have one each; nothing is written where there are none.
    pub(crate) fn single_scales(&self, page: &[u8], out: &mut [f32; PAGE_ROWS]) {
        if self.encoding == KvEncoding::Fp8 {
            decode_f32(&page[PAGE_ROWS * self.dim..], out);
        }
    }

    /// The record for [`hadal_types::Store`].
    pub fn record(&self) -> Vec<Field> {
        match self.encoding {
            KvEncoding::F32 => vec![field("key", Encoding::F32, self.dim)],
            KvEncoding::Bf16 => vec![field("key", Encoding::Bf16, self.dim)],
            KvEncoding::Fp8 => {
                vec![field("key", Encoding::E4m3, self.dim), field("scale", Encoding::F32, self.scales())]
            }
        }
    }

    /// How rows lie in a page.
    pub fn placement(&self) -> Placement {
        match self.encoding {
            KvEncoding::F32 | KvEncoding::Bf16 => Placement::PerRow,
            KvEncoding::Fp8 => Placement::FieldsApart,
        }
    }

    /// Bytes of a row, its scales included.
    pub fn row_bytes(&self) -> usize {
        match self.encoding {
            KvEncoding::F32 => self.dim * 4,
            KvEncoding::Bf16 => self.dim * 2,
            KvEncoding::Fp8 => self.dim + self.scales() * 4,
        }
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.row_bytes() * PAGE_ROWS
    }

    /// Writes a key [dim] to a slot of a page.
    pub fn encode(&self, page: &mut [u8], slot: usize, key: &[f32]) {
        match self.encoding {
            KvEncoding::F32 => encode_f32(key, &mut page[slot * self.dim * 4..][..self.dim * 4]),
            KvEncoding::Bf16 => encode_bf16(key, &mut page[slot * self.dim * 2..][..self.dim * 2]),
            KvEncoding::Fp8 => {
                let (keys, scales) = page.split_at_mut(PAGE_ROWS * self.dim);
                let scales = &mut scales[slot * self.scales() * 4..][..self.scales() * 4];
                encode_e4m3(key, &mut keys[slot * self.dim..][..self.dim], scales);
            }
        }
    }

    /// Reads a key [dim] from a slot of a page.
    pub fn decode(&self, page: &[u8], slot: usize, out: &mut [f32]) {
        let out = &mut out[..self.dim];
        match self.encoding {
            KvEncoding::F32 => decode_f32(&page[slot * self.dim * 4..][..self.dim * 4], out),
            KvEncoding::Bf16 => decode_bf16(&page[slot * self.dim * 2..][..self.dim * 2], out),
            KvEncoding::Fp8 => {
                let (keys, scales) = page.split_at(PAGE_ROWS * self.dim);
                let scales = &scales[slot * self.scales() * 4..][..self.scales() * 4];
                decode_e4m3(&keys[slot * self.dim..][..self.dim], scales, out);
            }
        }
    }

    fn scales(&self) -> usize {
        self.dim.div_ceil(SCALE_GROUP)
    }
}
