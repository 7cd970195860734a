//! The coordinator's metrics, out of what the core has counted.

use std::time::Duration;

use hadal_coordinator_core::{Core, Counters, Discarded, Loss, Outcome, RefusalKind};
use hadal_shell::metrics::{MetricError, Metrics, catalogue as c};
use hadal_types::{Role, Term};
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

/// Handles of the registered metrics. A clone counts on from where the metrics are.
#[derive(Clone)]
pub(crate) struct Counts {
    workers: IntGaugeVec,
    lost: IntCounterVec,
    answers: IntCounterVec,
    affinity: IntCounterVec,
    discarded: IntCounterVec,
    gaps: IntCounter,
    snapshots: IntCounter,
    prefix_blocks: IntCounterVec,
    leases_expired: IntCounter,
    refused_workers: IntCounter,
    queue: IntGauge,
    blocks: IntGauge,
    queue_seconds: Histogram,
    placement_seconds: Histogram,
    leading: IntGauge,
    term: IntGauge,
    shown: Counters,
}

impl Counts {
    pub(crate) fn new(metrics: &Metrics) -> Result<Self, MetricError> {
        let none: &[&str] = &[];
        Ok(Self {
            workers: metrics.gauge(&c::COORDINATOR_WORKERS)?,
            lost: metrics.counter(&c::COORDINATOR_WORKERS_LOST)?,
            answers: metrics.counter(&c::COORDINATOR_PLACEMENTS)?,
            affinity: metrics.counter(&c::COORDINATOR_AFFINITY)?,
            discarded: metrics.counter(&c::COORDINATOR_DISCARDED)?,
            gaps: metrics.counter(&c::COORDINATOR_CACHE_GAPS)?.with_label_values(none),
            snapshots: metrics.counter(&c::COORDINATOR_SNAPSHOTS)?.with_label_values(none),
            prefix_blocks: metrics.counter(&c::COORDINATOR_PREFIX_BLOCKS)?,
            leases_expired: metrics.counter(&c::COORDINATOR_LEASES_EXPIRED)?.with_label_values(none),
            refused_workers: metrics.counter(&c::COORDINATOR_WORKERS_REFUSED)?.with_label_values(none),
            queue: metrics.gauge(&c::COORDINATOR_QUEUE)?.with_label_values(none),
            blocks: metrics.gauge(&c::COORDINATOR_DIRECTORY_BLOCKS)?.with_label_values(none),
            queue_seconds: metrics.histogram(&c::COORDINATOR_QUEUE_TIME)?.with_label_values(none),
            placement_seconds: metrics.histogram(&c::COORDINATOR_PLACEMENT_TIME)?.with_label_values(none),
            leading: metrics.gauge(&c::COORDINATOR_LEADING)?.with_label_values(none),
            term: metrics.gauge(&c::COORDINATOR_TERM)?.with_label_values(none),
            shown: Counters::default(),
        })
    }

    /// Notes how long a request had waited when it was placed.
    pub(crate) fn queued(&self, waited: Duration) {
        self.queue_seconds.observe(waited.as_secs_f64());
    }

    /// Notes how long the core took for a request that arrived.
    pub(crate) fn decided(&self, took: Duration) {
        self.placement_seconds.observe(took.as_secs_f64());
    }

    /// Notes whether this coordinator leads, and under which term.
    pub(crate) fn leads(&self, term: Option<Term>) {
        self.leading.set(i64::from(term.is_some()));
        if let Some(term) = term {
            self.term.set(term.0.cast_signed());
        }
    }

    /// The last word of a core: what it has counted stays, what it held is nobody's.
    pub(crate) fn gone(&mut self, core: &Core) {
        self.show(core);
        for role in [Role::Prefill, Role::Decode, Role::Mixed] {
            self.workers.with_label_values(&[role.name()]).set(0);
        }
        self.queue.set(0);
        self.blocks.set(0);
    }

    /// Brings the metrics up to what the core has counted.
    pub(crate) fn show(&mut self, core: &Core) {
        for role in [Role::Prefill, Role::Decode, Role::Mixed] {
            let count = core.workers().filter(|w| w.info.role == role).count();
            self.workers.with_label_values(&[role.name()]).set(count as i64);
        }
        self.queue.set(core.queued() as i64);
        self.blocks.set(core.blocks() as i64);
        let (old, new) = (&self.shown, core.counters());
        if old == new {
            return;
        }
        let add = |vec: &IntCounterVec, label: &str, old: u64, new: u64| {
            vec.with_label_values(&[label]).inc_by(new.saturating_sub(old));
        };
        let mut placed = (0, 0);
        for outcome in Outcome::ALL {
            add(&self.affinity, outcome.name(), old.placements(outcome), new.placements(outcome));
            placed = (placed.0 + old.placements(outcome), placed.1 + new.placements(outcome));
        }
        add(&self.answers, "placed", placed.0, placed.1);
        for kind in RefusalKind::ALL {
            add(&self.answers, kind.name(), old.refusals(kind), new.refusals(kind));
        }
        add(&self.answers, "cancelled", old.cancelled, new.cancelled);
        for reason in Discarded::ALL {
            add(&self.discarded, reason.name(), old.discarded(reason), new.discarded(reason));
        }
        for reason in Loss::ALL {
            add(&self.lost, reason.name(), old.lost(reason), new.lost(reason));
        }
        add(&self.prefix_blocks, "hit", old.blocks_hit, new.blocks_hit);
        add(&self.prefix_blocks, "miss", old.blocks_missed, new.blocks_missed);
        self.gaps.inc_by(new.gaps - old.gaps);
        self.snapshots.inc_by(new.snapshots_wanted - old.snapshots_wanted);
        self.leases_expired.inc_by(new.leases_expired - old.leases_expired);
        self.refused_workers.inc_by(new.workers_refused - old.workers_refused);
        self.shown = new.clone();
    }
}
