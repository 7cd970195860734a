//! How far the positions that a row chose are those of the row before, for the requests that ask for it.
//!
//! Their last choice is kept from one step to the next, layer by layer, 4 bytes a position: 0.5 MB a request of
//! DeepSeek-V3.2, for at most [`REQUESTS_MAX`] of them; the others are told nothing. A request that is not in a step, or
//! is not sampled in it, is forgotten; it begins again without an answer. When nobody asks, nothing is kept, compared or
//! looked at.

use hadal_model::{Cache, Probe};
use hadal_types::LayerId;
use hadal_worker_core::RequestKey;

/// Requests of a step that are watched: the figure is a measurement, and must not cost what the cache may have.
const REQUESTS_MAX: usize = 16;

/// A row of a step whose overlap is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) request: RequestKey,
    /// Which row of the step.
    pub(super) row: usize,
    /// Its position in the sequence.
    pub(super) position: u32,
}

/// The choices of the last step.
#[derive(Debug, Default)]
pub(super) struct Overlaps {
    /// By row of the step, ascending.
    kept: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    asked: Asked,
    /// Whether `choices` were those of the row before when the step began.
    follows: bool,
    /// By layer that chooses; up to `layers` those of this step, the others those of the step before.
    choices: Vec<Vec<u32>>,
    layers: usize,
    /// Sum of the layers' shares.
    shares: f64,
}

impl Overlaps {
    /// A step begins, in which these rows are asked for, in ascending order.
    pub(super) fn begin(&mut self, asked: impl Iterator<Item = Asked>) {
        let mut before = std::mem::take(&mut self.kept);
        self.kept.extend(asked.take(REQUESTS_MAX).map(|asked| {
            let found = before.iter().position(|k| k.asked.request == asked.request);
            let found = found.map(|at| before.swap_remove(at));
            let follows = found.as_ref().is_some_and(|k| k.asked.position + 1 == asked.position);
            let choices = found.map_or_else(Vec::new, |k| k.choices);
            Kept { asked, follows, choices, layers: 0, shares: 0.0 }
        }));
    }

    /// The next layer's choice of a row, ascending.
    fn chose(&mut self, row: usize, positions: &[u32]) {
        let Ok(at) = self.kept.binary_search_by_key(&row, |k| k.asked.row) else { return };
        let kept = &mut self.kept[at];
        if kept.choices.len() <= kept.layers {
            kept.choices.push(Vec::new());
        }
        let choice = &mut kept.choices[kept.layers];
        if kept.follows {
            kept.shares += share(choice, positions);
        }
        choice.clear();
        choice.extend_from_slice(positions);
        kept.layers += 1;
    }

    /// The share of a request's choice in the step just computed that had been chosen for the row before, averaged over
    /// the layers. None when the row before was not seen, or nothing was chosen.
    pub(super) fn of(&self, request: RequestKey) -> Option<f32> {
        let kept = self.kept.iter().find(|k| k.asked.request == request)?;
        (kept.follows && kept.layers > 0).then(|| (kept.shares / kept.layers as f64) as f32)
    }
}

/// The share of `now` that is in `before`; both are ascending.
fn share(before: &[u32], now: &[u32]) -> f64 {
    let mut before = before.iter().copied().peekable();
    let common = now.iter().filter(|&&position| {
        while before.next_if(|&b| b < position).is_some() {}
        before.peek() == Some(&position)
    });
    common.count() as f64 / now.len().max(1) as f64
}

/// Sees a step for them, and reports its layers.
pub(super) struct Watch<'a> {
    pub(super) overlaps: &'a mut Overlaps,
    pub(super) on_layer: &'a mut dyn FnMut(LayerId, &Cache),
}

impl Probe for Watch<'_> {
    fn written(&mut self, layer: LayerId, cache: &Cache) {
        (self.on_layer)(layer, cache);
    }

    fn choices(&self) -> bool {
        !self.overlaps.kept.is_empty()
    }

    fn chose(&mut self, _: LayerId, row: usize, positions: &[u32], _: Option<f32>) {
        self.overlaps.chose(row, positions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: RequestKey = RequestKey(1);

    /// A step of one request at a position, with the choices of its layers.
    fn step(overlaps: &mut Overlaps, position: u32, layers: &[&[u32]]) -> Option<f32> {
        overlaps.begin([Asked { request: KEY, row: 3, position }].into_iter());
        layers.iter().for_each(|positions| overlaps.chose(3, positions));
        overlaps.of(KEY)
    }

    #[test]
    fn the_share_of_the_new_choice_is_averaged_over_layers() {
        let mut overlaps = Overlaps::default();
        assert_eq!(step(&mut overlaps, 9, &[&[1, 2, 3, 4], &[0, 9]]), None);
        assert_eq!(step(&mut overlaps, 10, &[&[2, 4, 5, 10], &[9, 10]]), Some(0.5));
        assert_eq!(step(&mut overlaps, 11, &[&[2, 4, 5, 10], &[10, 11]]), Some(0.75));
    }

    #[test]
    fn a_row_whose_predecessor_was_not_seen_has_no_answer() {
        let mut overlaps = Overlaps::default();
        step(&mut overlaps, 9, &[&[1]]);
        assert_eq!(step(&mut overlaps, 11, &[&[1]]), None, "it skipped a row");
        assert_eq!(step(&mut overlaps, 12, &[&[1]]), Some(1.0));
        overlaps.begin(std::iter::empty());
        assert_eq!(overlaps.of(KEY), None);
        assert_eq!(step(&mut overlaps, 13, &[&[1]]), None, "it was not in the step between");
    }

    #[test]
    fn no_more_requests_are_watched_than_memory_is_meant_for() {
        let mut overlaps = Overlaps::default();
        for position in [4, 5] {
            let asked = |i: usize| Asked { request: RequestKey(i as u64), row: i, position };
            overlaps.begin((0..=REQUESTS_MAX).map(asked));
            (0..=REQUESTS_MAX).for_each(|row| overlaps.chose(row, &[1, 2]));
        }
        let told = (0..=REQUESTS_MAX as u64).filter(|&i| overlaps.of(RequestKey(i)).is_some());
        assert_eq!(told.count(), REQUESTS_MAX);
    }

    #[test]
    fn without_a_choice_there_is_no_answer() {
        let mut overlaps = Overlaps::default();
        step(&mut overlaps, 1, &[]);
        assert_eq!(step(&mut overlaps, 2, &[]), None);
    }

    #[test]
    fn requests_are_told_apart_whatever_their_rows() {
        let mut overlaps = Overlaps::default();
        let asked = |request, row, position| Asked { request: RequestKey(request), row, position };
        overlaps.begin([asked(1, 0, 5), asked(2, 4, 7)].into_iter());
        overlaps.chose(0, &[1, 2]);
        overlaps.chose(2, &[1, 2]);
        overlaps.chose(4, &[6, 7]);
        overlaps.begin([asked(2, 1, 8), asked(1, 2, 6)].into_iter());
        overlaps.chose(1, &[7, 8]);
        overlaps.chose(2, &[1, 2]);
        assert_eq!((overlaps.of(RequestKey(1)), overlaps.of(RequestKey(2))), (Some(1.0), Some(0.5)));
    }
}
