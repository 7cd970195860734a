//! What the next step computes: every decode first, then prefill chunks in order of age.
//!
//! All decodes fit in a step (`requests_max` is below `step_tokens_max`), so none is ever left out, and prefill gets a
//! row at least. Whoever runs gets a token from every step; hence the bounds, while no memory is taken from a request:
//!
//! - Time per output token: that of the largest step with decodes, `Config::decode_step_max`, whatever prompts come in:
//!   `requests_max` decodes, `chunk_tokens_max` prefill rows, each as dear as the longest sequence makes it.
//! - Time to first token beside decodes: every step computes `min(chunk_tokens_max, step_tokens_max - requests_max)`
//!   prefill rows or the rest of a block less, the oldest prompt's first. So a prompt waits for as many such steps as it
//!   and the prompts before it have of these rows. (With a draft layer a request that lacks one token may take two rows:
//!   `step_tokens_max - 2 × requests_max` then.)
//!
//! A step without decodes makes nobody wait who runs, so it takes `step_tokens_max` prefill rows.
//!
//! With a draft layer a decode may have a second row: the draft of the token after its last, which costs a step little
//! and gives two tokens where it is right. Drafts get rows and pages last: rows that neither a decode nor a chunk of a
//! prompt needs, pages that no request has. A chunk begins a token early where the one before it is of another step (see
//! `request`): a step has room for one such row beyond `step_tokens_max`.
//!
//! When a decode needs a page and none is free or evictable, the youngest owned request gives up its pages and is
//! recomputed later, up to the needing one itself. The oldest can thus always have what it needs, because no request is
//! admitted that memory could not hold alone, prefills for others end with their leases, and nothing is admitted while
//! a preempted request waits.

use std::time::Duration;

use hadal_types::BLOCK_TOKENS;

use crate::command::Command;
use crate::core::{Core, InStep};
use crate::event::RequestKey;
use crate::plan::{Follow, Plan, Rows};
use crate::request::Request;

impl Core {
    /// Fills `plan` with the next step. False when there is nothing to compute now or a step is under way.
    pub fn plan(&mut self, now: Duration, plan: &mut Plan, out: &mut Vec<Command>) -> bool {
        if !self.step.is_empty() {
            return false;
        }
        plan.clear();
        self.expire(now, out);
        self.decodes.clear();
        self.gather_decodes(out);
        self.resume_waiting(now, out);
        // One that found all its rows in the cache decodes at once.
        self.gather_decodes(out);
        let drafting = self.drafts && self.speculation.decide(self.decodes.len());
        let forced = self.plan_decodes(drafting, plan);
        self.plan_prefills(drafting, plan);
        self.speculation.step_planned(now, plan, forced);
        self.flush(out);
        !self.step.is_empty()
    }

    /// Finds the decodes and gets each the page that it needs, before any draft gets one.
    fn gather_decodes(&mut self, out: &mut Vec<Command>) {
        let mut after = None;
        while let Some(key) = self.next_request(after, |r| r.is_decodable() && !r.in_step) {
            after = Some(key);
            if self.grow(key, out)
                && let Some(request) = self.requests.get_mut(&key)
            {
                request.in_step = true;
                self.decodes.push(key);
            }
        }
    }

    /// Adds the decodes, with drafts as far as these fit beside prompts that wait. Forced tokens are tried even where
    /// others are not. Whether any of them is forced.
    fn plan_decodes(&mut self, drafting: bool, plan: &mut Plan) -> bool {
        let decodes = std::mem::take(&mut self.decodes);
        let free = (self.config.step_tokens_max as usize).saturating_sub(decodes.len());
        let prompts = self.requests.values().any(|r| r.is_computable() && !r.in_step);
        let lasts = self.requests.values().filter(|r| r.is_last() && !r.in_step).count();
        let kept = 2 * lasts + if prompts { self.config.chunk_tokens_max as usize } else { 0 };
        let mut room = if self.drafts { free.saturating_sub(kept) } else { 0 };
        let mut any_forced = false;
        for &key in &decodes {
            let draft = if room > 0 { self.draft(key, drafting) } else { None };
            let forced = draft.is_some() && self.requests.get(&key).is_some_and(|r| r.forced(0).is_some());
            any_forced |= forced;
            room -= usize::from(draft.is_some());
            self.add(key, 1, (draft, drafting), plan);
        }
        self.decodes = decodes;
        any_forced
    }

    /// What to try behind a decode's last token, if there are pages for it, and for the draft row of the token sampled
    /// after it, that no request has.
    fn draft(&mut self, key: RequestKey, drafting: bool) -> Option<u32> {
        let request = self.requests.get_mut(&key)?;
        let draft = request.draft(drafting)?;
        let blocks = (request.tokens.len() + 2).div_ceil(BLOCK_TOKENS as usize);
        self.memory.grow(&mut request.holding, blocks).then_some(draft)
    }

