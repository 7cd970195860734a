//! Random numbers of a seed: the same seed gives the same numbers, on every machine and in every version.

/// SplitMix64 [Steele, Lea and Flood 2014].
#[derive(Clone, Debug)]
pub(crate) struct Draws(u64);

impl Draws {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `count`; 0 when that is 0.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        (self.next() % count.max(1) as u64) as usize
    }

    /// From 0 up to, but not, 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_draw_the_same_and_all_is_in_bounds() {
        let of = |seed| {
            let mut draws = Draws::new(seed);
            (0..100).map(|_| draws.next()).collect::<Vec<_>>()
        };
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        // The published first number of seed 0.
        assert_eq!(of(0)[0], 0xe220_a839_7b1d_cdaf);
        let mut draws = Draws::new(1);
        assert!((0..1000).all(|_| draws.below(3) < 3 && (0.0..1.0).contains(&draws.share())));
        assert_eq!(draws.below(0), 0);
    }
}
