//! Listeners. An internal one binds to loopback, unless TLS is configured or `--insecure` says that the network is
//! trusted.

use std::net::{SocketAddr, TcpListener as StdListener, ToSocketAddrs};

use tokio::net::TcpListener;

use crate::tls::{Tls, TlsError, TlsFiles};

/// Flags for what other machines may reach.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Security")]
pub struct ExposureOptions {
    #[command(flatten)]
    #[allow(missing_docs)] // shown as the flags of TlsFiles
    pub tls: TlsFiles,
    /// Let internal listeners bind beyond loopback without TLS: anybody who reaches them can use and read everything
    #[arg(long)]
    pub insecure: bool,
}

impl ExposureOptions {
    /// Reads the TLS files.
    ///
    /// # Errors
    /// As [`Tls::load`].
    pub fn load(&self) -> Result<Exposure, TlsError> {
        Ok(Exposure { tls: Tls::load(&self.tls)?, insecure: self.insecure })
    }
}

/// What other machines may reach, and how. By default nothing, without TLS.
#[derive(Debug, Clone, Default)]
pub struct Exposure {
    /// Secures every internal connection.
    pub tls: Option<Tls>,
    /// The operator trusts the network.
    pub insecure: bool,
}

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Not an address.
    #[error("{flag} {address}: {problem}; write HOST:PORT, such as 127.0.0.1:8001, or port 0 for any free one")]
    Address {
        /// The flag that gave it.
        flag: &'static str,
        /// As given.
        address: String,
        /// What is wrong.
        problem: String,
    },
    /// An internal listener beyond loopback, without TLS.
    #[error(
        "{flag} {address} can be reached from other machines, and is not secured: give --tls-cert, --tls-key and \
         --tls-ca, or listen on 127.0.0.1, or give --insecure if everything on that network is trusted"
    )]
    Exposed {
        /// The flag that gave it.
        flag: &'static str,
        /// As given.
        address: String,
    },
    /// Something listens there.
    #[error(
        "{flag} {address}: the port is in use, perhaps by another hadal; choose another one with {flag} HOST:PORT, \
         or port 0 for any free one"
    )]
    InUse {
        /// The flag that gave it.
        flag: &'static str,
        /// As given.
        address: String,
    },
    /// The operating system refused.
    #[error("{flag} {address}: {source}")]
    Os {
        /// The flag that gave it.
        flag: &'static str,
        /// As given.
        address: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Listens for the other parts of the cluster, and says where, which matters for port 0; `flag` names the flag that gave
/// the address, for errors. Must run inside a tokio runtime.
///
/// # Errors
/// When the address is no address, is beyond loopback and not secured, is in use, or is refused.
pub fn listen(
    flag: &'static str,
    address: &str,
    exposure: &Exposure,
) -> Result<(TcpListener, SocketAddr), ListenError> {
    let resolved = resolve(flag, address)?;
    let secured = exposure.tls.is_some() || exposure.insecure;
    if !secured && resolved.iter().any(|a| !a.ip().is_loopback()) {
        return Err(ListenError::Exposed { flag, address: address.to_owned() });
    }
    bind(flag, address, &resolved)
}

/// Listens for clients, on any address, and says where. Must run inside a tokio runtime.
///
/// # Errors
/// When the address is no address, is in use, or is refused.
pub fn listen_public(flag: &'static str, address: &str) -> Result<(TcpListener, SocketAddr), ListenError> {
    bind(flag, address, &resolve(flag, address)?)
}

/// What others dial to reach what was bound: as given, or else where it is bound.
///
/// # Errors
/// With what is wrong, when that is no address that can be dialled.
pub fn advertised(given: Option<&str>, bound: SocketAddr) -> Result<String, String> {
    match given {
        Some(address) => match address.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
            Some((host, Ok(port))) if !host.is_empty() && port != 0 => Ok(address.to_owned()),
            _ => Err(format!("{address:?} is not HOST:PORT, which others are to dial")),
        },
        None if bound.ip().is_unspecified() => Err(format!("needed, since {bound} is no address that others can dial")),
        None => Ok(bound.to_string()),
    }
}

fn resolve(flag: &'static str, address: &str) -> Result<Vec<SocketAddr>, ListenError> {
    let wrong = |problem: String| ListenError::Address { flag, address: address.to_owned(), problem };
    let found: Vec<_> = address.to_socket_addrs().map_err(|e| wrong(e.to_string()))?.collect();
    if found.is_empty() { Err(wrong("no such host".to_owned())) } else { Ok(found) }
}

fn bind(flag: &'static str, address: &str, resolved: &[SocketAddr]) -> Result<(TcpListener, SocketAddr), ListenError> {
    let refused = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AddrInUse => ListenError::InUse { flag, address: address.to_owned() },
        _ => ListenError::Os { flag, address: address.to_owned(), source },
    };
    let listener = StdListener::bind(resolved).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    Ok((TcpListener::from_std(listener).map_err(refused)?, bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn loopback_is_allowed_and_everything_else_needs_tls_or_a_word() {
        assert!(listen("--grpc", "127.0.0.1:0", &Exposure::default()).is_ok());
        assert!(listen("--grpc", "localhost:0", &Exposure::default()).is_ok());
        let error = listen("--grpc", "0.0.0.0:0", &Exposure::default()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("--grpc 0.0.0.0:0") && text.contains("--tls-cert") && text.contains("--insecure"));
        assert!(listen("--grpc", "0.0.0.0:0", &Exposure { tls: None, insecure: true }).is_ok());
        assert!(listen_public("--http", "0.0.0.0:0").is_ok());
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let (_first, address) = listen_public("--http", "127.0.0.1:0").unwrap();
        let address = address.to_string();
        let error = listen_public("--http", &address).unwrap_err();
        assert!(matches!(error, ListenError::InUse { .. }));
        assert!(error.to_string().contains(&format!("--http {address}")));
    }

    #[tokio::test]
    async fn what_is_no_address_is_refused() {
        for wrong in ["8000", "", "127.0.0.1:99999", "127.0.0.1"] {
            let error = listen_public("--http", wrong).unwrap_err();
            assert!(matches!(error, ListenError::Address { .. }), "{wrong}: {error}");
        }
    }
}
