//! The event stream: sessions whose prompts grow turn by turn, on workers whose caches are full.
//!
//! A session begins with one of a few shared prompts. Each turn asks who holds its prompt, is computed on the worker
//! that the session is at home on (now and then it moves), and is stored there; for that, the worker drops the last
//! blocks of the sessions that it has not seen for the longest time. Everything is drawn from one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use dynamo_kv_router::LocalBlockHash;
use dynamo_kv_router::protocols::compute_seq_hash_for_block;
use hadal_types::ChainHash;

/// What a fleet and its users are like.
#[derive(Clone, Copy)]
pub struct Shape {
    pub name: &'static str,
    pub workers: usize,
    /// Blocks that a worker holds.
    pub capacity: usize,
    /// Shared prompts, and the blocks of one.
    pub prompts: usize,
    pub prompt_blocks: usize,
    /// Blocks that a session starts with beside the shared ones: at least, at most.
    pub first_blocks: (u64, u64),
    /// Blocks of an ordinary turn, and of one in eight, at most.
    pub turn_blocks: (u64, u64),
    pub turns: u64,
    /// One turn in so many is computed on another worker.
    pub moves: u64,
}

/// Coding agents: a long shared prompt, long sessions, short turns; as in the trace of agentic coding sessions.
pub const AGENTS: Shape = Shape {
    name: "agents",
    workers: 256,
    capacity: 20_000,
    prompts: 8,
    prompt_blocks: 234,
    first_blocks: (200, 1_600),
    turn_blocks: (10, 150),
    turns: 40,
    moves: 32,
};

/// Chats: little is shared, few turns, most of a prompt is new; as in Mooncake's conversation trace.
pub const CHATS: Shape = Shape {
    name: "chats",
    workers: 256,
    capacity: 20_000,
    prompts: 64,
    prompt_blocks: 4,
    first_blocks: (10, 300),
    turn_blocks: (30, 120),
    turns: 4,
    moves: 8,
};

/// A prompt that can grow, in the hashes of both sides.
pub struct Session {
    prompt: usize,
    pub local: Vec<LocalBlockHash>,
    pub sequence: Vec<u64>,
    pub chain: Vec<ChainHash>,
}

/// One thing that happens. Blocks are `from..to` of the session's chain.
#[derive(Clone)]
pub enum Op {
    Store {
        worker: usize,
        session: Rc<Session>,
        from: usize,
        to: usize,
    },
    /// The last block first.
    Remove {
        worker: usize,
        session: Rc<Session>,
        from: usize,
        to: usize,
    },
}

/// Some turns: who holds these prompts, asked before what changed through them.
#[derive(Default)]
pub struct Round {
    pub lookups: Vec<(Rc<Session>, usize)>,
    pub changes: Vec<Op>,
}

impl Round {
    pub fn stored(&self) -> usize {
        self.changes.iter().map(|op| if let Op::Store { from, to, .. } = op { to - from } else { 0 }).sum()
    }

    pub fn removed(&self) -> usize {
        self.changes.iter().map(|op| if let Op::Remove { from, to, .. } = op { to - from } else { 0 }).sum()
    }
}

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

struct Live {
    id: u64,
    session: Rc<Session>,
    length: usize,
    home: usize,
    turns: u64,
}

/// What a worker holds of a session, without the shared blocks.
struct Resident {
    session: Rc<Session>,
    depth: usize,
    used: u64,
}

#[derive(Default)]
struct Worker {
    blocks: usize,
    residents: BTreeMap<u64, Resident>,
    oldest: BTreeSet<(u64, u64)>,
    /// Residents of each shared prompt.
    prompts: BTreeMap<usize, usize>,
}

/// Makes the stream.
pub struct Stream {
    shape: Shape,
    random: Random,
    live: Vec<Live>,
    workers: Vec<Worker>,
    sessions: u64,
    time: u64,
}

impl Stream {
    pub fn new(shape: Shape, seed: u64) -> Self {
        let workers = (0..shape.workers).map(|_| Worker::default()).collect();
        let mut stream = Self { shape, random: Random(seed), live: Vec::new(), workers, sessions: 0, time: 0 };
        // So many that about half of the cache belongs to sessions that go on.
        let length = (shape.first_blocks.0 + shape.first_blocks.1) / 2 + shape.turn_blocks.0 * shape.turns / 2;
        let count = shape.workers as u64 * shape.capacity as u64 / length / 2;
        for _ in 0..count {
            let live = stream.session();
            stream.live.push(live);
        }
        stream
    }

    /// Blocks held, summed over workers.
    pub fn memberships(&self) -> usize {
        self.workers.iter().map(|w| w.blocks).sum()
    }

    pub fn is_full(&self) -> bool {
        self.memberships() * 100 >= self.shape.workers * self.shape.capacity * 97
    }

