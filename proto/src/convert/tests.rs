//! Round trips, and messages of peers that lie or err.

use super::*;

/// Damage to a message.
type Change<M> = fn(&mut M);

fn geometry() -> t::Geometry {
    let store = |owner, part, stride, encoding, keep| t::Store {
        owner: t::LayerId(owner),
        part,
        stride,
        record: vec![t::Field { name: "x".into(), encoding, count: 8 }],
        placement: if stride == 1 { t::Placement::PerRow } else { t::Placement::FieldsApart },
        keep,
    };
    let read = |store, rows| t::Read { store: t::StoreId(store), rows };
    let layer = |id, choice, draft| t::Layer {
        id: t::LayerId(id),
        reads: vec![read(1, t::Rows::Chosen), read(2, t::Rows::All)],
        choice,
        draft,
    };
    t::Geometry {
        layout: "l".into(),
        stores: vec![
            store(0, t::Part::Index, 1, t::Encoding::I8, t::Keep::All),
            store(0, t::Part::Latent, 4, t::Encoding::E4m3, t::Keep::Window(128)),
            store(1, t::Part::Latent, 64, t::Encoding::Bf16, t::Keep::Value),
            store(1, t::Part::Latent, 1, t::Encoding::F32, t::Keep::All),
        ],
        layers: vec![
            layer(0, t::Choice::Own { scores: t::StoreId(0), k: 7 }, false),
            layer(1, t::Choice::Reuse { layer: t::LayerId(0) }, false),
            layer(2, t::Choice::None, true),
        ],
    }
}

fn ledger() -> w::Ledger {
    let part = |part, pages_total| w::PartLedger { part, page_bytes: 100, pages_total, pages_free: 3, pages_cached: 2 };
    w::Ledger { weights_bytes: 1, workspace_bytes: 2, parts: vec![part(1, 8), part(0, 9)] }
}

fn problem<T>(result: Result<T, Malformed>) -> &'static str {
    result.err().map_or("none", |e| e.field)
}

#[test]
fn every_kind_of_store_and_layer_comes_back() {
    assert_eq!(t::Geometry::try_from(&w::Geometry::from(&geometry())), Ok(geometry()));
}

#[test]
fn a_geometry_that_cannot_be_is_refused() {
    let sent = || w::Geometry::from(&geometry());
    let wrong: [(&str, Change<w::Geometry>); 6] = [
        ("part", |g| g.stores[0].part = 9),
        ("encoding", |g| g.stores[0].record[0].encoding = 0),
        ("store", |g| g.stores[0].keep = None),
        ("geometry", |g| g.stores[0].stride = 0),
        ("geometry", |g| g.layers[0].reads[0].store = u32::MAX),
        ("geometry", |g| g.layers[1].choice = Some(w::layer::Choice::Reuse(77))),
    ];
    for (field, change) in wrong {
        let mut geometry = sent();
        change(&mut geometry);
        assert_eq!(problem(t::Geometry::try_from(&geometry)), field);
    }
}

#[test]
fn a_ledger_comes_back_in_the_order_of_parts() {
    let read = t::Ledger::try_from(&ledger()).unwrap();
    assert_eq!(
        read.parts.iter().map(|p| (p.part, p.pages_total)).collect::<Vec<_>>(),
        [(t::Part::Index, 9), (t::Part::Latent, 8)]
    );
    assert_eq!(t::Ledger::try_from(&w::Ledger::from(&read)), Ok(read));
}

#[test]
fn a_ledger_that_cannot_be_is_refused() {
    let wrong: [Change<w::Ledger>; 5] = [
        |l| l.parts[0].part = 2,
        |l| l.parts[0].part = 0,
        |l| l.parts[0].pages_free = 7,
        |l| (l.parts[0].pages_free, l.parts[0].pages_cached) = (u64::MAX, u64::MAX),
        |l| l.parts[0].pages_total = u64::MAX,
    ];
    for change in wrong {
        let mut ledger = ledger();
        change(&mut ledger);
        assert_ne!(problem(t::Ledger::try_from(&ledger)), "none", "{ledger:?}");
    }
}

#[test]
fn sampling_comes_back_and_what_is_out_of_range_does_not() {
    let params = t::SamplingParams {
        temperature: 0.5,
        top_p: 0.9,
        top_k: 4,
        min_p: 0.1,
        repetition_penalty: 1.5,
        frequency_penalty: -1.0,
        presence_penalty: 2.0,
        logit_bias: vec![(3, -1.0), (9, 1.0)],
        seed: u64::MAX,
        choice: 3,
        max_tokens: 5,
        min_tokens: 2,
        stop_token_ids: vec![1, 2],
        logprobs: Some(0),
        forced: vec![9, 9, 4],
        choice_overlap: true,
    };
    assert_eq!(t::SamplingParams::try_from(&w::Sampling::from(&params)), Ok(params.clone()));
    let wrong = w::Sampling { temperature: f32::NAN, ..(&params).into() };
    assert_eq!(problem(t::SamplingParams::try_from(&wrong)), "sampling");
}

#[test]
fn cache_events_come_back_and_malformed_ones_do_not() {
    let event = t::CacheEvent {
        incarnation: t::Incarnation(9),
        sequence: 4,
        hash: t::ChainHash([7; 16]),
        change: t::CacheChange::Dropped,
        parts: t::PartSet::EMPTY.with(t::Part::Latent),
        tier: t::Tier::Disk,
    };
    let sent = w::CacheEvent::from(&event);
    assert_eq!(sent.read(9), Ok(event));
    assert_eq!(problem(w::CacheEvent { hash: vec![7; 15], ..sent.clone() }.read(9)), "hash");
    assert_eq!(problem(w::CacheEvent { tier: 3, ..sent }.read(9)), "tier");
}

#[test]
fn hashes_are_whole() {
    let hashes = [t::ChainHash([1; 16]), t::ChainHash([2; 16])];
    assert_eq!(hashes_from_bytes(&hashes_to_bytes(&hashes)).unwrap(), hashes);
    assert_eq!(problem(hashes_from_bytes(&[0; 17])), "hashes");
}
