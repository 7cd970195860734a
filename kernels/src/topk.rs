//! Total orders for choices: larger score first, then lower position. −0 equals +0.

/// A score and its position as one integer: larger is better.
pub(crate) type Ranked = u64;

/// Packs a score that is not NaN with its position.
#[inline]
pub(crate) fn rank(score: f32, position: u32) -> Ranked {
    // Adding +0 turns −0 into +0.
    let bits = (score + 0.0).to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(ordered) << 32 | u64::from(!position)
}

/// The score of a packed pair.
#[inline]
pub(crate) fn score(ranked: Ranked) -> f32 {
    let ordered = (ranked >> 32) as u32;
    f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
}

/// The position of a packed pair.
#[inline]
pub(crate) fn position(ranked: Ranked) -> u32 {
    !(ranked as u32)
}

/// The best `k` of a stream of any length, in memory for 2k.
#[derive(Clone, Debug)]
pub(crate) struct TopK {
    k: usize,
    kept: Vec<Ranked>,
    /// Nothing at or below this can be among the best.
    floor: Ranked,
    /// The best that was turned away.
    dropped: Ranked,
    sum: f64,
    square_sum: f64,
    count: usize,
    /// A score was NaN, so there is no order.
    unordered: bool,
}

impl TopK {
    pub(crate) fn new(k: usize) -> Self {
        let kept = Vec::with_capacity(2 * k);
        Self { k, kept, floor: 0, dropped: 0, sum: 0.0, square_sum: 0.0, count: 0, unordered: false }
    }

    /// Offers the scores of consecutive positions from `first` on.
    pub(crate) fn offer(&mut self, scores: &[f32], first: u32) {
        let mut floor = self.floor_score();
        for (&score, position) in scores.iter().zip(first..) {
            // Most scores of a long context are below the floor, and this is all that they cost.
            if score.is_nan() || score >= floor {
                if score.is_nan() {
                    self.unordered = true;
                    return;
                }
                self.push(rank(score, position));
                floor = self.floor_score();
            }
            let score = f64::from(score);
            self.sum += score;
            self.square_sum += score * score;
        }
        self.count += scores.len();
    }

    /// Takes what another one kept of other positions.
    pub(crate) fn merge(&mut self, other: &TopK) {
        other.kept.iter().for_each(|&r| self.push(r));
        self.dropped = self.dropped.max(other.dropped);
        self.sum += other.sum;
        self.square_sum += other.square_sum;
        self.count += other.count;
        self.unordered |= other.unordered;
    }

    /// A lower score cannot be among the best, and was not the best that was turned away.
    #[inline]
    fn floor_score(&self) -> f32 {
        if self.floor == 0 { f32::NEG_INFINITY } else { score(self.floor) }
    }

    #[inline]
    fn push(&mut self, ranked: Ranked) {
        if ranked <= self.floor {
            self.dropped = self.dropped.max(ranked);
            return;
        }
        self.kept.push(ranked);
        if self.kept.len() >= 2 * self.k.max(1) {
            self.compact();
        }
    }

    fn compact(&mut self) {
        if self.kept.len() <= self.k {
            return;
        }
        let (_, &mut best, _) = self.kept.select_nth_unstable_by(self.k, |a, b| b.cmp(a));
        self.dropped = self.dropped.max(best);
        self.floor = self.dropped;
        self.kept.truncate(self.k);
    }

    /// The end of the choice; none if a score was NaN.
    pub(crate) fn finish(mut self) -> Option<Chosen> {
        if self.unordered {
            return None;
        }
        self.compact();
        let last = self.kept.iter().min().map_or(f32::NEG_INFINITY, |&r| score(r));
        let next = if self.dropped == 0 { f32::NEG_INFINITY } else { score(self.dropped) };
        let count = self.count.max(1) as f64;
        let mean = self.sum / count;
        let deviation = (self.square_sum / count - mean * mean).max(0.0).sqrt() as f32;
        let mut positions: Vec<u32> = self.kept.iter().map(|&r| position(r)).collect();
        positions.sort_unstable();
        Some(Chosen { positions, last, next, deviation })
    }
}

/// The end of a choice.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    /// The best, ascending.
    pub(crate) positions: Vec<u32>,
    /// The lowest score among them.
    pub(crate) last: f32,
    /// The highest score that was left out.
    pub(crate) next: f32,
    /// Standard deviation of all scores.
    pub(crate) deviation: f32,
}

#[cfg(test)]
mod tests;
