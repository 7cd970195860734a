//! Cache records: sizes, round trips, and byte layouts of pages.

use hadal_types::{Keep, LayerId, Part, Store};

use super::*;
use crate::testing::Random;

const ENCODINGS: &[KvEncoding] = KvEncoding::ALL;

fn store(part: Part, record: Vec<Field>, placement: Placement) -> Store {
    Store { owner: LayerId(0), part, stride: 1, record, placement, keep: Keep::All }
}

#[test]
fn pages_have_the_size_that_the_geometry_counts() {
    for &encoding in ENCODINGS {
        for (rank, rope) in [(512, 64), (128, 32), (64, 16), (200, 8), (130, 0)] {
            let codec = LatentCodec::new(encoding, rank, rope);
            let store = store(Part::Latent, codec.record(), codec.placement());
            assert_eq!(store.block_bytes(), codec.page_bytes() as u64);
        }
        for dim in [128, 64, 32, 200] {
            let codec = IndexCodec::new(encoding, dim);
            let store = store(Part::Index, codec.record(), codec.placement());
            assert_eq!(store.block_bytes(), codec.page_bytes() as u64);
        }
    }
    assert_eq!(LatentCodec::new(KvEncoding::Fp8, 512, 64).page_bytes(), 41_984);
    assert_eq!(LatentCodec::new(KvEncoding::Fp8, 512, 64).row_bytes(), 656);
    assert_eq!(IndexCodec::new(KvEncoding::Fp8, 128).page_bytes(), 8_448);
}

#[test]
fn a_row_comes_back_as_precisely_as_its_encoding_allows() {
    let mut random = Random::new(1);
    for (encoding, relative) in [(KvEncoding::F32, 0.0), (KvEncoding::Bf16, 1.0 / 256.0), (KvEncoding::Fp8, 1.0 / 16.0)]
    {
        let latents = LatentCodec::new(encoding, 200, 16);
        let keys = IndexCodec::new(encoding, 72);
        let mut page = vec![0xaa; latents.page_bytes()];
        let mut index = vec![0xaa; keys.page_bytes()];
        let rows: Vec<Vec<f32>> = (0..PAGE_ROWS).map(|_| random.numbers(216)).collect();
        // Backwards, so that a row that reached into another would spoil it.
        for (slot, row) in rows.iter().enumerate().rev() {
            latents.encode(&mut page, slot, &row[..200], &row[200..]);
            keys.encode(&mut index, slot, &row[..72]);
        }
        for (slot, row) in rows.iter().enumerate() {
            let mut out = vec![0.0; 216];
            latents.decode(&page, slot, &mut out);
            // e4m3 rounds to within 1/16 of the value, and below its normal range to 2^-10 of a scale of 1/448.
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() * relative + relative * 1e-4;
            assert!(out.iter().zip(row).all(close), "{encoding}");
            keys.decode(&index, slot, &mut out);
            assert!(out[..72].iter().zip(row).all(close), "{encoding}");
        }
    }
}

#[test]
fn fp8_records_lie_as_the_published_kernels_read_them() {
    let latents = LatentCodec::new(KvEncoding::Fp8, 512, 64);
    let mut page = vec![0; latents.page_bytes()];
    let mut latent = vec![0.0; 512];
    latent[3] = 896.0;
    latent[4] = -448.0;
    latent[130] = 448.0;
    latents.encode(&mut page, 2, &latent, &[1.5; 64]);
    let row = &page[2 * 656..3 * 656];
    assert_eq!((row[3], row[4], row[130]), (0x7e, 0xf6, 0x7e));
    assert_eq!(row[512..516], 2.0f32.to_le_bytes());
    assert_eq!(row[516..520], 1.0f32.to_le_bytes());
    assert_eq!(row[528..530], 0x3fc0u16.to_le_bytes());
    assert!(page[..2 * 656].iter().chain(&page[3 * 656..]).all(|&b| b == 0));

    let keys = IndexCodec::new(KvEncoding::Fp8, 128);
    let mut page = vec![0; keys.page_bytes()];
    let mut key = vec![0.0; 128];
    key[7] = 448.0 * 4.0;
    keys.encode(&mut page, 63, &key);
    assert_eq!(page[63 * 128 + 7], 0x7e);
    assert_eq!(page[64 * 128 + 63 * 4..], 4.0f32.to_le_bytes());
}

