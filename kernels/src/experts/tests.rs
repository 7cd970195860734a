//! Routed experts against one expert after the other, in any batch.

use super::*;
use crate::linear::{WeightRef, linear};
use crate::testing::{Random, bits, contexts, threaded};

fn weights(random: &mut Random, n: usize, k: usize) -> Linear {
    Linear::pack(WeightRef::F32(&random.numbers(n * k)), n, k).unwrap()
}

#[test]
fn answers_are_added_in_ascending_order_of_expert() {
    let (hidden, inner, count, rows, k) = (20, 12, 6, 400, 3);
    let mut random = Random::new(1);
    let parts: Vec<[Linear; 3]> = (0..count)
        .map(|_| {
            let r = &mut random;
            [weights(r, inner, hidden), weights(r, inner, hidden), weights(r, hidden, inner)]
        })
        .collect();
    let expert = |e: u32| {
        let [gate, up, down] = &parts[e as usize];
        Expert { gate, up, down }
    };
    let (x, shared) = (random.numbers(rows * hidden), random.numbers(rows * hidden));
    let mut routes = Routes { k, weights: random.numbers(rows * k), ..Routes::default() };
    for _ in 0..rows {
        let mut ids: Vec<u32> = (0..count).collect();
        while ids.len() > k {
            ids.remove(random.below(ids.len()));
        }
        routes.ids.extend(ids);
    }
    for ctx in contexts() {
        let mut want = shared.clone();
        for row in 0..rows {
            for slot in row * k..(row + 1) * k {
                let e = expert(routes.ids[slot]);
                let x = &x[row * hidden..][..hidden];
                let (mut gate, mut up) = (vec![0.0; inner], vec![0.0; inner]);
                linear(&ctx, e.gate, x, &mut gate);
                linear(&ctx, e.up, x, &mut up);
                let (mut joined, mut answer) = (vec![0.0; inner], vec![0.0; hidden]);
                swiglu(&gate, &up, &mut joined);
                linear(&ctx, e.down, &joined, &mut answer);
                let mut alone = vec![0.0; hidden];
                e.forward(&ctx, x, &mut alone);
                assert_eq!(bits(&answer), bits(&alone));
                for (o, a) in want[row * hidden..][..hidden].iter_mut().zip(answer) {
                    *o += routes.weights[slot] * a;
                }
            }
        }
        // 400 rows × 3 exceed one batch of answers.
        let mut out = shared.clone();
        moe_experts(&threaded(&ctx), &x, &routes, &expert, &mut out);
        assert_eq!(bits(&out), bits(&want), "{}", ctx.path());
        // One row is the same alone.
        let one =
            Routes { k, ids: routes.ids[..k].to_vec(), weights: routes.weights[..k].to_vec(), ..Routes::default() };
        let mut out = shared[..hidden].to_vec();
        moe_experts(&ctx, &x[..hidden], &one, &expert, &mut out);
        assert_eq!(bits(&out), bits(&want[..hidden]));
    }
}

#[test]
fn no_rows_are_no_work() {
    let mut out = [];
    let nobody = |_| -> Expert<'_> { unreachable!("there is nothing to compute") };
    moe_experts(&contexts()[0], &[], &Routes::default(), &nobody, &mut out);
}
