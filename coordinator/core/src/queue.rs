//! Requests that wait: by model and required class; in each group by priority, then deadline, then arrival.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hadal_types::{NumericsClass, Priority};

use crate::event::{PlaceId, PlaceRequest};

/// Position in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    priority: Reverse<Priority>,
    deadline: Duration,
    arrival: u64,
}

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) place: PlaceId,
    pub(crate) request: Box<PlaceRequest>,
    pub(crate) arrived: Duration,
}

#[derive(Debug, Default)]
struct Group {
    waiting: BTreeMap<Key, Waiting>,
    /// When a worker that could own its requests was last seen.
    served: Duration,
}

type Groups = BTreeMap<Option<NumericsClass>, Group>;

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    models: BTreeMap<String, Groups>,
    places: BTreeMap<PlaceId, (String, Option<NumericsClass>, Key)>,
    deadlines: BTreeSet<(Duration, PlaceId)>,
    arrivals: u64,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn push(&mut self, waiting: Waiting) {
        let request = &waiting.request;
        let deadline = request.deadline.unwrap_or(Duration::MAX);
        let key = Key { priority: Reverse(request.priority), deadline, arrival: self.arrivals };
        self.arrivals += 1;
        if let Some(deadline) = request.deadline {
            self.deadlines.insert((deadline, waiting.place));
        }
        self.places.insert(waiting.place, (request.model.clone(), request.class, key));
        self.models
            .entry(request.model.clone())
            .or_default()
            .entry(request.class)
            .or_default()
            .waiting
            .insert(key, waiting);
    }

    pub(crate) fn remove(&mut self, place: PlaceId) -> Option<Waiting> {
        let (model, class, key) = self.places.remove(&place)?;
        let groups = self.models.get_mut(&model)?;
        let group = groups.get_mut(&class)?;
        let waiting = group.waiting.remove(&key);
        if group.waiting.is_empty() {
            groups.remove(&class);
        }
        if groups.is_empty() {
            self.models.remove(&model);
        }
        self.deadlines.remove(&(key.deadline, place));
        waiting
    }

    pub(crate) fn get(&self, place: PlaceId) -> Option<&Waiting> {
        let (model, class, key) = self.places.get(&place)?;
        self.models.get(model)?.get(class)?.waiting.get(key)
    }

    /// Whether fewer than `count` of its group go before a request.
    pub(crate) fn is_among_first(&self, place: PlaceId, count: usize) -> bool {
        let Some((model, class, key)) = self.places.get(&place) else { return false };
        let group = self.models.get(model).and_then(|groups| groups.get(class));
        group.is_some_and(|group| group.waiting.range(..key).take(count).count() < count)
    }

    /// The classes that requests for a model must stay in, those with one first: their clients are in mid-stream.
    pub(crate) fn classes(&self, model: &str) -> Vec<Option<NumericsClass>> {
        self.models.get(model).map_or_else(Vec::new, |groups| groups.keys().rev().copied().collect())
    }

    /// The first of a group after `key` (of all of it without one).
    pub(crate) fn next(&self, model: &str, class: Option<NumericsClass>, key: Option<Key>) -> Option<(Key, &Waiting)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let group = self.models.get(model)?.get(&class)?;
        let from = key.map_or(Unbounded, Excluded);
        group.waiting.range((from, Unbounded)).next().map(|(key, waiting)| (*key, waiting))
    }

    /// Tells which groups have workers that could own their requests, and returns the requests of the others that have
    /// waited for one since `since`.
    pub(crate) fn unserved(
        &mut self,
        now: Duration,
        since: Duration,
        served: impl Fn(&str, Option<NumericsClass>) -> bool,
    ) -> Vec<PlaceId> {
        let mut unserved = Vec::new();
        for (model, groups) in &mut self.models {
            for (class, group) in groups {
                if served(model, *class) {
                    group.served = now;
                } else if group.served <= since {
                    let long = group.waiting.values().filter(|w| w.arrived <= since);
                    unserved.extend(long.map(|w| w.place));
                }
            }
        }
        unserved
    }

    /// A request whose deadline has passed.
    pub(crate) fn overdue(&self, now: Duration) -> Option<PlaceId> {
        self.deadlines.first().filter(|(deadline, _)| *deadline <= now).map(|(_, place)| *place)
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Waiting> {
        self.models.values().flat_map(|groups| groups.values()).flat_map(|group| group.waiting.values())
    }

    /// Any request.
    pub(crate) fn first(&self) -> Option<PlaceId> {
        self.places.keys().next().copied()
    }
}

#[cfg(test)]
mod tests {
    use hadal_types::RequestId;

    use super::*;

    fn waiting(place: u64, priority: i32, deadline: Option<u64>) -> Waiting {
        let request = PlaceRequest {
            request: RequestId::new("r").unwrap(),
            model: "m".into(),
            chains: Vec::new(),
            prompt_tokens: 1,
            max_tokens: 1,
            priority: Priority(priority),
            tenant: String::new(),
            deadline: deadline.map(Duration::from_secs),
            exclude: Vec::new(),
            class: None,
            session: String::new(),
            attempt: 0,
        };
        Waiting { place: PlaceId(place), request: Box::new(request), arrived: Duration::ZERO }
    }

    #[test]
    fn the_order_is_priority_then_deadline_then_arrival() {
        let mut queue = Queue::default();
        for w in [waiting(1, 0, None), waiting(2, 0, None), waiting(3, 0, Some(9)), waiting(4, 1, None)] {
            queue.push(w);
        }
        queue.push(waiting(5, 0, Some(8)));
        let all = &queue.models["m"][&None].waiting;
        let order: Vec<u64> = all.values().map(|w| w.place.0).collect();
        assert_eq!(order, [4, 5, 3, 1, 2]);
        let (first, _) = queue.next("m", None, None).unwrap();
        assert_eq!(queue.next("m", None, Some(first)).unwrap().1.place, PlaceId(5));
    }

    #[test]
    fn what_is_removed_leaves_nothing_behind() {
        let mut queue = Queue::default();
        queue.push(waiting(1, 0, Some(5)));
        assert_eq!(queue.overdue(Duration::from_secs(5)), Some(PlaceId(1)));
        assert!(queue.remove(PlaceId(1)).is_some());
        assert!(queue.remove(PlaceId(1)).is_none());
        assert_eq!((queue.len(), queue.models.len(), queue.overdue(Duration::MAX)), (0, 0, None));
    }
}
