//! Rows of the lightning indexer: one key. Under fp8 and int8 the scales of a page follow all its keys.

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
        if matches!(self.encoding, KvEncoding::Fp8 | KvEncoding::Int8Index) {
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
            KvEncoding::Int8Index => vec![field("key", Encoding::I8, self.dim), field("scale", Encoding::F32, 1)],
        }
    }

    /// How rows lie in a page.
    pub fn placement(&self) -> Placement {
        match self.encoding {
            KvEncoding::F32 | KvEncoding::Bf16 => Placement::PerRow,
            KvEncoding::Fp8 | KvEncoding::Int8Index => Placement::FieldsApart,
        }
    }

    /// Bytes of a row, its scales included.
    pub fn row_bytes(&self) -> usize {
        match self.encoding {
            KvEncoding::F32 => self.dim * 4,
            KvEncoding::Bf16 => self.dim * 2,
            KvEncoding::Fp8 => self.dim + self.scales() * 4,
            KvEncoding::Int8Index => self.dim + 4,
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
            KvEncoding::Int8Index => {
                let (keys, scales) = page.split_at_mut(PAGE_ROWS * self.dim);
                encode_int8(key, &mut keys[slot * self.dim..][..self.dim], &mut scales[slot * 4..][..4]);
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
            KvEncoding::Int8Index => {
                let (keys, scales) = page.split_at(PAGE_ROWS * self.dim);
                let mut scale = [0.0];
                decode_f32(&scales[slot * 4..][..4], &mut scale);
                decode_int8(&keys[slot * self.dim..][..self.dim], scale[0], out);
            }
        }
    }

    /// Reads the integers of an int8 key [dim].
    pub(crate) fn integers(&self, page: &[u8], slot: usize, out: &mut [f32]) {
        decode_int8(&page[slot * self.dim..][..self.dim], 1.0, out);
    }

    /// Scales of a key of fp8.
    fn scales(&self) -> usize {
        self.dim.div_ceil(SCALE_GROUP)
    }
}
