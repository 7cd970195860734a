//! What a view keeps of the coordinator's messages.

use super::*;

fn worker(id: &str, fingerprint: u8, role: &str, pages: u64) -> w::FleetWorker {
    w::FleetWorker {
        id: id.into(),
        incarnation: 7,
        role: role.into(),
        model_name: "m".into(),
        architecture: "a".into(),
        fingerprint: vec![fingerprint; 16],
        numerics_class: vec![fingerprint; 16],
        grpc_address: "127.0.0.1:1".into(),
        context_tokens: 100 + u32::from(fingerprint),
        ledger: Some(w::Ledger {
            parts: vec![w::PartLedger {
                part: 1,
                page_bytes: 1,
                pages_total: pages,
                pages_free: pages,
                pages_cached: 0,
            }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn read(workers: Vec<w::FleetWorker>) -> View {
    View::read(&w::FleetView { term: 1, workers, queued: 0 })
}

#[test]
fn the_checkpoint_with_most_workers_stands_for_the_name() {
    let view = read(vec![worker("a", 9, "decode", 2), worker("b", 3, "prefill", 50), worker("c", 3, "decode", 4)]);
    let model = &view.models["m"];
    assert_eq!(model.fingerprint, Fingerprint([3; 16]));
    assert_eq!(model.workers.len(), 2);
    assert_eq!(model.classes, [NumericsClass([3; 16])]);
}

#[test]
fn only_workers_that_may_own_requests_count_for_the_longest_sequence() {
    let view = read(vec![worker("a", 3, "prefill", 50), worker("b", 3, "mixed", 4)]);
    assert_eq!(view.models["m"].tokens_max, 4 * 64);
    assert_eq!(read(vec![worker("a", 3, "prefill", 50)]).models["m"].tokens_max, 0);
}

#[test]
fn a_worker_that_cannot_be_understood_hides_only_itself() {
    let bad = w::FleetWorker { fingerprint: vec![1, 2], ..worker("bad", 3, "decode", 4) };
    let nameless = w::FleetWorker { model_name: String::new(), ..worker("x", 3, "decode", 4) };
    let view = read(vec![bad, nameless, worker("good", 3, "decode", 4)]);
    assert_eq!(view.models.len(), 1);
    assert_eq!(view.models["m"].workers.len(), 1);
}
