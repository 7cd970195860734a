//! An engine on paper. A row is a hash of the row before it, its token and its store, read and written through pages;
//! the sampled token is a hash of all rows of the sequence. So a wrong, stale or missing page changes the output.
//!
//! A draft layer's row is a hash of its token and of what the first store has for the token before, of the same step: the
//! hidden state that nobody keeps. The rig checks those that the core counts on. Drafts are right as often as the engine is
//! told.

use hadal_types::{BLOCK_TOKENS, Geometry, LayerId, Part, StoreId};

use crate::{Command, Core, Follow, Plan, RequestKey, Sampled, SliceResult, StepSlice, Tokens};

const BLOCK: usize = BLOCK_TOKENS as usize;

/// The pools' content: rows by store and page.
pub(super) struct Engine {
    geometry: Geometry,
    rows: Vec<Vec<[u64; BLOCK]>>,
    /// Of a hundred drafts, how many are right.
    pub(super) right: u64,
}

/// What goes wrong in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The first slice is not finite.
    NotFinite,
    /// The whole step fails.
    Step,
}

fn mix(a: u64, b: u64) -> u64 {
    let x = (a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x2545_f491_4f6c_dd1d);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 27)
}

/// The next token after these: what any worker must sample, however it came to the rows.
pub(super) fn next_token(geometry: &Geometry, tokens: &[u32], seed: u64, vocabulary: u32) -> u32 {
    let mut digest = 0;
    for store in 0..geometry.without_drafts().stores.len() as u64 {
        let mut row = store;
        for &token in tokens {
            row = mix(row, u64::from(token));
            digest = mix(digest, row);
        }
    }
    (mix(digest, seed) % u64::from(vocabulary)) as u32
}

impl Engine {
    pub(super) fn new(geometry: &Geometry, pages: [u32; Part::ALL.len()]) -> Self {
        let store = |part: Part| vec![[u64::MAX; BLOCK]; pages[part.index()] as usize];
        Self { geometry: geometry.clone(), rows: geometry.stores.iter().map(|s| store(s.part)).collect(), right: 50 }
    }

    pub(super) fn page(&self, store: StoreId, page: u32) -> [u64; BLOCK] {
        self.rows[store.0 as usize][page as usize]
    }

    pub(super) fn write(&mut self, store: StoreId, page: u32, rows: &[u64]) {
        self.rows[store.0 as usize][page as usize][..rows.len()].copy_from_slice(rows);
    }

    /// Computes what a layer owns; the shell then says `layer_done`. The last row of a slice that is not finite is wrong.
    pub(super) fn layer(&mut self, plan: &Plan, layer: LayerId, fault: Fault) {
        for (i, slice) in plan.slices().iter().enumerate() {
            for store in self.geometry.stores_owned_by(layer).collect::<Vec<_>>() {
                let pages = plan.pages(slice, self.geometry.store(store).unwrap().part);
                let at = |p: usize| (pages[p / BLOCK] as usize, p % BLOCK);
                let rows = &mut self.rows[store.0 as usize];
                for (p, &token) in (slice.start as usize..).zip(plan.tokens(slice)) {
                    let before = p.checked_sub(1).map_or(u64::from(store.0), |p| rows[at(p).0][at(p).1]);
                    rows[at(p).0][at(p).1] = mix(before, u64::from(token));
                }
                if i == 0 && fault == Fault::NotFinite {
                    let last = slice.start as usize + plan.tokens(slice).len() - 1;
                    rows[at(last).0][at(last).1] = u64::MAX;
                }
            }
        }
    }

    /// Samples each slice that wants it, and has the draft layer follow.
    pub(super) fn results(&mut self, core: &Core, plan: &Plan, fault: Fault) -> Vec<SliceResult> {
        let result = |(i, slice): (usize, &StepSlice)| {
            if i == 0 && fault == Fault::NotFinite {
                return SliceResult::NotFinite;
            }
            if !slice.sample {
                self.follow(plan, slice, plan.tokens(slice));
                return SliceResult::Computed;
            }
            let (before, last) = plan.tokens(slice).split_at(plan.tokens(slice).len() - usize::from(slice.draft));
            let first = self.sample(core, plan, slice, before.len());
            let second =
                last.first().filter(|t| **t == first).map(|_| self.sample(core, plan, slice, before.len() + 1));
            let mut tokens = before.to_vec();
            tokens.push(first);
            tokens.extend(second);
            let written = if slice.follow == Follow::Nothing { before.len() } else { tokens.len() };
            self.follow(plan, slice, &tokens[..written]);
            let sampled = |token| Sampled { token, logprobs: None };
            let draft =
                (slice.follow == Follow::Draft).then(|| self.draft(core, slice.request, &tokens[before.len()..]));
            SliceResult::Tokens(Tokens { first: sampled(first), second: second.map(sampled), draft })
        };
        plan.slices().iter().enumerate().map(result).collect()
    }

