//! Two workers on paper and a network that keeps order, and loses what it is told to lose.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hadal_types::{BLOCK_TOKENS, LeaseId, StoreId};

use super::engine::{Fault, request_of};
use super::rig::Rig;
use crate::{Command, Config, Event, FailureKind, Generate, Prefill, RequestKey, Unexpected};

pub(super) struct Pair {
    pub(super) workers: [Rig; 2],
    pub(super) network: VecDeque<(LeaseId, Packet)>,
    pub(super) links: BTreeMap<LeaseId, Link>,
    /// Bytes that a receiver grants at first.
    pub(super) window: u64,
}

/// One attempt: who owns the request, and what the peer calls it.
pub(super) struct Link {
    owner: usize,
    request: RequestKey,
    leg: u32,
    job: Option<RequestKey>,
    closed: bool,
}

#[derive(Debug)]
pub(super) enum Packet {
    Start(Box<Prefill>),
    Accepted { cached_tokens: u32 },
    Failed { retryable: bool },
    Credit { bytes: u64 },
    Page { block: u32, store: StoreId, rows: Vec<u64> },
    End,
    Acknowledged,
    Stop,
    Broken,
}

type Page = [u64; BLOCK_TOKENS as usize];

impl Pair {
    pub(super) fn new(configs: [Config; 2]) -> Self {
        Self { workers: configs.map(Rig::new), network: VecDeque::new(), links: BTreeMap::new(), window: 1 << 20 }
    }

    pub(super) fn generate(&mut self, worker: usize, g: Generate) -> RequestKey {
        let (key, out) = self.workers[worker].generate(g);
        self.carry_out(worker, out);
        key
    }

    pub(super) fn on(&mut self, worker: usize, event: Event) {
        let out = self.workers[worker].on(event);
        self.carry_out(worker, out);
    }

    pub(super) fn begin_step(&mut self, worker: usize) {
        let out = self.workers[worker].begin_step();
        self.carry_out(worker, out);
    }

    pub(super) fn end_step(&mut self, worker: usize, fault: Fault) {
        let mut pages = VecDeque::new();
        let out = self.workers[worker].end_step(fault, &mut |engine, command| {
            if let Command::SendBlock { store, page, .. } = command {
                pages.push_back(engine.page(*store, *page));
            }
        });
        self.carry_out_with(worker, out, pages);
    }

    /// Pages handed out by an event are read at once.
    fn carry_out(&mut self, worker: usize, out: Vec<Command>) {
        let engine = &self.workers[worker].engine;
        let page = |c: &Command| match c {
            Command::SendBlock { store, page, .. } => Some(engine.page(*store, *page)),
            _ => None,
        };
        let pages = out.iter().filter_map(page).collect();
        self.carry_out_with(worker, out, pages);
    }

    fn carry_out_with(&mut self, worker: usize, out: Vec<Command>, mut pages: VecDeque<Page>) {
        for command in out {
            if let Command::StartPrefill { request, leg, tokens, blocks_held, lease } = command {
                self.start(worker, (request, leg), (tokens, blocks_held, lease));
            } else if let Command::StopPrefill { request, leg } = command {
                let of = |l: &&mut Link| (l.owner, l.request, l.leg) == (worker, request, leg);
                self.links.values_mut().filter(of).for_each(|l| l.closed = true);
                let lease = self.links.iter().find(|(_, l)| (l.owner, l.request, l.leg) == (worker, request, leg));
                let lease = *lease.unwrap().0;
                self.network.push_back((lease, Packet::Stop));
            } else if let Some((lease, packet)) = self.job_packet(worker, &command, &mut pages) {
                self.network.push_back((lease, packet));
            }
        }
        assert!(pages.is_empty());
    }

    fn start(&mut self, owner: usize, (request, leg): (RequestKey, u32), what: (Vec<u32>, u32, Duration)) {
        let lease = LeaseId(self.links.len() as u128 + 1);
        let rig = &self.workers[owner];
        let (tokens, blocks_held, duration) = what;
        let prefill = Prefill {
            id: rig.core.requests[&request].id.clone(),
            lease,
            tokens,
            blocks_held,
            salt: Vec::new(),
            attention: rig.core.requests[&request].attention,
            deadline: rig.core.requests[&request].deadline,
            lease_until: rig.now + duration,
        };
        self.links.insert(lease, Link { owner, request, leg, job: None, closed: false });
        self.network.push_back((lease, Packet::Start(Box::new(prefill))));
    }

