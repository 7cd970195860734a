//! The leases that wait for their receivers. Pure: the instant is an argument. A lease is taken by the first Hello
//! that fits it and is then gone from here; the connection carries its deadline on.

use std::collections::HashMap;

use hadal_types::{Incarnation, LeaseId};
use tokio::time::Instant;

use crate::connector::Expect;
use crate::frame::{Hello, VERSION};
use crate::{Offer, Refusal};

/// What a lease's connection is handed to; any type, so that this table can be tested alone.
#[derive(Debug)]
pub(crate) struct Leases<T> {
    waiting: HashMap<LeaseId, Waiting<T>>,
}

#[derive(Debug)]
struct Waiting<T> {
    receiver: Incarnation,
    deadline: Instant,
    owner: T,
}

/// A lease whose receiver is here.
#[derive(Debug)]
pub(crate) struct Claimed<T> {
    pub(crate) deadline: Instant,
    pub(crate) owner: T,
}

/// Why a Hello is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    pub(crate) reason: String,
}

impl<T> Leases<T> {
    pub(crate) fn new() -> Self {
        Self { waiting: HashMap::new() }
    }

    pub(crate) fn offer(&mut self, offer: &Offer, owner: T) {
        let Offer { lease, receiver, deadline } = *offer;
        self.waiting.insert(lease, Waiting { receiver, deadline, owner });
    }

    pub(crate) fn withdraw(&mut self, lease: LeaseId) {
        self.waiting.remove(&lease);
    }

    /// Takes the lease that a Hello names. A refusal of another's identity leaves the lease for the right one.
    pub(crate) fn claim(&mut self, hello: &Hello, us: &Expect, now: Instant) -> Result<Claimed<T>, Refused> {
        check_identity(hello, us)?;
        let refused = |refusal, reason: &str| Err(Refused { refusal, reason: reason.to_owned() });
        let Some(waiting) = self.waiting.get(&hello.lease) else {
            return refused(Refusal::Lease, "the lease is unknown, or was used or withdrawn");
        };
        if waiting.receiver != hello.receiver {
            return refused(Refusal::Incarnation, "the lease was granted to another receiver");
        }
        match self.waiting.remove(&hello.lease) {
            Some(Waiting { deadline, owner, .. }) if deadline > now => Ok(Claimed { deadline, owner }),
            _ => refused(Refusal::Lease, "the lease is over"),
        }
    }
}

fn check_identity(hello: &Hello, us: &Expect) -> Result<(), Refused> {
    let refused = |refusal, reason| Err(Refused { refusal, reason });
    if hello.version != VERSION {
        return refused(Refusal::Version, format!("version {VERSION} is spoken here, not {}", hello.version));
    }
    if hello.sender != us.incarnation {
        return refused(Refusal::Incarnation, "the worker has restarted since it granted the lease".into());
    }
    if hello.layout != us.geometry.layout {
        let reason = format!(
            "cache layout {} here, {} there; give both workers the same --kv",
            us.geometry.layout, hello.layout
        );
        return refused(Refusal::Layout, reason);
    }
    if hello.class != us.class {
        let reason = format!("numerics class {} here, {} there; same model, --dtype and --cpu?", us.class, hello.class);
        return refused(Refusal::Class, reason);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use hadal_types::{Geometry, NumericsClass};

    use super::*;

    fn us() -> Expect {
        let geometry = Geometry { layout: "rows".into(), stores: vec![], layers: vec![] };
        Expect { incarnation: Incarnation(1), class: NumericsClass([3; 16]), geometry: Arc::new(geometry) }
    }

    fn hello() -> Hello {
        Hello {
            version: VERSION,
            lease: LeaseId(9),
            class: NumericsClass([3; 16]),
            sender: Incarnation(1),
            receiver: Incarnation(2),
            layout: "rows".into(),
        }
    }

    fn offered(now: Instant) -> Leases<&'static str> {
        let mut leases = Leases::new();
        let deadline = now + Duration::from_secs(1);
        leases.offer(&Offer { lease: LeaseId(9), receiver: Incarnation(2), deadline }, "owner");
        leases
    }

    #[test]
    fn a_lease_is_taken_once() {
        let now = Instant::now();
        let mut leases = offered(now);
        assert_eq!(leases.claim(&hello(), &us(), now).unwrap().owner, "owner");
        assert_eq!(leases.claim(&hello(), &us(), now).unwrap_err().refusal, Refusal::Lease);
    }

    #[test]
    fn whoever_differs_is_refused_and_leaves_the_lease() {
        let now = Instant::now();
        let mut leases = offered(now);
        let wrong = [
            (Refusal::Version, Hello { version: 0, ..hello() }),
            (Refusal::Layout, Hello { layout: "other".into(), ..hello() }),
            (Refusal::Class, Hello { class: NumericsClass([4; 16]), ..hello() }),
            (Refusal::Incarnation, Hello { sender: Incarnation(7), ..hello() }),
            (Refusal::Incarnation, Hello { receiver: Incarnation(7), ..hello() }),
            (Refusal::Lease, Hello { lease: LeaseId(8), ..hello() }),
        ];
        for (refusal, hello) in wrong {
            assert_eq!(leases.claim(&hello, &us(), now).unwrap_err().refusal, refusal);
        }
        assert!(leases.claim(&hello(), &us(), now).is_ok());
    }

    #[test]
    fn an_expired_or_withdrawn_lease_is_refused() {
        let now = Instant::now();
        let late = now + Duration::from_secs(2);
        assert_eq!(offered(now).claim(&hello(), &us(), late).unwrap_err().refusal, Refusal::Lease);
        let mut leases = offered(now);
        leases.withdraw(LeaseId(9));
        assert_eq!(leases.claim(&hello(), &us(), now).unwrap_err().refusal, Refusal::Lease);
    }
}
