//! The scores of a tile that exceed a floor, on AVX-512.
#![allow(unsafe_code, reason = "vector instructions and unchecked addressing; the safe entry checks both")]

use std::arch::x86_64::*;

use super::{Key, TILE};

/// Scores of a vector.
const LANES: usize = 16;

/// As [`super::keep`].
pub(super) fn keep(
    tile: (&[f32; TILE], u32),
    (seen, floor): (u64, f32),
    (keys, positions): (&mut [Key], &mut [u32]),
) -> (usize, bool) {
    assert!(keys.len() >= TILE && positions.len() >= TILE);
    // SAFETY: a `Ctx` of this path exists only where the machine has it; there is room for a tile.
    unsafe { keep_tile(tile, (seen, floor), (keys, positions)) }
}

/// # Safety
/// The machine has the features, and there is room for a tile.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn keep_tile(
    (tile, first): (&[f32; TILE], u32),
    (seen, floor): (u64, f32),
    (keys, positions): (&mut [Key], &mut [u32]),
) -> (usize, bool) {
    const PARTS: usize = TILE / LANES;
    let floor = _mm512_set1_ps(floor);
    let (mut scores, mut kept, mut any) = ([_mm512_setzero_ps(); PARTS], [0u16; PARTS], 0);
    for part in 0..PARTS {
        // SAFETY: a part of the tile.
        scores[part] = unsafe { _mm512_loadu_ps(tile.as_ptr().add(part * LANES)) };
        // Not less or equal: so a NaN, on either side, is kept.
        let exceeds = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(scores[part], floor);
        kept[part] = exceeds & (seen >> (part * LANES)) as u16;
        any |= kept[part];
    }
    if any == 0 {
        return (0, false);
    }
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let (mut count, mut nan) = (0, 0);
    for part in 0..PARTS {
        nan |= kept[part] & _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(scores[part], scores[part]);
        // Adding +0 turns −0 into +0. Of negative scores all bits are turned, of others the sign.
        let bits = _mm512_castps_si512(_mm512_add_ps(scores[part], _mm512_setzero_ps()));
        let turned = _mm512_or_si512(_mm512_srai_epi32::<31>(bits), _mm512_set1_epi32(i32::MIN));
        let key = _mm512_maskz_compress_epi32(kept[part], _mm512_xor_si512(bits, turned));
        let at = _mm512_add_epi32(lanes, _mm512_set1_epi32((first as usize + part * LANES) as i32));
        // SAFETY: at most 16 are there for each part before, so that a whole vector has room.
        unsafe {
            _mm512_storeu_si512(keys.as_mut_ptr().add(count).cast(), key);
            let at = _mm512_maskz_compress_epi32(kept[part], at);
            _mm512_storeu_si512(positions.as_mut_ptr().add(count).cast(), at);
        }
        count += kept[part].count_ones() as usize;
    }
    (count, nan != 0)
}
