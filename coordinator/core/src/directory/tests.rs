//! The directory of blocks against what workers reported.

use super::*;

fn all() -> PartSet {
    PartSet::EMPTY.with(Part::Index).with(Part::Latent)
}

fn hash(n: u64) -> ChainHash {
    let mut bytes = [7; 16];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    ChainHash(bytes)
}

fn chain(length: u64) -> Vec<ChainHash> {
    (0..length).map(hash).collect()
}

fn stored(parts: PartSet, tier: Tier) -> Change {
    Change { change: CacheChange::Stored, parts, tier }
}

fn dropped(parts: PartSet, tier: Tier) -> Change {
    Change { change: CacheChange::Dropped, parts, tier }
}

fn store(directory: &mut Directory, slot: Slot, hash: ChainHash, parts: PartSet) {
    directory.apply(slot, hash, stored(parts, Tier::Device));
}

#[test]
fn a_holder_is_small_and_an_entry_is_32_bytes() {
    assert_eq!(size_of::<Holder>(), 8);
    assert_eq!(size_of::<(ChainHash, Holders)>(), 32);
}

#[test]
fn the_longest_match_is_found_for_every_worker() {
    let mut directory = Directory::default();
    let chain = chain(100);
    let depths = [0u16, 1, 2, 3, 50, 63, 64, 99, 100, 100];
    for (slot, depth) in depths.into_iter().enumerate() {
        for hash in &chain[..usize::from(depth)] {
            store(&mut directory, slot as Slot, *hash, all());
        }
    }
    let expected: Vec<(Slot, u32)> =
        (0..).zip(depths).filter(|&(_, d)| d > 0).map(|(slot, d)| (slot, u32::from(d))).collect();
    assert_eq!(directory.matches(&chain, all()), expected);
    assert_eq!(directory.matches(&[], all()), []);
}

#[test]
fn a_block_without_its_latents_is_no_match_but_is_still_held() {
    let mut directory = Directory::default();
    store(&mut directory, 0, hash(0), all());
    directory.apply(0, hash(0), dropped(PartSet::EMPTY.with(Part::Latent), Tier::Device));
    assert_eq!(directory.matches(&chain(1), all()), []);
    assert_eq!(directory.matches(&chain(1), PartSet::EMPTY.with(Part::Index)), [(0, 1)]);
    assert_eq!(directory.blocks(), 1);
}

#[test]
fn tiers_are_kept_apart() {
    let mut directory = Directory::default();
    store(&mut directory, 0, hash(0), all());
    directory.apply(0, hash(0), stored(all(), Tier::Host));
    directory.apply(0, hash(0), dropped(all(), Tier::Device));
    assert_eq!(directory.held(0, hash(0)), all());
    directory.apply(0, hash(0), dropped(all(), Tier::Host));
    assert_eq!(directory.blocks(), 0);
    assert!(directory.table.is_empty());
}

#[test]
fn a_forgotten_worker_holds_nothing_and_its_slot_can_be_used_again() {
    let mut directory = Directory::default();
    for slot in 0..2 {
        store(&mut directory, slot, hash(0), all());
    }
    directory.forget(0);
    assert_eq!(directory.matches(&chain(1), all()), [(1, 1)]);
    assert_eq!(directory.blocks(), 1);
    store(&mut directory, 0, hash(1), all());
    assert_eq!(directory.held(0, hash(0)), PartSet::EMPTY);
    assert_eq!(directory.held(0, hash(1)), all());
}

#[test]
fn stale_holders_are_swept_out_once_they_are_the_larger_half() {
    let mut directory = Directory::default();
    for hash in chain(3 * SWEEP_MIN as u64) {
        store(&mut directory, 0, hash, all());
        store(&mut directory, 1, hash, all());
    }
    directory.forget(0);
    assert_eq!(directory.stale, 3 * SWEEP_MIN);
    assert_eq!(directory.table.len(), 3 * SWEEP_MIN);
    directory.forget(1);
    assert_eq!((directory.stale, directory.live, directory.table.len()), (0, 0, 0));
}
