//! The streaming selection against a full sort: ties, NaN, exactly k.

use super::*;
use crate::testing::Random;

fn choose(scores: &[f32], k: usize) -> Chosen {
    let mut best = TopK::new(k);
    best.offer(scores, 0);
    best.finish().unwrap()
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
        assert!(rank(s, u32::MAX) > 0);
    }
    assert_eq!(rank(-0.0, 1), rank(0.0, 1));
}

#[test]
fn the_choice_is_that_of_a_stable_sort() {
    let mut random = Random::new(1);
    for n in [1, 2, 5, 63, 64, 65, 200, 1000] {
        for k in [1, 2, 31, 32, n - 1, n, n + 1] {
            // Few different values, so that most choices end in a tie.
            let scores: Vec<f32> =
                (0..n).map(|_| random.below(7) as f32 * if n % 2 == 0 { -0.5 } else { 0.5 }).collect();
            let mut order: Vec<u32> = (0..n as u32).collect();
            order.sort_by(|&a, &b| scores[b as usize].partial_cmp(&scores[a as usize]).unwrap());
            let mut want = order[..k.min(n)].to_vec();
            let last = want.last().map_or(f32::NEG_INFINITY, |&p| scores[p as usize]);
            let next = order.get(k).map_or(f32::NEG_INFINITY, |&p| scores[p as usize]);
            want.sort_unstable();
            let got = choose(&scores, k);
            assert_eq!((got.positions, got.last, got.next), (want, last, next), "{n} {k}");
        }
    }
}

#[test]
fn parts_in_any_split_merge_to_the_whole() {
    let mut random = Random::new(2);
    let scores: Vec<f32> = (0..500).map(|_| random.below(40) as f32).collect();
    let whole = choose(&scores, 50);
    for cut in [1, 49, 50, 51, 250, 499] {
        let (mut a, mut b) = (TopK::new(50), TopK::new(50));
        a.offer(&scores[..cut], 0);
        b.offer(&scores[cut..], cut as u32);
        a.merge(&b);
        let got = a.finish().unwrap();
        assert_eq!((got.positions, got.last, got.next), (whole.positions.clone(), whole.last, whole.next));
    }
}

#[test]
fn a_nan_leaves_no_choice() {
    let mut best = TopK::new(2);
    best.offer(&[1.0, f32::NAN, 2.0], 0);
    assert!(best.finish().is_none());
}
