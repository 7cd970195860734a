//! Elections by hand, and any number of candidates over a store that loses answers, stops and lets leases end.

use proptest::collection::vec;
use proptest::prelude::*;

use super::ElectionCommand as C;
use super::ElectionEvent as E;
use super::*;

const CONFIG: ElectionConfig =
    ElectionConfig { retry_min: Duration::from_millis(100), retry_max: Duration::from_millis(800) };
const TTL: Duration = Duration::from_secs(3);

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn leader(term: u64, lease: i64) -> Leader {
    Leader { address: format!("c{lease}:1"), term: Term(term), lease: StoreLease(lease) }
}

/// A candidate with lease 1, which has just asked for the key.
fn candidate() -> Election {
    let mut election = Election::new(CONFIG);
    assert_eq!(election.on(at(0), E::Tick), [C::Grant]);
    let granted = E::Granted { lease: StoreLease(1), asked: at(0), ttl: TTL };
    assert_eq!(election.on(at(10), granted), [C::Campaign(StoreLease(1))]);
    election
}

fn leading() -> Election {
    let mut election = candidate();
    assert_eq!(election.on(at(20), E::Won { term: Term(7) }), [C::Lead(Term(7))]);
    election
}

fn following() -> Election {
    let mut election = candidate();
    let seen = Seen { revision: 7, leader: Some(leader(5, 9)) };
    assert_eq!(election.on(at(20), E::Held(seen)), [C::Follow(leader(5, 9))]);
    election
}

#[test]
fn the_lease_is_renewed_while_it_is_led() {
    let mut election = leading();
    assert_eq!(election.on(at(499), E::Tick), []);
    assert_eq!(election.on(at(500), E::Tick), [C::Renew(StoreLease(1))]);
    // One call at a time.
    assert_eq!(election.on(at(1200), E::Tick), []);
    assert_eq!(election.may_command_until(), Some(at(2700)));
    assert_eq!(election.on(at(1200), E::Renewed { asked: at(500), ttl: TTL }), [C::Renew(StoreLease(1))]);
    assert_eq!(election.may_command_until(), Some(at(3200)));
}

#[test]
fn without_the_store_the_leader_goes_on_and_may_not_command() {
    let mut election = leading();
    let mut now = 500;
    let mut pauses = Vec::new();
    assert_eq!(election.on(at(now), E::Tick), [C::Renew(StoreLease(1))]);
    for _ in 0..6 {
        election.on(at(now), E::Failed);
        let failed = now;
        while election.on(at(now), E::Tick).is_empty() {
            now += 10;
        }
        pauses.push(now - failed);
    }
    assert_eq!(pauses, [100, 200, 400, 800, 800, 800]);
    assert_eq!(election.leads(), Some(Term(7)));
    assert!(election.may_command_until().unwrap() < at(now));
    // The store is back, and has kept the lease.
    assert_eq!(election.on(at(now), E::Renewed { asked: at(now), ttl: TTL }), []);
    assert!(election.may_command_until().unwrap() > at(now));
}

#[test]
fn a_leader_that_slept_learns_that_it_was_deposed() {
    let mut election = leading();
    // Stopped for ten seconds: before anything else has happened, the right to command is gone.
    assert!(election.may_command_until().unwrap() < at(10_000));
    assert_eq!(election.on(at(10_000), E::Tick), [C::Renew(StoreLease(1))]);
    assert_eq!(election.on(at(10_010), E::LeaseGone), [C::StepDown("its lease ended"), C::Grant]);
    assert_eq!((election.leads(), election.may_command_until()), (None, None));
}