#[test]
fn zeros_stay_zeros_and_damaged_numbers_become_nan() {
    for &encoding in ENCODINGS {
        let codec = LatentCodec::new(encoding, 128, 2);
        let mut page = vec![0; codec.page_bytes()];
        let mut out = vec![1.0; 130];
        codec.encode(&mut page, 0, &[0.0; 128], &[0.0; 2]);
        codec.decode(&page, 0, &mut out);
        assert!(out.iter().all(|&v| v == 0.0));
        let mut latent = [1.0; 128];
        latent[5] = f32::NAN;
        codec.encode(&mut page, 0, &latent, &[f32::NAN; 2]);
        codec.decode(&page, 0, &mut out);
        assert!(out[5].is_nan() && out[128].is_nan() && !out[4].is_nan());
        latent[5] = f32::INFINITY;
        codec.encode(&mut page, 0, &latent, &[0.0; 2]);
        codec.decode(&page, 0, &mut out);
        assert!(!out[5].is_finite());
        // The smallest numbers there are must not divide by zero.
        codec.encode(&mut page, 0, &[1e-45; 128], &[0.0; 2]);
        codec.decode(&page, 0, &mut out);
        assert!(out.iter().all(|v| v.abs() <= 1e-40));
    }
}

#[test]
fn int8_keys_lie_like_those_of_fp8_and_are_as_precise_as_their_largest_number_allows() {
    let mut random = Random::new(2);
    for dim in [128, 64, 72, 200] {
        let codec = IndexCodec::new(KvEncoding::Int8Index, dim);
        assert_eq!(codec.page_bytes(), 64 * (dim + 4));
        let mut page = vec![0xaa; codec.page_bytes()];
        let keys: Vec<Vec<f32>> = (0..PAGE_ROWS).map(|_| random.numbers(dim)).collect();
        for (slot, key) in keys.iter().enumerate().rev() {
            codec.encode(&mut page, slot, key);
        }
        let mut out = vec![0.0; dim];
        for (slot, key) in keys.iter().enumerate() {
            let largest = key.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            codec.decode(&page, slot, &mut out);
            assert!(out.iter().zip(key).all(|(a, b)| (a - b).abs() <= largest / 127.0 * 0.5001));
            assert_eq!(page[64 * dim + slot * 4..][..4], (largest / 127.0).to_le_bytes());
        }
    }
}

#[test]
fn int8_rounds_to_even_and_reaches_both_ends() {
    let codec = IndexCodec::new(KvEncoding::Int8Index, 8);
    let mut page = vec![0; codec.page_bytes()];
    codec.encode(&mut page, 1, &[254.0, -254.0, 1.0, 3.0, -1.0, -3.0, 5.0, 0.0]);
    assert_eq!(page[8..16].iter().map(|&b| b as i8).collect::<Vec<_>>(), [127, -127, 0, 2, 0, -2, 2, 0]);
    // A scale that is not exact: the largest is 127 all the same.
    for largest in [0.3f32, 1e-30, 3.4e38, 7.7777] {
        codec.encode(&mut page, 2, &[largest, -largest, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(page[16..18], [127, 129]);
    }
}

#[test]
fn int8_keys_of_zeros_are_zeros_and_damaged_ones_are_nan() {
    let codec = IndexCodec::new(KvEncoding::Int8Index, 4);
    let mut page = vec![0x55; codec.page_bytes()];
    let mut out = [1.0; 4];
    for tiny in [0.0, 1e-45, -1e-40] {
        codec.encode(&mut page, 9, &[tiny; 4]);
        codec.decode(&page, 9, &mut out);
        assert!(out.iter().all(|v| v.abs() <= 1e-39));
    }
    for damaged in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        codec.encode(&mut page, 9, &[1.0, damaged, 2.0, 3.0]);
        codec.decode(&page, 9, &mut out);
        assert!(out.iter().all(|v| v.is_nan()));
        assert_eq!(page[36..40], [0; 4], "the bytes are the same on every machine");
    }
}

#[test]
fn a_page_list_beyond_the_pool_is_refused() {
    let pool = [0; 30];
    assert!(Paged::new(&pool, 10, &[0, 2]).is_ok());
    assert_eq!(Paged::new(&pool, 10, &[0, 3]).unwrap_err(), PagedError { page: 3, pages: 3 });
}
