//! The directory of blocks against what workers reported.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const TIER: [Tier; TIERS] = [Tier::Device, Tier::Host, Tier::Disk];
const NONE: PartSet = PartSet::EMPTY;

fn all() -> PartSet {
    Part::ALL.into_iter().collect()
}

fn hash(n: u64) -> ChainHash {
    let mut bytes = [7; 16];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    ChainHash(bytes)
}

fn chain(length: u64) -> Vec<ChainHash> {
    (0..length).map(hash).collect()
}

fn change(directory: &mut Directory, slot: Slot, hash: ChainHash, (change, parts, tier): (CacheChange, PartSet, Tier)) {
    directory.apply(slot, &[hash], |hash| Change { hash: *hash, change, parts, tier });
}

fn store(directory: &mut Directory, slot: Slot, blocks: &[ChainHash]) {
    let stored =
        |hash: &ChainHash| Change { hash: *hash, change: CacheChange::Stored, parts: all(), tier: Tier::Device };
    directory.apply(slot, blocks, stored);
}

/// Leading blocks with all parts, by slot.
fn depths(directory: &Directory, chain: &[ChainHash]) -> Vec<(Slot, u32)> {
    let matches = directory.matches(chain).into_iter().map(|found| (found.slot, found.blocks(all())));
    let mut depths: Vec<(Slot, u32)> = matches.filter(|(_, blocks)| *blocks > 0).collect();
    depths.sort_unstable();
    depths
}

#[test]
fn the_longest_match_is_found_for_every_worker() {
    let mut directory = Directory::default();
    let chain = chain(100);
    let held = [0u16, 1, 2, 3, 50, 63, 64, 99, 100, 100];
    for (slot, depth) in held.into_iter().enumerate() {
        store(&mut directory, slot as Slot, &chain[..usize::from(depth)]);
    }
    let expected: Vec<(Slot, u32)> =
        (0..).zip(held).filter(|&(_, d)| d > 0).map(|(slot, d)| (slot, u32::from(d))).collect();
    assert_eq!(depths(&directory, &chain), expected);
    assert_eq!(directory.matches(&[]), []);
}

#[test]
fn parts_and_tiers_are_told_apart() {
    let mut directory = Directory::default();
    let (chain, latents) = (chain(8), NONE.with(Part::Latent));
    store(&mut directory, 0, &chain);
    // The latents of the last blocks go down first, and the last of all are lost.
    for hash in chain[5..].iter().rev() {
        change(&mut directory, 0, *hash, (CacheChange::Stored, latents, Tier::Host));
        change(&mut directory, 0, *hash, (CacheChange::Dropped, latents, Tier::Device));
    }
    change(&mut directory, 0, chain[7], (CacheChange::Dropped, latents, Tier::Host));
    let [found] = directory.matches(&chain)[..] else { panic!("one worker has it") };
    assert_eq!(TIER.map(|tier| found.within(Part::Index, tier)), [8, 8, 8]);
    assert_eq!(TIER.map(|tier| found.within(Part::Latent, tier)), [5, 7, 7]);
    assert_eq!((found.blocks(all()), found.blocks(NONE.with(Part::Index))), (7, 8));
    assert_eq!(directory.held(0, chain[7]), NONE.with(Part::Index));
    assert_eq!(directory.blocks_of(0, Part::Latent, Tier::Host), 2);
    assert_eq!(directory.blocks_of(0, Part::Latent, Tier::Device), 5);
    assert_eq!(directory.blocks(), 8);
}

#[test]
fn a_forgotten_worker_holds_nothing_and_its_slot_can_be_used_again() {
    let mut directory = Directory::default();
    store(&mut directory, 0, &[hash(0)]);
    store(&mut directory, 1, &[hash(0)]);
    directory.forget(0);
    assert_eq!(depths(&directory, &chain(1)), [(1, 1)]);
    assert_eq!((directory.blocks(), directory.blocks_of(0, Part::Index, Tier::Device)), (1, 0));
    store(&mut directory, 0, &[hash(1)]);
    assert_eq!(directory.held(0, hash(0)), PartSet::EMPTY);
    assert_eq!(directory.held(0, hash(1)), all());
}

#[test]
fn what_lost_workers_held_is_swept_out_by_ticks_alone_and_their_ids_are_used_again() {
    let mut directory = Directory::default();
    let chain = chain(3 * SWEEP_MIN as u64);
    for _ in 0..3 {
        store(&mut directory, 0, &chain);
        store(&mut directory, 1, &chain);
        directory.forget(0);
        directory.forget(1);
        assert_eq!((directory.blocks(), directory.dead), (0, 2 * chain.len()));
        for _ in 0..SEGMENTS / 16 {
            directory.tidy(16);
        }
        assert_eq!((directory.dead, directory.table.len()), (0, 0));
    }
    assert_eq!(directory.ids.len(), 2);
}

#[test]
fn changes_sweep_as_they_come() {
    let mut directory = Directory::default();
    store(&mut directory, 0, &chain(3 * SWEEP_MIN as u64));
    directory.forget(0);
    for _ in 0..SEGMENTS * SWEEP_EVERY {
        store(&mut directory, 1, &[hash(1 << 40)]);
    }
    assert_eq!(directory.dead, 0);
}

/// What workers hold, in the plainest way.
type Model = BTreeMap<(Slot, ChainHash), [PartSet; TIERS]>;

