//! What each policy chooses, and that ties go where equal prefixes go.

use super::*;

fn candidate(slot: u16) -> Candidate {
    Candidate {
        slot,
        requests: 0,
        tokens_queued: 0,
        tokens_cached: 0,
        tokens_missing: 1000,
        blocks_available: 100,
        rank: u64::from(slot),
    }
}

fn policy(name: &str) -> Box<dyn Policy> {
    by_name(name, &Settings::default()).unwrap()
}

/// What every policy promises: a choice whenever there is one, and the same choices for the same questions.
#[test]
fn every_policy_keeps_the_contract() {
    for name in names() {
        let (mut one, mut two) = (policy(name), policy(name));
        assert_eq!(one.choose(Job::Decode, &[]), None, "{name}");
        for count in 1..6u16 {
            let candidates: Vec<Candidate> = (0..count).map(|slot| candidate(slot * 3)).collect();
            for job in [Job::Decode, Job::Prefill] {
                let choice = one.choose(job, &candidates);
                assert!(choice.is_some_and(|c| c < candidates.len()), "{name}");
                assert_eq!(choice, two.choose(job, &candidates), "{name}");
            }
        }
        let extreme = Candidate { requests: u64::MAX, tokens_queued: u64::MAX, ..candidate(0) };
        assert_eq!(one.choose(Job::Decode, &[extreme]), Some(0), "{name}");
    }
}

#[test]
fn an_unknown_policy_is_refused_with_the_known_names() {
    let error = by_name("random", &Settings::default()).err().unwrap();
    assert!(error.to_string().contains("prefix-affinity, least-loaded, round-robin"));
}

#[test]
fn affinity_holds_until_the_queue_costs_more_than_the_prefix() {
    let mut policy = policy("prefix-affinity");
    let holder = |requests| Candidate { requests, tokens_cached: 900, tokens_missing: 100, ..candidate(0) };
    assert_eq!(policy.choose(Job::Decode, &[holder(3), candidate(1)]), Some(0));
    assert_eq!(policy.choose(Job::Decode, &[holder(4), candidate(1)]), Some(1));
    let queued = Candidate { tokens_queued: 901, ..holder(0) };
    assert_eq!(policy.choose(Job::Prefill, &[queued, candidate(1)]), Some(1));
}

#[test]
fn equals_are_told_apart_by_rank() {
    let low = Candidate { rank: 1, ..candidate(0) };
    let high = Candidate { rank: 2, ..candidate(1) };
    for name in ["prefix-affinity", "least-loaded"] {
        assert_eq!(policy(name).choose(Job::Decode, &[low, high]), Some(1), "{name}");
    }
}

#[test]
fn least_loaded_counts_requests_first() {
    let few = Candidate { requests: 1, tokens_queued: 10_000, ..candidate(0) };
    let many = Candidate { requests: 2, tokens_cached: 1000, tokens_missing: 0, ..candidate(1) };
    assert_eq!(policy("least-loaded").choose(Job::Decode, &[few, many]), Some(0));
}

#[test]
fn round_robin_takes_turns_for_each_job_and_skips_who_is_missing() {
    let mut policy = policy("round-robin");
    let all: Vec<Candidate> = (0..3).map(candidate).collect();
    let turns: Vec<_> = (0..4).filter_map(|_| policy.choose(Job::Decode, &all)).collect();
    assert_eq!(turns, [0, 1, 2, 0]);
    assert_eq!(policy.choose(Job::Prefill, &all), Some(0));
    assert_eq!(policy.choose(Job::Decode, &[candidate(0), candidate(2)]), Some(1));
}
