//! An engine on paper. A row is a hash of the row before it, its token and its store, read and written through pages;
//! the sampled token is a hash of all rows of the sequence. So a wrong, stale or missing page changes the output.

use hadal_types::{BLOCK_TOKENS, Geometry, LayerId, Part, StoreId};

use crate::{Command, Core, Plan, RequestKey, Sampled, SliceResult};

const BLOCK: usize = BLOCK_TOKENS as usize;

/// The pools' content: rows by store and page.
pub(super) struct Engine {
    geometry: Geometry,
    rows: Vec<Vec<[u64; BLOCK]>>,
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
    for store in 0..geometry.stores.len() as u64 {
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
        Self { geometry: geometry.clone(), rows: geometry.stores.iter().map(|s| store(s.part)).collect() }
    }

    pub(super) fn page(&self, store: StoreId, page: u32) -> [u64; BLOCK] {
        self.rows[store.0 as usize][page as usize]
    }

    pub(super) fn write(&mut self, store: StoreId, page: u32, rows: &[u64]) {
        self.rows[store.0 as usize][page as usize][..rows.len()].copy_from_slice(rows);
    }

    /// Computes what a layer owns; the shell then says `layer_done`.
    pub(super) fn layer(&mut self, plan: &Plan, layer: LayerId) {
        for slice in plan.slices() {
            for store in self.geometry.stores_owned_by(layer).collect::<Vec<_>>() {
                let pages = plan.pages(slice, self.geometry.store(store).unwrap().part);
                let at = |p: usize| (pages[p / BLOCK] as usize, p % BLOCK);
                let rows = &mut self.rows[store.0 as usize];
                for (p, &token) in (slice.start as usize..).zip(plan.tokens(slice)) {
                    let before = p.checked_sub(1).map_or(u64::from(store.0), |p| rows[at(p).0][at(p).1]);
                    rows[at(p).0][at(p).1] = mix(before, u64::from(token));
                }
            }
        }
    }

    /// Samples each slice that wants it.
    pub(super) fn results(&self, core: &Core, plan: &Plan, fault: Fault) -> Vec<SliceResult> {
        let result = |(i, slice): (usize, &crate::StepSlice)| {
            if i == 0 && fault == Fault::NotFinite {
                return SliceResult::NotFinite;
            }
            if !slice.sample {
                return SliceResult::Computed;
            }
            let mut digest = 0;
            for (store, s) in self.geometry.stores.iter().enumerate() {
                let pages = plan.pages(slice, s.part);
                for p in 0..slice.start as usize + plan.tokens(slice).len() {
                    digest = mix(digest, self.rows[store][pages[p / BLOCK] as usize][p % BLOCK]);
                }
            }
            let inputs = core.sample_inputs(slice.request).unwrap();
            let token = (mix(digest, inputs.params.seed) % u64::from(core.config().vocab_tokens)) as u32;
            SliceResult::Token(Sampled { token, logprobs: None })
        };
        plan.slices().iter().enumerate().map(result).collect()
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