fn model_depth(model: &Model, slot: Slot, chain: &[ChainHash], part: Part, tier: usize) -> u32 {
    let holds = |hash: &&ChainHash| {
        model.get(&(slot, **hash)).is_some_and(|held| held[..=tier].iter().any(|parts| parts.contains(part)))
    };
    chain.iter().take_while(holds).count() as u32
}

#[derive(Clone, Debug)]
enum Op {
    /// A worker changes the parts in a tier of blocks that it need not have.
    Change {
        slot: Slot,
        family: u64,
        from: u64,
        to: u64,
        stored: bool,
        parts: u32,
        tier: usize,
    },
    Forget {
        slot: Slot,
    },
    Tidy {
        segments: usize,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let change = (0..40u16, 0..4u64, 0..90u64, 1..90u64, any::<bool>(), 0..4u32, 0..TIERS);
    let op = prop_oneof![
        20 => change.prop_map(|(slot, family, from, to, stored, parts, tier)| Op::Change {
            slot, family, from, to, stored, parts, tier
        }),
        2 => (0..40u16).prop_map(|slot| Op::Forget { slot }),
        1 => (0..2 * SEGMENTS).prop_map(|segments| Op::Tidy { segments }),
    ];
    proptest::collection::vec(op, 1..120)
}

/// Blocks of a family; the first ten are those of all families.
fn family(family: u64) -> Vec<ChainHash> {
    (0..90).map(|n| hash(if n < 10 { n } else { (family + 1) << 32 | n })).collect()
}

fn run(ops: &[Op], closed: bool) -> (Directory, Model) {
    let (mut directory, mut model) = (Directory::default(), Model::new());
    for op in ops {
        match *op {
            Op::Change { slot, family: of, from, to, stored, parts, tier } => {
                let chain = family(of);
                // Whoever keeps the order stores from the first block on, and drops up to the last.
                let (from, to) = match (closed, stored) {
                    (true, true) => (0, to),
                    (true, false) => (from, 90),
                    _ => (from.min(to), from.max(to)),
                };
                let (blocks, parts) = (&chain[from as usize..to as usize], PartSet::from_bits(parts));
                let change = if stored { CacheChange::Stored } else { CacheChange::Dropped };
                directory.apply(slot, blocks, |hash| Change { hash: *hash, change, parts, tier: TIER[tier] });
                for hash in blocks {
                    let held = &mut model.entry((slot, *hash)).or_default()[tier];
                    *held = if stored { parts.iter().fold(*held, PartSet::with) } else { held.without(parts) };
                }
                // Other families share what this one has just dropped: without it, they are gone as well.
                if closed && !stored && from < 10 {
                    for other in (0..4).filter(|other| *other != of) {
                        let rest = &family(other)[10..];
                        directory.apply(slot, rest, |hash| Change { hash: *hash, change, parts, tier: TIER[tier] });
                        for hash in rest {
                            let held = &mut model.entry((slot, *hash)).or_default()[tier];
                            *held = held.without(parts);
                        }
                    }
                }
            }
            Op::Forget { slot } => {
                directory.forget(slot);
                model.retain(|(of, _), _| *of != slot);
            }
            Op::Tidy { segments } => directory.tidy(segments),
        }
        model.retain(|_, held| held.iter().any(|parts| !parts.is_empty()));
    }
    (directory, model)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_changes_leave_what_a_map_would_hold(ops in ops()) {
        let (directory, model) = run(&ops, false);
        prop_assert_eq!(directory.blocks(), model.len());
        for slot in 0..40 {
            for (tier, of) in TIER.into_iter().enumerate() {
                for part in Part::ALL {
                    let held = |(key, held): (&(Slot, ChainHash), &[PartSet; TIERS])| key.0 == slot && held[tier].contains(part);
                    let expected = model.iter().filter(|entry| held(*entry)).count();
                    prop_assert_eq!(directory.blocks_of(slot, part, of), expected as u64);
                }
            }
            for hash in (0..4).flat_map(family) {
                let held = model.get(&(slot, hash)).map_or(PartSet::EMPTY, |held| held.iter().flat_map(|p| p.iter()).collect());
                prop_assert_eq!(directory.held(slot, hash), held);
            }
        }
    }

    #[test]
    fn of_workers_that_keep_the_order_every_match_is_exact(ops in ops(), length in 1..90usize) {
        let (directory, model) = run(&ops, true);
        for chain in (0..4).map(family) {
            let chain = &chain[..length];
            let found: BTreeMap<Slot, Match> = directory.matches(chain).into_iter().map(|of| (of.slot, of)).collect();
            for slot in 0..40 {
                for (tier, of) in TIER.into_iter().enumerate() {
                    for part in Part::ALL {
                        let blocks = found.get(&slot).map_or(0, |found| found.within(part, of));
                        prop_assert_eq!(blocks, model_depth(&model, slot, chain, part, tier), "slot {} tier {}", slot, tier);
                    }
                }
            }
        }
    }

    /// Their own fault, but the answer is finite, within the chain and of workers that have the first block.
    #[test]
    fn gaps_in_what_workers_hold_do_no_harm(ops in ops()) {
        let (directory, model) = run(&ops, false);
        let chain = family(0);
        for found in directory.matches(&chain) {
            prop_assert!(model.contains_key(&(found.slot, chain[0])));
            prop_assert!(TIER.iter().all(|tier| found.within(Part::Index, *tier) <= 90));
        }
    }

    #[test]
    fn the_same_changes_give_the_same_answers_in_the_same_order(ops in ops()) {
        let answers = || run(&ops, true).0.matches(&family(1));
        prop_assert_eq!(answers(), answers());
    }
}
