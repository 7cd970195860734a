//! Laws that hold for any stream of events: messages lost, doubled, out of order, of old incarnations or of workers that
//! nobody knows. The core is compared with a model that is too simple to be wrong and too slow to be used.

mod model;
mod world;

use proptest::collection::vec;
use proptest::prelude::*;

use world::{Op, World};

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let worker = 0..5usize;
    let op = prop_oneof![
        3 => (worker.clone(), any::<bool>()).prop_map(|(worker, reborn)| Op::Register { worker, reborn }),
        1 => worker.clone().prop_map(|worker| Op::Lose { worker }),
        1 => worker.clone().prop_map(|worker| Op::Leave { worker }),
        8 => (worker.clone(), 0..=24u64, 0..=24u64, 0..4usize, any::<bool>()).prop_map(
            |(worker, free, cached, named, stale)| Op::Heartbeat { worker, free, cached, named, stale }
        ),
        8 => (worker.clone(), 0..3u8, 0..5u8).prop_map(|(worker, family, fate)| Op::Store { worker, family, fate }),
        4 => (worker.clone(), 0..3u8, 0..5u8).prop_map(|(worker, family, fate)| Op::Evict { worker, family, fate }),
        5 => (worker.clone(), 1..4usize, any::<bool>())
            .prop_map(|(worker, pieces, whole)| Op::Snapshot { worker, pieces, whole }),
        1 => worker.prop_map(|worker| Op::Stray { worker }),
        10 => (1..1500u32, 0..200u32, 0..3u8, -1..2i32, 0..32u8, proptest::option::of(1..3000u64)).prop_map(
            |(prompt, max, family, priority, exclude, deadline)| {
                Op::Place { prompt, max, family, priority, exclude, deadline }
            }
        ),
        2 => any::<prop::sample::Index>().prop_map(Op::Cancel),
        4 => (0..2000u64).prop_map(Op::Tick),
    ];
    vec(op, 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_stream_of_events_keeps_the_laws(ops in ops(), policy in 0..3usize) {
        let mut world = World::new(policy);
        for op in &ops {
            world.apply(op);
        }
        world.finish();
    }

    #[test]
    fn the_same_events_give_the_same_commands(ops in ops(), policy in 0..3usize) {
        let run = || {
            let mut world = World::new(policy);
            ops.iter().for_each(|op| world.apply(op));
            world.commands
        };
        prop_assert_eq!(run(), run());
    }
}