    /// What a prefill job of this worker tells the owner.
    fn job_packet(&self, worker: usize, command: &Command, pages: &mut VecDeque<Page>) -> Option<(LeaseId, Packet)> {
        let job = request_of(command)?;
        let (&lease, _) = self.links.iter().find(|(_, l)| l.owner != worker && l.job == Some(job))?;
        let packet = match command {
            Command::PrefillAccepted { cached_tokens, .. } => Packet::Accepted { cached_tokens: *cached_tokens },
            Command::SendBlock { block, store, rows, .. } => {
                let rows = pages.pop_front().unwrap()[..*rows as usize].to_vec();
                Packet::Page { block: *block, store: *store, rows }
            }
            Command::SendEnd { .. } => Packet::End,
            Command::Failed { failure, .. } => Packet::Failed { retryable: failure.kind != FailureKind::Busy },
            _ => return None,
        };
        Some((lease, packet))
    }

    /// Delivers the oldest packet, if there is one.
    pub(super) fn deliver(&mut self) -> bool {
        let Some((lease, packet)) = self.network.pop_front() else { return false };
        let link = &self.links[&lease];
        let (owner, request, leg, job) = (link.owner, link.request, link.leg, link.job);
        let peer = 1 - owner;
        match packet {
            Packet::Start(prefill) => {
                // The link must know the job before its commands are carried out; the rig counts keys up.
                let (key, out) = self.workers[peer].prefill(*prefill);
                self.links.get_mut(&lease).unwrap().job = Some(key);
                self.carry_out(peer, out);
            }
            Packet::Accepted { cached_tokens } => {
                self.on(owner, Event::PrefillAccepted { request, leg, cached_tokens });
                self.network.push_back((lease, Packet::Credit { bytes: self.window }));
            }
            Packet::Failed { retryable } => self.on(owner, Event::PrefillFailed { request, leg, retryable }),
            Packet::Page { block, store, rows } => self.receive(lease, (block, store), &rows),
            Packet::End => {
                self.on(owner, Event::PrefillEnded { request, leg });
                self.network.push_back((lease, Packet::Acknowledged));
            }
            Packet::Credit { bytes } => self.tell_job(peer, job, |request| Event::SendCredit { request, bytes }),
            Packet::Acknowledged => self.tell_job(peer, job, |request| Event::SendAcknowledged { request }),
            Packet::Stop => self.tell_job(peer, job, Event::Cancel),
            Packet::Broken => {
                self.tell_job(peer, job, |request| Event::SendFailed { request, message: "broken".into() });
                self.on(owner, Event::PrefillFailed { request, leg, retryable: true });
            }
        }
        true
    }

    fn tell_job(&mut self, peer: usize, job: Option<RequestKey>, event: impl Fn(RequestKey) -> Event) {
        if let Some(job) = job {
            self.on(peer, event(job));
        }
    }

    fn receive(&mut self, lease: LeaseId, (block, store): (u32, StoreId), rows: &[u64]) {
        let link = &self.links[&lease];
        let (owner, request, leg) = (link.owner, link.request, link.leg);
        let rig = &mut self.workers[owner];
        match rig.core.incoming_page(request, leg, block, store) {
            Ok(target) => {
                assert_eq!(target.rows as usize, rows.len());
                rig.engine.write(store, target.page, rows);
                self.on(owner, Event::BlockArrived { request, leg, block, store });
                let bytes = self.workers[owner].core.config().geometry.store(store).unwrap().block_bytes();
                self.network.push_back((lease, Packet::Credit { bytes }));
            }
            Err(error) => assert_eq!(error, Unexpected::Over, "an honest peer sends what is wanted"),
        }
    }

    /// Breaks the connection of an attempt: what is on the way is lost, and both sides notice.
    pub(super) fn break_link(&mut self, nth: usize) {
        let live: Vec<LeaseId> = self.links.iter().filter(|(_, l)| !l.closed).map(|(lease, _)| *lease).collect();
        let Some(&lease) = live.get(nth % live.len().max(1)) else { return };
        self.network.retain(|(of, _)| *of != lease);
        self.network.push_back((lease, Packet::Broken));
        self.links.get_mut(&lease).unwrap().closed = true;
    }

    /// Loses one page on the way; the receiver gives its credit back all the same.
    pub(super) fn lose_page(&mut self) {
        let page = self.network.iter_mut().find(|(_, p)| matches!(p, Packet::Page { .. }));
        if let Some((_, packet)) = page {
            *packet = Packet::Credit { bytes: 512 };
        }
    }

    /// Lets everything finish.
    pub(super) fn settle(&mut self) {
        for _ in 0..20_000 {
            let mut busy = self.deliver();
            for worker in [0, 1] {
                self.begin_step(worker);
                busy |= self.workers[worker].stepping;
                self.end_step(worker, Fault::None);
            }
            if !busy && self.network.is_empty() {
                return;
            }
        }
        panic!("it goes on for ever");
    }
}
