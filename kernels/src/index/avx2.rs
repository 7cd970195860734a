//! Products of int8 queries and keys on AVX2, which multiplies pairs of 16 bit. Its instruction for 8 bit would
//! saturate.
#![allow(unsafe_code, reason = "vector instructions and unchecked addressing; the safe entry checks both")]
#![allow(clippy::needless_range_loop, reason = "sums stay in registers only if each index is known to the compiler")]

use std::arch::x86_64::*;

use crate::cache::PAGE_ROWS;

/// Numbers of a vector.
const LANES: usize = 8;

/// Products of every head with 64 keys as f32, [heads, 64]. Words are pairs of 16 bit: `q` is [heads, words], `keys`
/// [words, 64].
pub(super) fn products(q: &[f32], keys: &[f32], words: usize, dots: &mut [f32]) {
    let heads = dots.len() / PAGE_ROWS;
    assert!(q.len() >= heads * words && keys.len() >= words * PAGE_ROWS);
    // SAFETY: a `Ctx` of this path exists only where the machine has it; heads, keys and products are all there.
    unsafe {
        for keys_at in (0..PAGE_ROWS).step_by(2 * LANES) {
            let mut head = 0;
            while head < heads {
                let at = (head, keys_at);
                match heads - head {
                    4.. => tile::<4>(q, keys, words, at, dots),
                    3 => tile::<3>(q, keys, words, at, dots),
                    2 => tile::<2>(q, keys, words, at, dots),
                    _ => tile::<1>(q, keys, words, at, dots),
                }
                head += 4;
            }
        }
    }
}

/// # Safety
/// The machine has the features, the sizes are those that [`products`] checks, and there are `head + R` heads and 16
/// keys from `first` on.
#[target_feature(enable = "avx2")]
unsafe fn tile<const R: usize>(q: &[f32], keys: &[f32], words: usize, (head, first): (usize, usize), dots: &mut [f32]) {
    // SAFETY: every address lies in the words of R heads or 16 keys, or among their products.
    unsafe {
        let (q, keys) = (q.as_ptr().add(head * words), keys.as_ptr().add(first));
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        for word in 0..words {
            let from = keys.add(word * PAGE_ROWS);
            let key = [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(LANES).cast())];
            for r in 0..R {
                let x = _mm256_castps_si256(_mm256_broadcast_ss(&*q.add(r * words + word)));
                for half in 0..2 {
                    sums[r][half] = _mm256_add_epi32(sums[r][half], _mm256_madd_epi16(x, key[half]));
                }
            }
        }
        for r in 0..R {
            for half in 0..2 {
                let to = dots.as_mut_ptr().add((head + r) * PAGE_ROWS + first + half * LANES);
                _mm256_storeu_ps(to, _mm256_cvtepi32_ps(sums[r][half]));
            }
        }
    }
}