    /// The first request after `after` that is like that. Requests come and go while a plan is made, so it walks by
    /// key instead of holding an iterator.
    fn next_request(&self, after: Option<RequestKey>, like: impl Fn(&Request) -> bool) -> Option<RequestKey> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let mut rest = self.requests.range((from, std::ops::Bound::Unbounded));
        rest.find(|(_, r)| like(r)).map(|(key, _)| *key)
    }

    /// Gets a decode the page that its token needs, from younger requests if need be. False when it lost its own.
    fn grow(&mut self, key: RequestKey, out: &mut Vec<Command>) -> bool {
        loop {
            let Some(request) = self.requests.get_mut(&key) else { return false };
            let blocks = request.blocks();
            if self.memory.grow(&mut request.holding, blocks) {
                return true;
            }
            // Those in the plan already are older than this one, so they are never the youngest.
            let youngest = self.requests.iter().rev().find(|(_, r)| r.is_preemptible()).map(|(key, _)| *key);
            let Some(youngest) = youngest else { return false };
            self.stats.preemptions += 1;
            self.give_pages_back(youngest, out);
            if youngest == key {
                return false;
            }
        }
    }

    /// Gives preempted requests pages again, oldest first, when there is room to grow for all that run: otherwise the
    /// next growth would take them away at once.
    fn resume_waiting(&mut self, now: Duration, out: &mut Vec<Command>) {
        let mut after = None;
        while let Some(key) = self.next_request(after, Request::is_waiting) {
            after = Some(key);
            let running = self.requests.values().filter(|r| r.is_preemptible()).count();
            let Some(mut request) = self.requests.remove(&key) else { return };
            let reserved = self.reserve(&mut request, running);
            self.requests.insert(key, request);
            if !reserved {
                return;
            }
            self.begin(now, key, out);
        }
    }

    /// Fills the rest with chunks, the oldest request's first. Those that lack one token only are decodes with a row more:
    /// they take nothing from what chunks may have. Nor does the row that a chunk computes again: it would cost the chunk
    /// its last block.
    fn plan_prefills(&mut self, drafting: bool, plan: &mut Plan) {
        let rows = plan.load().rows();
        let mut left = self.config.step_rows_max().saturating_sub(rows) as usize;
        let decodes = !self.step.is_empty() || self.requests.values().any(Request::is_last);
        let chunks = if decodes { self.config.chunk_tokens_max } else { u32::MAX };
        let mut budget = chunks.min(self.config.step_tokens_max.saturating_sub(rows)) as usize;
        let mut after = None;
        while let Some(key) = self.next_request(after, |r| r.is_computable() && !r.in_step) {
            after = Some(key);
            let Some(request) = self.requests.get(&key) else { break };
            let (again, last) = (request.again(), request.is_last());
            let room = left.saturating_sub(again);
            let room = if last { room } else { room.min(budget) };
            if room == 0 {
                continue;
            }
            let rows = chunk(request.computed, request.tokens.len(), room);
            left -= again + rows;
            budget -= if last { 0 } else { rows };
            self.add(key, rows, (None, drafting), plan);
        }
    }

    /// Adds so many rows of a request, and those that are computed again; with a token to try, and whether another is to
    /// be drafted.
    fn add(&mut self, key: RequestKey, rows: usize, (draft, drafting): (Option<u32>, bool), plan: &mut Plan) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        let (start, end) = (request.computed - request.again(), request.computed + rows);
        debug_assert!(end.div_ceil(BLOCK_TOKENS as usize) <= request.holding.blocks(), "rows have pages");
        let sample = request.generation().is_some() && end == request.tokens.len();
        let follow = if sample { request.follow(drafting, draft.is_some()) } else { Follow::Nothing };
        plan.push(key, request, Rows { start, end, sample, draft, follow });
        request.in_step = true;
        self.step.push(InStep { key, end, sample, draft });
    }
}

/// Rows of the next chunk: what the budget allows, ending with a block where it does not reach the end, so that blocks
/// complete early.
fn chunk(computed: usize, tokens: usize, budget: usize) -> usize {
    let end = tokens.min(computed + budget);
    let aligned = end - end % BLOCK_TOKENS as usize;
    if end < tokens && aligned > computed { aligned - computed } else { end - computed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_end_with_blocks_unless_they_end_the_prompt_or_are_shorter() {
        assert_eq!(chunk(0, 200, 100), 64);
        assert_eq!(chunk(64, 200, 200), 136);
        assert_eq!(chunk(10, 200, 20), 20);
        assert_eq!(chunk(100, 200, 64), 28);
    }
}
