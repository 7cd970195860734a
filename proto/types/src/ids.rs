//! Names of things that cross between processes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest request id.
const BYTES_MAX: usize = 128;

/// A client's request, unique in a fleet; the router draws one when the client gives none. At most 128 bytes of
/// visible ASCII, so that it can stand in headers and logs as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(String);

/// A request id that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("request id must be 1 to 128 visible ASCII characters, without spaces; got {length} bytes")]
pub struct RequestIdError {
    /// Bytes of the refused id.
    pub length: usize,
}

impl RequestId {
    /// Checks and keeps an id.
    ///
    /// # Errors
    /// When it is empty, longer than 128 bytes, or has a byte that is not visible ASCII.
    pub fn new(id: impl Into<String>) -> Result<Self, RequestIdError> {
        let id = id.into();
        if id.is_empty() || id.len() > BYTES_MAX || !id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(RequestIdError { length: id.len() });
        }
        Ok(Self(id))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of choice `index` of this request; choices are requests of their own to the workers. One that would be too
    /// long keeps its beginning, for people, and is told from others by a hash.
    pub fn choice(&self, index: u32) -> Self {
        const HASH_BYTES: usize = 16;
        let suffix = format!("#{index}");
        if self.0.len() + suffix.len() <= BYTES_MAX {
            return Self(format!("{}{suffix}", self.0));
        }
        let hash = blake3::hash(self.0.as_bytes());
        let digits: String = hash.as_bytes().iter().take(HASH_BYTES).map(|b| format!("{b:02x}")).collect();
        // It is ASCII, so that it can be cut anywhere.
        let kept = BYTES_MAX - 1 - digits.len() - suffix.len();
        Self(format!("{}~{digits}{suffix}", &self.0[..kept]))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A worker's stable name (a pod's name); its life is told apart by its [`Incarnation`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkerId(pub String);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A random number that a process draws at its start. Compared for equality only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// The number of a leadership; fences commands that change state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Term(pub u64);

/// An unguessable 128-bit id of a lease on pages or of a placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LeaseId(pub u128);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Larger goes first. 0 is ordinary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Priority(pub i32);

/// What a worker is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Computes prompts for others.
    Prefill,
    /// Owns requests and decodes them.
    Decode,
    /// Both.
    Mixed,
}

/// A role that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown role {0:?}; roles are prefill, decode and mixed")]
pub struct RoleError(pub String);

impl Role {
    /// May compute prompts for other workers.
    pub fn prefills(self) -> bool {
        self != Role::Decode
    }

    /// May own requests.
    pub fn decodes(self) -> bool {
        self != Role::Prefill
    }

    /// The name on the command line and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Role::Prefill => "prefill",
            Role::Decode => "decode",
            Role::Mixed => "mixed",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        [Role::Prefill, Role::Decode, Role::Mixed]
            .into_iter()
            .find(|r| r.name() == s)
            .ok_or_else(|| RoleError(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_choices_of_any_id_are_ids_of_their_own() {
        let lengths = [1, 125, 126, 127, 128];
        let mut ids: Vec<String> = lengths.into_iter().map(|n| "r".repeat(n)).collect();
        ids.push(format!("{}s", "r".repeat(127)));
        let choices: HashSet<RequestId> = ids
            .iter()
            .flat_map(|id| [0, 9, u32::MAX].map(|index| RequestId::new(id.as_str()).unwrap().choice(index)))
            .collect();
        assert_eq!(choices.len(), 3 * ids.len());
        assert!(choices.iter().all(|id| RequestId::new(id.as_str()).as_ref() == Ok(id)));
        assert_eq!(RequestId::new("r").unwrap().choice(3).as_str(), "r#3");
    }

    #[test]
    fn ids_that_cannot_stand_in_a_header_are_refused() {
        for id in ["", "a b", "a\n", "é", &"r".repeat(129)] {
            assert!(RequestId::new(id).is_err(), "{id:?}");
        }
    }
}