#[test]
fn a_newer_leader_deposes_and_old_news_does_not() {
    let mut election = leading();
    assert_eq!(election.on(at(30), E::Seen(Seen { revision: 6, leader: None })), []);
    assert_eq!(election.on(at(30), E::Seen(Seen { revision: 6, leader: Some(leader(4, 3)) })), []);
    assert_eq!(election.leads(), Some(Term(7)));
    let seen = Seen { revision: 9, leader: Some(leader(9, 3)) };
    let commands = election.on(at(40), E::Seen(seen));
    assert_eq!(commands, [C::StepDown("another coordinator leads"), C::Follow(leader(9, 3))]);
}

#[test]
fn a_follower_campaigns_when_the_key_is_gone() {
    let mut election = following();
    assert_eq!(
        election.on(at(200), E::Seen(Seen { revision: 8, leader: None })),
        [C::Unfollow, C::Campaign(StoreLease(1))]
    );
}

#[test]
fn a_reset_of_the_leader_that_is_followed_unseats_it_and_no_other_does() {
    let mut election = following();
    assert_eq!(election.on(at(200), E::Reset { term: Term(4) }), []);
    assert_eq!(election.on(at(200), E::Reset { term: Term(5) }), [C::Unseat(Term(5))]);
    // The store is away: the intent stays.
    assert_eq!(election.on(at(210), E::Failed), []);
    assert_eq!(election.on(at(310), E::Tick), [C::Unseat(Term(5))]);
    assert_eq!(election.on(at(320), E::Unseated { revision: 11 }), [C::Unfollow, C::Campaign(StoreLease(1))]);
}

#[test]
fn a_campaign_whose_answer_was_lost_is_won_when_its_key_is_seen() {
    let mut election = candidate();
    let seen = Seen { revision: 7, leader: Some(leader(7, 1)) };
    assert_eq!(election.on(at(20), E::Seen(seen.clone())), [C::Lead(Term(7))]);
    election.on(at(30), E::Failed);
    assert_eq!(election.on(at(40), E::Seen(seen)), []);
    assert_eq!(election.leads(), Some(Term(7)));
}

#[test]
fn who_resigns_gives_the_lease_back_and_does_nothing_more() {
    let mut election = leading();
    assert_eq!(election.on(at(30), E::Resign), [C::StepDown("it ends"), C::Revoke(StoreLease(1))]);
    assert_eq!(election.on(at(9000), E::Tick), []);
    assert_eq!(election.on(at(9000), E::Seen(Seen { revision: 99, leader: None })), []);
}

/// A store that several candidates share, simple enough to be right.
#[derive(Default)]
struct Store {
    revision: u64,
    key: Option<Leader>,
    leases: std::collections::BTreeMap<i64, Duration>,
}

struct Cluster {
    now: Duration,
    store: Store,
    elections: Vec<Election>,
    /// The call that waits for the store, if one does, by candidate.
    calls: Vec<Option<(Duration, C)>>,
    /// Who has led which term.
    led: std::collections::BTreeMap<u64, usize>,
}

/// What the world does next.
#[derive(Clone, Debug)]
enum Step {
    /// So many milliseconds pass; all tick.
    Pass(u64),
    /// The store takes a candidate's call up; its answer arrives or is lost.
    Answer { who: usize, arrives: bool },
    /// A candidate is told what the key is.
    Tell { who: usize },
    /// A candidate believes, rightly or not, that the leader's process has ended.
    Reset { who: usize },
}

impl Cluster {
    fn new(count: usize) -> Self {
        let elections = (0..count).map(|_| Election::new(CONFIG)).collect();
        let calls = vec![None; count];
        Self { now: at(0), store: Store::default(), elections, calls, led: Default::default() }
    }

