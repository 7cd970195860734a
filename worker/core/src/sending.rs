//! Prompts computed here for others: what is told to the owner and its connection.

use std::time::Duration;

use hadal_types::{BLOCK_TOKENS, LayerId};

use crate::command::Command;
use crate::core::Core;
use crate::event::RequestKey;
use crate::failure::Failure;
use crate::outgoing::Outgoing;
use crate::request::{Kind, Request};

impl Core {
    /// Sets a prefill with reserved pages going; what is cached can leave at once.
    pub(crate) fn begin_prefill(&mut self, now: Duration, key: RequestKey, out: &mut Vec<Command>) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        let (cached, remaining) = (request.computed, request.remaining());
        if let Kind::Prefill(outgoing) = &mut request.kind {
            outgoing.computed_tokens = remaining;
            outgoing.computed_at = (remaining == 0).then_some(now);
        }
        out.push(Command::PrefillAccepted { request: key, cached_tokens: cached as u32 });
        self.offer(key, None, cached);
        self.send(key, out);
    }

    /// The step under way has computed this layer: its rows may be sent. Optional. Those of the last layer wait for the
    /// results, so that nobody has whole blocks of a slice that has failed.
    pub fn layer_done(&mut self, layer: LayerId, out: &mut Vec<Command>) {
        if self.stores.last().is_none_or(|last| last.owner == layer) {
            return;
        }
        for i in 0..self.step.len() {
            let slice = self.step[i];
            self.offer(slice.key, Some(layer), slice.end);
            self.send(slice.key, out);
        }
    }

    /// Queues what of the first `tokens` is not queued yet, in the stores of one layer or in all.
    pub(crate) fn offer(&mut self, key: RequestKey, layer: Option<LayerId>, tokens: usize) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        let block = BLOCK_TOKENS as usize;
        let complete = if tokens == request.tokens.len() { tokens.div_ceil(block) } else { tokens / block };
        let Kind::Prefill(outgoing) = &mut request.kind else { return };
        for (i, store) in self.stores.iter().enumerate() {
            if layer.is_none_or(|layer| layer == store.owner) {
                outgoing.offer(i, complete);
            }
        }
    }

    /// Hands out what is queued, as credit allows, and the end after everything.
    pub(crate) fn send(&mut self, key: RequestKey, out: &mut Vec<Command>) {
        let stores = &self.stores;
        let Some(request) = self.requests.get_mut(&key).filter(|r| r.ending.is_none()) else { return };
        let computed = request.remaining() == 0;
        let Request { kind: Kind::Prefill(outgoing), tokens, holding, .. } = request else { return };
        while let Some((i, block)) = outgoing.next(stores) {
            let store = stores[i];
            out.push(Command::SendBlock {
                request: key,
                block: block as u32,
                store: store.id,
                page: holding.pages(store.part)[block],
                rows: store.rows(block, tokens.len()),
            });
        }
        if computed && outgoing.is_empty() && !outgoing.end_sent {
            outgoing.end_sent = true;
            out.push(Command::SendEnd { request: key, blocks: tokens.len().div_ceil(BLOCK_TOKENS as usize) as u32 });
        }
    }

    pub(crate) fn send_credit(&mut self, key: RequestKey, bytes: u64, out: &mut Vec<Command>) {
        if let Some(outgoing) = self.outgoing(key) {
            outgoing.add_credit(bytes);
            self.send(key, out);
        }
    }

    pub(crate) fn send_acknowledged(&mut self, key: RequestKey, out: &mut Vec<Command>) {
        let Some(request) = self.requests.get(&key) else { return };
        let Kind::Prefill(outgoing) = &request.kind else { return };
        if !outgoing.end_sent {
            return self.fail(key, Failure::transfer("the receiver acknowledged an end that was not sent"), out);
        }
        let took = outgoing.computed_at.unwrap_or_default().saturating_sub(request.arrived);
        let computed_tokens = outgoing.computed_tokens as u32;
        self.remove(key, out);
        let microseconds = took.as_micros() as u64;
        out.push(Command::PrefillFinished { request: key, computed_tokens, microseconds });
    }

    pub(crate) fn send_failed(&mut self, key: RequestKey, message: &str, out: &mut Vec<Command>) {
        if self.outgoing(key).is_some() {
            self.fail(key, Failure::transfer(message), out);
        }
    }

    fn outgoing(&mut self, key: RequestKey) -> Option<&mut Outgoing> {
        match &mut self.requests.get_mut(&key)?.kind {
            Kind::Prefill(outgoing) => Some(outgoing),
            Kind::Generate(_) => None,
        }
    }
}
