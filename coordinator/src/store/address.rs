//! What `--store` names: `memory`, or members of etcd and a prefix for this cluster's keys.

use std::str::FromStr;

/// A store, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAddress {
    /// In this process.
    Memory,
    /// etcd.
    Etcd {
        /// Its members, host:port.
        members: Vec<String>,
        /// Whether they are reached over TLS.
        tls: bool,
        /// What this cluster's keys begin with.
        prefix: String,
    },
}

/// What is no store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no store ({problem}); write memory, etcd://HOST:PORT,HOST:PORT/PREFIX, or etcds://... for TLS")]
pub struct StoreAddressError {
    text: String,
    problem: &'static str,
}

/// The prefix when none is given.
const PREFIX: &str = "hadal";

impl FromStr for StoreAddress {
    type Err = StoreAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |problem| Err(StoreAddressError { text: text.to_owned(), problem });
        if text == "memory" {
            return Ok(Self::Memory);
        }
        let (tls, rest) = match text.split_once("://") {
            Some(("etcd", rest)) => (false, rest),
            Some(("etcds", rest)) => (true, rest),
            _ => return wrong("an unknown kind"),
        };
        let (members, prefix) = rest.split_once('/').unwrap_or((rest, PREFIX));
        let prefix = prefix.trim_matches('/');
        if prefix.is_empty() {
            return wrong("the prefix is empty");
        }
        let members: Vec<String> = members.split(',').map(str::to_owned).collect();
        let dialled = |member: &String| {
            member.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        if !members.iter().all(dialled) {
            return wrong("a member is not HOST:PORT");
        }
        Ok(Self::Etcd { members, tls, prefix: prefix.to_owned() })
    }
}

impl std::fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Etcd { members, tls, prefix } => {
                write!(f, "etcd{}://{}/{prefix}", if *tls { "s" } else { "" }, members.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_read_and_shown() {
        for (text, shown) in [
            ("memory", "memory"),
            ("etcd://a:1", "etcd://a:1/hadal"),
            ("etcds://a:1,b:2/team/x/", "etcds://a:1,b:2/team/x"),
        ] {
            assert_eq!(text.parse::<StoreAddress>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_store_says_why() {
        for (text, problem) in [
            ("zookeeper://a:1", "unknown kind"),
            ("etcd://a", "not HOST:PORT"),
            ("etcd://", "not HOST:PORT"),
            ("etcd://a:1,", "not HOST:PORT"),
            ("etcd://a:1/", "prefix is empty"),
        ] {
            let error = text.parse::<StoreAddress>().unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("write memory"), "{error}");
        }
    }
}