    pub fn round(&mut self, turns: usize) -> Round {
        let mut round = Round::default();
        for _ in 0..turns {
            self.turn(&mut round);
        }
        round
    }

    fn turn(&mut self, round: &mut Round) {
        self.time += 1;
        let at = self.random.below(self.live.len() as u64) as usize;
        let live = &self.live[at];
        if live.turns == 0 || live.length == live.session.chain.len() {
            self.live[at] = self.session();
        } else {
            let most = if self.random.below(8) == 0 { self.shape.turn_blocks.1 } else { self.shape.turn_blocks.0 };
            let more = 1 + self.random.below(2 * most) as usize;
            let live = &mut self.live[at];
            live.length = (live.length + more).min(live.session.chain.len());
            live.turns -= 1;
        }
        if self.random.below(self.shape.moves) == 0 {
            self.live[at].home = self.random.below(self.shape.workers as u64) as usize;
        }
        let live = &self.live[at];
        round.lookups.push((live.session.clone(), live.length));
        let (id, session, length, home) = (live.id, live.session.clone(), live.length, live.home);
        self.store(home, id, session, length, round);
        self.evict(home, id, round);
    }

    fn session(&mut self) -> Live {
        let shape = self.shape;
        let id = self.sessions;
        self.sessions += 1;
        let prompt = self.random.below(shape.prompts as u64) as usize;
        let (least, most) = shape.first_blocks;
        let first = shape.prompt_blocks + (least + self.random.below(most - least)) as usize;
        let length = first + (shape.turns * shape.turn_blocks.0 + shape.turns / 8 * shape.turn_blocks.1) as usize;
        let local: Vec<LocalBlockHash> = (0..length.min(2048).max(first))
            .map(|n| {
                if n < shape.prompt_blocks {
                    mix(1 + (prompt << 20 | n) as u64)
                } else {
                    mix(id << 20 | n as u64 | 1 << 62)
                }
            })
            .map(LocalBlockHash)
            .collect();
        let sequence = compute_seq_hash_for_block(&local);
        let chain = sequence.iter().map(|hash| chain_hash(*hash)).collect();
        let home = self.random.below(shape.workers as u64) as usize;
        Live {
            id,
            session: Rc::new(Session { prompt, local, sequence, chain }),
            length: first,
            home,
            turns: shape.turns,
        }
    }

    fn store(&mut self, at: usize, id: u64, session: Rc<Session>, length: usize, round: &mut Round) {
        let shared = self.shape.prompt_blocks;
        let worker = &mut self.workers[at];
        let resident = worker.residents.entry(id).or_insert_with(|| {
            let of_prompt = worker.prompts.entry(session.prompt).or_default();
            *of_prompt += 1;
            if *of_prompt == 1 {
                worker.blocks += shared;
                round.changes.push(Op::Store { worker: at, session: session.clone(), from: 0, to: shared });
            }
            Resident { session: session.clone(), depth: shared, used: 0 }
        });
        worker.oldest.remove(&(resident.used, id));
        resident.used = self.time;
        worker.oldest.insert((self.time, id));
        let (from, to) = (resident.depth, length);
        if from < to {
            resident.depth = to;
            worker.blocks += to - from;
            round.changes.push(Op::Store { worker: at, session, from, to });
        }
    }

    fn evict(&mut self, at: usize, keep: u64, round: &mut Round) {
        let shared = self.shape.prompt_blocks;
        let worker = &mut self.workers[at];
        while worker.blocks > self.shape.capacity {
            let Some(&(used, id)) = worker.oldest.first().filter(|(_, id)| *id != keep) else { return };
            let Some(resident) = worker.residents.get_mut(&id) else { return };
            let over = worker.blocks - self.shape.capacity;
            let (session, to) = (resident.session.clone(), resident.depth);
            let from = to.saturating_sub(over).max(shared);
            worker.blocks -= to - from;
            resident.depth = from;
            if from < to {
                round.changes.push(Op::Remove { worker: at, session: session.clone(), from, to });
            }
            if from > shared {
                continue;
            }
            worker.residents.remove(&id);
            worker.oldest.remove(&(used, id));
            let of_prompt = worker.prompts.entry(session.prompt).or_default();
            *of_prompt -= 1;
            if *of_prompt == 0 {
                worker.blocks -= shared;
                round.changes.push(Op::Remove { worker: at, session, from: 0, to: shared });
            }
        }
    }
}

/// The peer's hashes have 64 bits, ours 128.
pub fn chain_hash(sequence: u64) -> ChainHash {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&sequence.to_le_bytes());
    bytes[8..].copy_from_slice(&mix(sequence).to_le_bytes());
    ChainHash(bytes)
}
