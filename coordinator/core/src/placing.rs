//! Placing the requests that wait.
//!
//! Requests of a model are tried in the queue's order. One that does not fit anywhere now *claims* every worker that
//! could hold it: later ones get only workers that nobody before them could use, so that a long request is not starved
//! by short ones, and a request that may not use a worker does not keep others from it.

mod search;

use std::collections::BTreeSet;

use hadal_types::BLOCK_TOKENS;

use crate::core::{Core, Placed};
use crate::directory::Slot;
use crate::event::{Answer, ConnectionId, Leg, PlaceId, Placement};
use crate::pending::Claim;
use search::{Attempt, Choice, Plan, Search};

pub(crate) use search::{hash, never};

/// Requests of a group that are tried one after another although none finds a place.
pub(crate) const LOOKAHEAD: usize = 8;

impl Core {
    /// Places what can be placed of a model's waiting requests.
    pub(crate) fn place_waiting(&mut self, model: &str) {
        let mut claimed: BTreeSet<Slot> = BTreeSet::new();
        let rebuilds = self.rebuilds();
        for class in self.queue.classes(model) {
            let mut blocked = 0;
            let mut after = None;
            // Once every worker is claimed, nobody else has a chance.
            while blocked < LOOKAHEAD && (blocked == 0 || claimed.len() < self.owners(model)) {
                let Some((key, waiting)) = self.queue.next(model, class, after) else { break };
                after = Some(key);
                let place = waiting.place;
                let mut search = Search {
                    fleet: &self.fleet,
                    directory: &self.directory,
                    config: &self.config,
                    policy: &mut *self.policy,
                    rebuilds,
                    claimed: &mut claimed,
                };
                let answer = match search.attempt(waiting) {
                    Attempt::Planned(plan) => self.commit(place, plan),
                    Attempt::Refused(refusal) => Some(Answer::Refused(refusal)),
                    Attempt::Waits => None,
                };
                match answer {
                    None => blocked += 1,
                    Some(answer) => {
                        self.queue.remove(place);
                        self.answer(place, answer);
                    }
                }
            }
        }
    }

    fn owners(&self, model: &str) -> usize {
        self.fleet.of_model(model).filter(|(_, w)| w.info.role.decodes() && !w.draining).count()
    }

    /// Keeps what a plan needs free for it.
    fn commit(&mut self, place: PlaceId, plan: Plan) -> Option<Answer> {
        let waiting = self.queue.get(place)?;
        let request = waiting.request.request.clone();
        let queued = self.now.saturating_sub(waiting.arrived);
        let blocks = u64::from(waiting.request.prompt_tokens / BLOCK_TOKENS);
        // With a helper, the owner's own share of the prompt is not worth counting.
        let owner_tokens = if plan.prefill.is_some() { 0 } else { plan.decode.missing };
        let mut take = |choice: &Choice, tokens: u64| -> Option<(ConnectionId, Leg)> {
            let worker = self.fleet.get_mut(choice.slot)?;
            worker.pending.add(request.clone(), place, Claim { blocks: choice.blocks, tokens });
            let leg = Leg {
                connection: worker.connection,
                worker: worker.info.id.clone(),
                incarnation: worker.info.incarnation,
                address: worker.info.address.clone(),
                cached_tokens: choice.cached as u32,
            };
            Some((worker.connection, leg))
        };
        let (decode_connection, decode) = take(&plan.decode, owner_tokens)?;
        let helper = plan.prefill.as_ref().and_then(|choice| take(choice, choice.missing));
        let (prefill_connection, prefill) = helper.unzip();
        let hit = plan.cached() / u64::from(BLOCK_TOKENS);
        self.counters.blocks_hit += hit.min(blocks);
        self.counters.blocks_missed += blocks.saturating_sub(hit);
        self.counters.placed(plan.outcome());
        self.last_wait = queued;
        let lease = self.config.lease;
        self.leases.push_back((self.now.saturating_add(lease), place));
        self.placed.insert(place, Placed { request, decode: decode_connection, prefill: prefill_connection });
        Some(Answer::Placed(Placement { decode, prefill, lease, queued }))
    }
}