    fn give(&mut self, who: usize, event: E) {
        for command in self.elections[who].on(self.now, event) {
            match command {
                C::Grant | C::Renew(_) | C::Campaign(_) | C::Unseat(_) => {
                    assert!(self.calls[who].is_none(), "two calls at a time");
                    self.calls[who] = Some((self.now, command));
                }
                C::Lead(term) => {
                    assert_eq!(*self.led.entry(term.0).or_insert(who), who, "two leaders of term {}", term.0);
                }
                C::Revoke(_) | C::StepDown(_) | C::Follow(_) | C::Unfollow => {}
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now += at(ms);
        let ended: Vec<i64> = self.store.leases.iter().filter(|(_, end)| **end <= self.now).map(|(l, _)| *l).collect();
        for lease in ended {
            self.store.leases.remove(&lease);
            if self.store.key.as_ref().is_some_and(|key| key.lease.0 == lease) {
                self.store.revision += 1;
                self.store.key = None;
            }
        }
        (0..self.elections.len()).for_each(|who| self.give(who, E::Tick));
    }

    fn answer(&mut self, who: usize, arrives: bool) {
        let Some((asked, call)) = self.calls[who].take() else { return };
        let store = &mut self.store;
        let event = match call {
            C::Grant => {
                store.revision += 1;
                let lease = store.revision as i64;
                store.leases.insert(lease, self.now + TTL);
                E::Granted { lease: StoreLease(lease), asked, ttl: TTL }
            }
            C::Renew(lease) if store.leases.contains_key(&lease.0) => {
                store.leases.insert(lease.0, self.now + TTL);
                E::Renewed { asked, ttl: TTL }
            }
            C::Campaign(lease) if store.leases.contains_key(&lease.0) => match &store.key {
                None => {
                    store.revision += 1;
                    store.key = Some(leader(store.revision, lease.0));
                    E::Won { term: Term(store.revision) }
                }
                Some(key) => E::Held(Seen { revision: store.revision, leader: Some(key.clone()) }),
            },
            C::Unseat(term) => {
                if store.key.as_ref().is_some_and(|key| key.term == term) {
                    store.revision += 1;
                    store.key = None;
                    E::Unseated { revision: store.revision }
                } else {
                    E::Held(Seen { revision: store.revision, leader: store.key.clone() })
                }
            }
            _ => E::LeaseGone,
        };
        self.give(who, if arrives { event } else { E::Failed });
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Pass(ms) => self.pass(ms),
            Step::Answer { who, arrives } => self.answer(who, arrives),
            Step::Tell { who } => {
                let seen = Seen { revision: self.store.revision, leader: self.store.key.clone() };
                self.give(who, E::Seen(seen));
            }
            Step::Reset { who } => {
                if let Some(key) = &self.store.key {
                    let term = key.term;
                    self.give(who, E::Reset { term });
                }
            }
        }
        self.at_most_one_may_command();
    }

    /// Whoever may command has the lease still, so that it was not replaced for its silence; who was unseated while it
    /// lived is fenced by the workers.
    fn at_most_one_may_command(&self) {
        let may = |e: &&Election| e.may_command_until().is_some_and(|until| self.now < until);
        for election in self.elections.iter().filter(may) {
            let lease = election.lease.unwrap().lease;
            assert!(self.store.leases.contains_key(&lease.0), "it commands without a lease");
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0..3usize;
    let step = prop_oneof![
        4 => (1..700u64).prop_map(Step::Pass),
        8 => (who.clone(), prop::bool::weighted(0.8)).prop_map(|(who, arrives)| Step::Answer { who, arrives }),
        4 => who.clone().prop_map(|who| Step::Tell { who }),
        1 => who.prop_map(|who| Step::Reset { who }),
    ];
    vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_term_has_one_leader_and_who_may_command_has_the_lease(steps in steps()) {
        let mut cluster = Cluster::new(3);
        steps.iter().for_each(|step| cluster.apply(step));
        // Left alone with a store that answers, one of them leads, and the store agrees.
        for _ in 0..20 {
            cluster.pass(200);
            for who in 0..3 {
                cluster.answer(who, true);
                cluster.apply(&Step::Tell { who });
            }
        }
        let leaders: Vec<Term> = cluster.elections.iter().filter_map(Election::leads).collect();
        prop_assert_eq!(leaders, vec![cluster.store.key.unwrap().term]);
    }
}