    /// The token after so many of a slice's.
    fn sample(&self, core: &Core, plan: &Plan, slice: &StepSlice, tokens: usize) -> u32 {
        let inputs = core.sample_inputs(slice.request).unwrap();
        let sequence = inputs.prompt.len() + inputs.output.len();
        let index = slice.start as usize + tokens - inputs.prompt.len();
        let mut digest = 0;
        for (store, s) in self.geometry.without_drafts().stores.iter().enumerate() {
            let pages = plan.pages(slice, s.part);
            for p in 0..slice.start as usize + tokens {
                digest = mix(digest, self.rows[store][pages[p / BLOCK] as usize][p % BLOCK]);
            }
        }
        assert!(slice.start as usize + tokens <= sequence + 1);
        let drawn = (mix(digest, inputs.params.seed) % u64::from(core.config().vocab_tokens)) as u32;
        inputs.params.forced.get(index).copied().unwrap_or(drawn)
    }

    /// Writes the draft rows of these tokens, which begin where the slice does and go one beyond its rows at most.
    fn follow(&mut self, plan: &Plan, slice: &StepSlice, tokens: &[u32]) {
        let start = slice.start as usize;
        for (store, s) in self.geometry.stores.iter().enumerate().skip(self.geometry.without_drafts().stores.len()) {
            let main = plan.pages(slice, self.geometry.stores[0].part);
            let pages = plan.pages(slice, s.part);
            let at = |p: usize, pages: &[u32]| (pages[p / BLOCK] as usize, p % BLOCK);
            let value = |rows: &[Vec<[u64; BLOCK]>], p: usize, token: u32| {
                let (page, slot) = at(p - 1, main);
                mix(mix(rows[0][page][slot], u64::from(token)), store as u64)
            };
            if start == 0 {
                let (page, slot) = at(0, pages);
                self.rows[store][page][slot] = 0;
            }
            for (p, &token) in (start..).zip(tokens).skip(1) {
                let (page, slot) = at(p, pages);
                self.rows[store][page][slot] = value(&self.rows, p, token);
            }
        }
    }

    /// What the draft layer says after these tokens behind a request's sequence.
    fn draft(&self, core: &Core, request: RequestKey, sampled: &[u32]) -> u32 {
        let inputs = core.sample_inputs(request).unwrap();
        let tokens = [inputs.prompt, inputs.output, sampled].concat();
        let vocabulary = core.config().vocab_tokens;
        let token = next_token(&self.geometry, &tokens, inputs.params.seed, vocabulary);
        let right = mix(u64::from(token), tokens.len() as u64) % 100 < self.right;
        if right { token } else { (token + 1) % vocabulary }
    }

    /// Checks the draft rows of the first `rows` tokens of a sequence in these pages.
    pub(super) fn check_drafts(&self, tokens: &[u32], rows: usize, pages: impl Fn(Part) -> Vec<u32>) {
        for (store, s) in self.geometry.stores.iter().enumerate().skip(self.geometry.without_drafts().stores.len()) {
            let pages = pages(s.part);
            let mut hidden = 0;
            for (p, &token) in tokens[..rows].iter().enumerate() {
                let want = if p == 0 { 0 } else { mix(mix(hidden, u64::from(token)), store as u64) };
                hidden = mix(hidden, u64::from(token));
                assert_eq!(self.rows[store][pages[p / BLOCK] as usize][p % BLOCK], want, "draft row {p} of {rows}");
            }
        }
    }
}

/// The commands about one request, its cache events left out.
pub(super) fn about(commands: &[Command], key: RequestKey) -> Vec<Command> {
    let of = |c: &&Command| request_of(c) == Some(key);
    commands.iter().filter(of).cloned().collect()
}

/// Whose command it is.
pub(super) fn request_of(command: &Command) -> Option<RequestKey> {
    match command {
        Command::Started { request, .. }
        | Command::Delta { request, .. }
        | Command::Finished { request, .. }
        | Command::Failed { request, .. }
        | Command::StartPrefill { request, .. }
        | Command::StopPrefill { request, .. }
        | Command::PrefillAccepted { request, .. }
        | Command::SendBlock { request, .. }
        | Command::SendEnd { request, .. }
        | Command::PrefillFinished { request, .. } => Some(*request),
        Command::Cache(_) | Command::Drained => None,
    }
}
