//! A new leader knows no worker at first; the router knows better for a while.

use std::collections::BTreeSet;
use std::time::Duration;

use hadal_proto::cluster as w;
use tokio::time::Instant;

/// How long workers may take to come to a new leader.
const GRACE: Duration = Duration::from_secs(5);

/// What the leader before knew.
#[derive(Debug, Default)]
pub(super) struct Rebuild {
    /// The last view that came, as it came.
    latest: Option<w::FleetView>,
    before: Vec<w::FleetWorker>,
    until: Option<Instant>,
}

impl Rebuild {
    /// A view with the workers that may be on their way to a new leader, and until when they may be.
    pub(super) fn complete(&mut self, view: w::FleetView, now: Instant) -> (w::FleetView, Option<Instant>) {
        if let Some(last) = self.latest.take().filter(|last| last.term != view.term) {
            // Of two changes within the grace, both leaders' workers are meant.
            let known: BTreeSet<&str> = last.workers.iter().map(|worker| worker.id.as_str()).collect();
            self.before.retain(|worker| !known.contains(worker.id.as_str()));
            self.before.extend(last.workers);
            self.until = Some(now + GRACE);
        }
        if self.until.is_some_and(|until| until <= now) {
            (self.before, self.until) = (Vec::new(), None);
        }
        let come: BTreeSet<&str> = view.workers.iter().map(|worker| worker.id.as_str()).collect();
        // Whoever has come and goes again is not expected any more.
        self.before.retain(|worker| !come.contains(worker.id.as_str()));
        self.latest = Some(view.clone());
        let mut whole = view;
        whole.workers.extend(self.before.iter().cloned());
        (whole, self.until.filter(|_| !self.before.is_empty()))
    }

    /// The last view again.
    pub(super) fn latest(&self) -> Option<w::FleetView> {
        self.latest.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(term: u64, ids: &[&str]) -> w::FleetView {
        let worker = |id: &&str| w::FleetWorker { id: (*id).into(), ..Default::default() };
        w::FleetView { term, workers: ids.iter().map(worker).collect(), queued: 0 }
    }

    fn ids(view: &w::FleetView) -> Vec<&str> {
        view.workers.iter().map(|worker| worker.id.as_str()).collect()
    }

    #[test]
    fn workers_of_the_leader_before_stay_until_they_had_time_to_come() {
        let (mut rebuild, now) = (Rebuild::default(), Instant::now());
        assert_eq!(ids(&rebuild.complete(view(1, &["a", "b", "c"]), now).0), ["a", "b", "c"]);
        // One that the same leader loses is lost.
        assert_eq!(rebuild.complete(view(1, &["a", "b"]), now), (view(1, &["a", "b"]), None));
        let (whole, until) = rebuild.complete(view(2, &[]), now);
        assert_eq!((ids(&whole), until), (vec!["a", "b"], Some(now + GRACE)));
        assert_eq!(ids(&rebuild.complete(view(2, &["b"]), now).0), ["b", "a"]);
        // It came, and went again.
        assert_eq!(ids(&rebuild.complete(view(2, &[]), now).0), ["a"]);
        // The next leader comes within the grace.
        assert_eq!(ids(&rebuild.complete(view(3, &["d"]), now + GRACE / 2).0), ["d", "a"]);
        let latest = rebuild.latest().unwrap();
        assert_eq!(rebuild.complete(latest, now + 2 * GRACE), (view(3, &["d"]), None));
    }
}
