//! The streaming selection against a full sort, on every path: ties, NaN, exactly k.

use super::*;
use crate::testing::Random;

/// What a selection chose, with the bits of its ends.
type Facts = (Vec<u32>, [u32; 2]);

fn facts(best: &mut TopK) -> Option<Facts> {
    best.finish().map(|c| (c.positions.to_vec(), [c.last, c.next].map(f32::to_bits)))
}

/// Offers scores of positions from `first` on, tile by tile as they lie in pages.
fn offer(best: &mut TopK, scores: &[f32], first: usize) {
    let end = first + scores.len();
    for from in (first / TILE * TILE..end).step_by(TILE) {
        // What is not seen would be the best, or no number.
        let mut tile = [if from % 128 == 0 { f32::NAN } else { f32::INFINITY }; TILE];
        let seen = first.saturating_sub(from)..(end - from).min(TILE);
        tile[seen.clone()].copy_from_slice(&scores[from + seen.start - first..][..seen.len()]);
        best.offer(&tile, seen, from as u32);
    }
}

fn choose(path: Path, scores: &[f32], k: usize, first: usize) -> Option<Facts> {
    let mut best = TopK::new(path, k);
    offer(&mut best, scores, first);
    facts(&mut best)
}

fn by_a_stable_sort(scores: &[f32], k: usize, first: usize) -> Facts {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    order.sort_by(|&a, &b| scores[b as usize].partial_cmp(&scores[a as usize]).unwrap());
    let end = |p: Option<&u32>| p.map_or(f32::NEG_INFINITY, |&p| scores[p as usize] + 0.0).to_bits();
    let ends = [end(order[..k.min(order.len())].last()), end(order.get(k))];
    let mut best: Vec<u32> = order.iter().take(k).map(|p| p + first as u32).collect();
    best.sort_unstable();
    (best, ends)
}

#[test]
fn packing_keeps_order_score_and_position() {
    let scores = [f32::NEG_INFINITY, -1e30, -1.0, -1e-45, 0.0, 1e-45, 1.0, 1e30, f32::INFINITY];
    for pair in scores.windows(2) {
        assert!(rank(pair[0], 0) < rank(pair[1], 9));
    }
    for s in scores {
        assert_eq!((score(rank(s, 77)), position(rank(s, 77))), (s, 77));
        assert!(rank(s, 3) > rank(s, 4));
        assert!(rank(s, u32::MAX) > 0 && key(s) > 0);
    }
    assert_eq!(rank(-0.0, 1), rank(0.0, 1));
}

#[test]
fn the_choice_is_that_of_a_stable_sort() {
    let mut random = Random::new(1);
    for path in Path::available() {
        for n in [1, 2, 5, 63, 64, 65, 200, 1000] {
            for k in [1, 2, 31, 32, n - 1, n, n + 1] {
                for first in [0, 1, 63] {
                    // Few different values, so that most choices end in a tie; −0 and infinities among them.
                    let values = [-0.0, 0.0, 1.5, -1.5, 1e-45, -1e-45, f32::INFINITY, f32::NEG_INFINITY];
                    let scores: Vec<f32> = (0..n).map(|_| values[random.below(3 + n % 6)]).collect();
                    assert_eq!(
                        choose(path, &scores, k, first),
                        Some(by_a_stable_sort(&scores, k, first)),
                        "{path} {n} {k} {first}"
                    );
                    let scores = random.numbers(n);
                    assert_eq!(choose(path, &scores, k, first), Some(by_a_stable_sort(&scores, k, first)));
                }
            }
        }
    }
}

#[test]
fn rising_falling_and_equal_scores_are_no_special_case() {
    for path in Path::available() {
        for k in [1, 50, 100] {
            for step in [-1.0, 0.0, 1.0] {
                let scores: Vec<f32> = (0..1000).map(|i| i as f32 * step).collect();
                assert_eq!(choose(path, &scores, k, 5), Some(by_a_stable_sort(&scores, k, 5)), "{path} {k} {step}");
            }
        }
    }
}

#[test]
fn parts_in_any_split_merge_to_the_whole() {
    let mut random = Random::new(2);
    let scores: Vec<f32> = (0..500).map(|_| random.below(40) as f32).collect();
    for path in Path::available() {
        for k in [1, 50, 499, 500, 600] {
            let whole = choose(path, &scores, k, 0);
            for cuts in [[1, 2], [49, 50], [50, 51], [51, 250], [250, 251], [300, 499]] {
                let parts = [0..cuts[0], cuts[0]..cuts[1], cuts[1]..500].map(|part| {
                    let mut best = TopK::new(path, k);
                    offer(&mut best, &scores[part.clone()], part.start);
                    best
                });
                let [mut first, rest @ ..] = parts;
                first.merge(rest.iter());
                assert_eq!(facts(&mut first), whole, "{path} {k} {cuts:?}");
            }
        }
    }
}

#[test]
fn a_selection_that_begins_anew_has_forgotten_all() {
    let mut random = Random::new(3);
    for path in Path::available() {
        let mut best = TopK::new(path, 10);
        for k in [40, 1, 10] {
            offer(&mut best, &random.numbers(300), 0);
            offer(&mut best, &[f32::NAN], 300);
            best.begin(path, k);
            let scores = random.numbers(100);
            offer(&mut best, &scores, 0);
            assert_eq!(facts(&mut best), Some(by_a_stable_sort(&scores, k, 0)));
        }
    }
}

#[test]
fn a_nan_leaves_no_choice_wherever_it_is_seen() {
    for path in Path::available() {
        for at in [0, 1, 15, 16, 63, 64, 299] {
            let mut scores = Random::new(4).numbers(300);
            scores[at] = if at % 2 == 0 { f32::NAN } else { -f32::NAN };
            assert_eq!(choose(path, &scores, 2, 0), None, "{path} {at}");
        }
    }
}
