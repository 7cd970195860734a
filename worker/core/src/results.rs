//! What a computed step changes: rows are here, tokens go out, requests end.

use std::time::Duration;

use crate::command::{Command, FinishReason};
use crate::core::{Core, InStep};
use crate::event::RequestKey;
use crate::failure::Failure;
use crate::plan::{Sampled, SliceResult, Tokens};
use crate::request::{Generation, Kind};

impl Core {
    /// The step under way is computed; `results` has one entry for each slice, in the plan's order.
    pub fn step_done(&mut self, now: Duration, results: &[SliceResult], out: &mut Vec<Command>) {
        let mut step = std::mem::take(&mut self.step);
        let mut tokens = 0;
        for (i, slice) in step.iter().enumerate() {
            tokens += self.slice_done(now, *slice, results.get(i), out);
        }
        self.speculation.step_done(now, tokens);
        step.clear();
        // Its capacity serves the next step.
        self.step = step;
        self.flush(out);
    }

    /// The engine could not compute the step: all its requests end.
    pub fn step_failed(&mut self, message: &str, out: &mut Vec<Command>) {
        self.speculation.step_failed();
        for slice in std::mem::take(&mut self.step) {
            if !self.leave_step(slice.key, out) {
                self.fail(slice.key, Failure::internal(format!("the step failed: {message}")), out);
            }
        }
        self.flush(out);
    }

    /// The step uses the request's pages no more. True when that was all it waited for to end.
    fn leave_step(&mut self, key: RequestKey, out: &mut Vec<Command>) -> bool {
        let Some(request) = self.requests.get_mut(&key) else { return true };
        request.in_step = false;
        let Some(failure) = request.ending.take() else { return false };
        self.fail(key, failure, out);
        true
    }

    /// Gives how many tokens the output got.
    fn slice_done(
        &mut self,
        now: Duration,
        slice: InStep,
        result: Option<&SliceResult>,
        out: &mut Vec<Command>,
    ) -> u32 {
        if self.leave_step(slice.key, out) {
            return 0;
        }
        match result {
            Some(SliceResult::Computed) if !slice.sample => self.rows_computed(now, slice, out),
            Some(SliceResult::Tokens(tokens)) if slice.sample && fits(slice, tokens) => {
                return self.tokens_sampled(now, slice, tokens, out);
            }
            Some(SliceResult::NotFinite) => self.fail(slice.key, Failure::numerics(slice.end - 1), out),
            _ => {
                let message = "the engine's results do not match the plan".to_owned();
                self.fail(slice.key, Failure::internal(message), out);
            }
        }
        0
    }

    /// One token, or two with a draft that was right. What comes after the output's end is dropped.
    fn tokens_sampled(&mut self, now: Duration, slice: InStep, tokens: &Tokens, out: &mut Vec<Command>) -> u32 {
        self.stats.drafts_proposed += u64::from(slice.draft.is_some());
        self.stats.drafts_accepted += u64::from(tokens.second.is_some());
        self.rows_computed(now, slice, out);
        let mut count = 1;
        let mut goes_on = self.token_sampled(now, slice.key, &tokens.first, out);
        if let Some(second) = tokens.second.as_ref().filter(|_| goes_on) {
            self.rows_computed(now, InStep { end: slice.end + 1, ..slice }, out);
            goes_on = self.token_sampled(now, slice.key, second, out);
            count += 1;
            self.stats.drafts_tokens += 1;
        }
        if let Some(request) = self.requests.get_mut(&slice.key).filter(|_| goes_on) {
            // Every output that goes on has it, whether or not tokens are drafted.
            request.ahead = true;
            if let Some(generation) = request.generation_mut() {
                generation.draft = tokens.draft;
            }
        }
        count
    }

    fn rows_computed(&mut self, now: Duration, slice: InStep, out: &mut Vec<Command>) {
        let Some(request) = self.requests.get_mut(&slice.key) else { return };
        request.computed = slice.end;
        request.ahead = false;
        let mut holding = std::mem::take(&mut request.holding);
        self.memory.publish(&mut holding, request.chain_computed());
        request.holding = holding;
        if request.remaining() == 0
            && let Kind::Prefill(outgoing) = &mut request.kind
        {
            outgoing.computed_at = Some(now);
        }
        self.offer(slice.key, None, slice.end);
        self.send(slice.key, out);
    }

    /// Whether the output goes on.
    fn token_sampled(&mut self, now: Duration, key: RequestKey, sampled: &Sampled, out: &mut Vec<Command>) -> bool {
        let Some(request) = self.requests.get_mut(&key) else { return false };
        request.push_token(sampled.token);
        let (tokens, arrived) = (request.tokens.len(), request.arrived);
        let Some(generation) = request.generation_mut() else { return false };
        let first_at = *generation.first_token_at.get_or_insert(now);
        let index = tokens - generation.prompt_tokens - 1;
        let finished = finish(generation, index, sampled.token);
        out.push(Command::Delta {
            request: key,
            index: index as u32,
            token: sampled.token,
            logprobs: sampled.logprobs.clone(),
        });
        let Some(reason) = finished else { return true };
        self.remove(key, out);
        out.push(Command::Finished {
            request: key,
            reason,
            prefill_us: first_at.saturating_sub(arrived).as_micros() as u64,
            decode_us: now.saturating_sub(first_at).as_micros() as u64,
        });
        false
    }
}

/// Whether a second token came only behind a draft that the first one is.
fn fits(slice: InStep, tokens: &Tokens) -> bool {
    tokens.second.is_none() || slice.draft == Some(tokens.first.token)
}

/// Whether this token, the output's number `index`, ends it. (Admission sees to it that the context does not end first.)
fn finish(generation: &Generation, index: usize, token: u32) -> Option<FinishReason> {
    let sampling = &generation.sampling;
    if index >= sampling.min_tokens as usize && sampling.stop_token_ids.contains(&token) {
        return Some(FinishReason::Stop { token });
    }
    (index + 1 >= sampling.max_tokens as usize).then_some(FinishReason::Length)
}
