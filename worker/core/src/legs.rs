//! Having prompts prefilled elsewhere, for requests owned here.
//!
//! At most two attempts; each asks for what is missing still. Then, or when little is missing, this worker computes the
//! rest itself, from the last complete block.

use std::time::Duration;

use hadal_types::{BLOCK_TOKENS, StoreId};

use crate::command::Command;
use crate::core::Core;
use crate::event::RequestKey;
use crate::incoming::{IncomingPage, Leg, Unexpected};
use crate::outgoing::rows;
use crate::request::{Request, Stage};

impl Core {
    /// Sets a request with reserved pages going: elsewhere if that is worth it, else here.
    pub(crate) fn begin(&mut self, now: Duration, key: RequestKey, out: &mut Vec<Command>) {
        let local_max = (self.config.local_tokens_max as usize).max(1);
        let stores = self.stores.len();
        let Some(request) = self.requests.get_mut(&key) else { return };
        let remote = request.remaining() > local_max && request.generation().is_some_and(|g| g.legs_left > 0);
        if !remote {
            request.stage = Stage::Computing;
            return self.start(key, None, out);
        }
        let lease_max = request.deadline.map_or(Duration::MAX, |d| d.saturating_sub(now));
        let lease = self.config.prefill_lease.min(lease_max);
        let held = request.computed / BLOCK_TOKENS as usize;
        let tokens = request.tokens[..request.tokens.len() - 1].to_vec();
        let Some(generation) = request.generation_mut() else { return };
        generation.legs_left -= 1;
        generation.legs_made += 1;
        let number = generation.legs_made;
        request.stage = Stage::Incoming(Leg::new(number, now.saturating_add(lease), tokens.len(), held, stores));
        out.push(Command::StartPrefill { request: key, leg: number, tokens, blocks_held: held as u32, lease });
    }

    /// Tells the owner's stream that it is reserved, once.
    fn start(&mut self, key: RequestKey, remote_cached: Option<u32>, out: &mut Vec<Command>) {
        let generation = self.requests.get_mut(&key).and_then(Request::generation_mut);
        let Some(generation) = generation.filter(|g| !g.started) else { return };
        generation.started = true;
        let cached = generation.cached_tokens.max(remote_cached.unwrap_or(0) as usize);
        out.push(Command::Started {
            request: key,
            cached_tokens: cached.min(generation.prompt_tokens) as u32,
            remote: remote_cached.is_some(),
        });
    }

    pub(crate) fn leg_accepted(&mut self, key: RequestKey, leg: u32, cached_tokens: u32, out: &mut Vec<Command>) {
        if self.leg(key, leg).is_some() {
            self.start(key, Some(cached_tokens), out);
        }
    }

    /// Where the shell writes an arriving page before it reports `BlockArrived`. To be asked on the thread that owns
    /// the pages, directly before writing.
    ///
    /// # Errors
    /// When nobody waits for that page: it must not be written.
    pub fn incoming_page(
        &self,
        request: RequestKey,
        leg: u32,
        block: u32,
        store: StoreId,
    ) -> Result<IncomingPage, Unexpected> {
        let (request, leg) = self.leg(request, leg).ok_or(Unexpected::Over)?;
        let not_wanted = Unexpected::NotWanted { block, store: store.0 };
        if !leg.wants(block, store) {
            return Err(not_wanted);
        }
        let kind = self.config.geometry.store(store).ok_or(not_wanted.clone())?;
        let page = request.holding.pages(kind.part).get(block as usize).copied().ok_or(not_wanted)?;
        Ok(IncomingPage { page, rows: rows(block as usize, leg.tokens(), kind.stride) })
    }

    fn leg(&self, key: RequestKey, number: u32) -> Option<(&Request, &Leg)> {
        let request = self.requests.get(&key)?;
        match &request.stage {
            Stage::Incoming(leg) if leg.number == number => Some((request, leg)),
            _ => None,
        }
    }

    pub(crate) fn block_arrived(&mut self, key: RequestKey, number: u32, block: u32, store: StoreId) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        let Stage::Incoming(leg) = &mut request.stage else { return };
        if leg.number != number {
            return;
        }
        leg.note(block, store);
        request.computed = leg.tokens_complete();
        let mut holding = std::mem::take(&mut request.holding);
        self.memory.publish(&mut holding, request.chain_computed());
        request.holding = holding;
    }

    pub(crate) fn leg_ended(&mut self, now: Duration, key: RequestKey, number: u32, out: &mut Vec<Command>) {
        let Some((_, leg)) = self.leg(key, number) else { return };
        if !leg.is_complete() {
            return self.leg_failed(now, (key, number), true, out);
        }
        self.start(key, Some(0), out);
        if let Some(request) = self.requests.get_mut(&key) {
            request.stage = Stage::Computing;
        }
    }

    pub(crate) fn leg_failed(
        &mut self,
        now: Duration,
        (key, number): (RequestKey, u32),
        retryable: bool,
        out: &mut Vec<Command>,
    ) {
        if self.leg(key, number).is_none() {
            return;
        }
        self.stats.legs_failed += 1;
        out.push(Command::StopPrefill { request: key, leg: number });
        if let Some(generation) = self.requests.get_mut(&key).and_then(Request::generation_mut) {
            generation.legs_left = if retryable { generation.legs_left } else { 0 };
        }
        self.begin(now, key, out);
        let local = self.requests.get(&key).is_some_and(Request::is_computable);
        self.stats.local_fallbacks += u64::from(local);
    }
}
