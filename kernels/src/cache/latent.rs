//! Rows of MLA: the normed latent, and the rotated part of the key. Rows lie one after another in every encoding.

use super::*;

/// The encoding of latent rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentCodec {
    encoding: KvEncoding,
    rank: usize,
    rope: usize,
}

impl LatentCodec {
    /// For latents of `rank` numbers and keys with `rope` rotated ones.
    pub fn new(encoding: KvEncoding, rank: usize, rope: usize) -> Self {
        Self { encoding, rank, rope }
    }

    /// How numbers are stored.
    pub(crate) fn encoding(&self) -> KvEncoding {
        self.encoding
    }

    /// Numbers of the latent.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Rotated numbers.
    pub(crate) fn rope(&self) -> usize {
        self.rope
    }

    /// Numbers of a row, rotated ones included.
    pub fn width(&self) -> usize {
        self.rank + self.rope
    }

    /// The record for [`hadal_types::Store`].
    pub fn record(&self) -> Vec<Field> {
        let plain = |e| vec![field("latent", e, self.rank), field("rope", e, self.rope)];
        match self.encoding {
            KvEncoding::F32 => plain(Encoding::F32),
            KvEncoding::Bf16 | KvEncoding::Int8Index => plain(Encoding::Bf16),
            KvEncoding::Fp8 => vec![
                field("latent", Encoding::E4m3, self.rank),
                field("scale", Encoding::F32, self.scales()),
                field("rope", Encoding::Bf16, self.rope),
            ],
        }
    }

    /// How rows lie in a page.
    pub fn placement(&self) -> Placement {
        Placement::PerRow
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        match self.encoding {
            KvEncoding::F32 => self.width() * 4,
            KvEncoding::Bf16 | KvEncoding::Int8Index => self.width() * 2,
            KvEncoding::Fp8 => self.rank + self.scales() * 4 + self.rope * 2,
        }
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.row_bytes() * PAGE_ROWS
    }

    /// Writes a row, `latent` [rank] and `rope` [rope], to a slot of a page.
    pub fn encode(&self, page: &mut [u8], slot: usize, latent: &[f32], rope: &[f32]) {
        let row = &mut page[slot * self.row_bytes()..][..self.row_bytes()];
        match self.encoding {
            KvEncoding::F32 => {
                let (a, b) = row.split_at_mut(self.rank * 4);
                encode_f32(latent, a);
                encode_f32(rope, b);
            }
            KvEncoding::Bf16 | KvEncoding::Int8Index => {
                let (a, b) = row.split_at_mut(self.rank * 2);
                encode_bf16(latent, a);
                encode_bf16(rope, b);
            }
            KvEncoding::Fp8 => {
                let (codes, rest) = row.split_at_mut(self.rank);
                let (scales, b) = rest.split_at_mut(self.scales() * 4);
                encode_e4m3(latent, codes, scales);
                encode_bf16(rope, b);
            }
        }
    }

    /// Reads a row, [latent | rope], from a slot of a page.
    pub fn decode(&self, page: &[u8], slot: usize, out: &mut [f32]) {
        let row = self.row(page, slot);
        let out = &mut out[..self.width()];
        match self.encoding {
            KvEncoding::F32 => decode_f32(row, out),
            KvEncoding::Bf16 | KvEncoding::Int8Index => decode_bf16(row, out),
            KvEncoding::Fp8 => {
                let (codes, rest) = row.split_at(self.rank);
                let (scales, rope) = rest.split_at(self.scales() * 4);
                let (latent, rotated) = out.split_at_mut(self.rank);
                decode_e4m3(codes, scales, latent);
                decode_bf16(rope, rotated);
            }
        }
    }

    /// The bytes of a row.
    pub(crate) fn row<'a>(&self, page: &'a [u8], slot: usize) -> &'a [u8] {
        &page[slot * self.row_bytes()..][..self.row_bytes()]
    }

    fn scales(&self) -> usize {
        self.rank.div_ceil(SCALE_GROUP)
    }
}
