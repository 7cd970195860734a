//! What the fuzz target runs, on seeds damaged at random and on cases that were found.

use proptest::prelude::*;

use super::*;

/// Files of a seed.
fn open(bytes: &[u8]) -> Files {
    let (config, rest) = cut(bytes);
    let shard = cut(rest).1;
    Files::made_up(&[("config.json", config), ("tokenizer.json", b"{}"), (SINGLE, shard)]).unwrap()
}

#[test]
fn every_seed_is_a_model() {
    assert_eq!(seeds().len(), 5);
    for seed in seeds() {
        loader(seed);
        for (dtype, kv) in [(Dtype::F32, KvEncoding::F32), (Dtype::Bf16, KvEncoding::Bf16)] {
            step(&load(&open(seed), dtype, kv).unwrap());
        }
    }
}

/// A change of some bytes of a seed.
#[derive(Clone, Debug)]
enum Damage {
    Byte(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Copy(usize, usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let number =
        prop_oneof![Just("0"), Just("-1"), Just("1e9"), Just("18446744073709551615"), Just("null"), Just("[]")];
    prop_oneof![
        4 => (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        2 => (any::<usize>(), prop::collection::vec(any::<u8>(), 1..4)).prop_map(|(at, b)| Damage::Insert(at, b)),
        2 => (any::<usize>(), number).prop_map(|(at, n)| Damage::Insert(at, n.as_bytes().to_vec())),
        2 => (any::<usize>(), 1..8usize).prop_map(|(at, n)| Damage::Remove(at, n)),
        1 => (any::<usize>(), any::<usize>(), 1..60usize).prop_map(|(from, to, n)| Damage::Copy(from, to, n)),
    ]
}

impl Damage {
    /// Most of a seed's bytes are numbers, where no damage is noticed: three of four hits are in the first 2 KB.
    fn place(at: usize, length: usize) -> usize {
        if at.is_multiple_of(4) { at / 4 % length } else { at / 4 % length.min(2048) }
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len().max(1);
        match self {
            Damage::Byte(at, byte) => {
                if let Some(b) = bytes.get_mut(Self::place(*at, length)) {
                    *b = *byte;
                }
            }
            Damage::Insert(at, new) => {
                let at = Self::place(*at, length).min(bytes.len());
                bytes.splice(at..at, new.iter().copied());
            }
            Damage::Remove(at, n) => {
                let at = Self::place(*at, length).min(bytes.len());
                bytes.drain(at..(at + n).min(bytes.len()));
            }
            Damage::Copy(from, to, n) => {
                let (from, to) =
                    (Self::place(*from, length).min(bytes.len()), Self::place(*to, length).min(bytes.len()));
                let copied = bytes[from..(from + n).min(bytes.len())].to_vec();
                bytes.splice(to..to, copied);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_checkpoint_is_a_model_or_an_error_with_a_name(
        seed in 0..5usize,
        damages in prop::collection::vec(damage(), 1..6),
    ) {
        let mut bytes = seeds()[seed].clone();
        damages.iter().for_each(|d| d.apply(&mut bytes));
        loader(&bytes);
    }
}
