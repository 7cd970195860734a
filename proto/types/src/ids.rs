//! Names of things that cross between processes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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
        if id.is_empty() || id.len() > 128 || !id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(RequestIdError { length: id.len() });
        }
        Ok(Self(id))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of choice `index` of this request; choices are requests of their own to the workers.
    pub fn choice(&self, index: u32) -> Self {
        Self(format!("{}#{index}", self.0))
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
