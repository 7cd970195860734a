//! TLS between the parts: rustls with ring, both sides authenticated. A peer is accepted when its certificate chains
//! to the configured authority; a server's must also bear the name that was dialled (or `--tls-name`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// Where the PEM files are. All three or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Security")]
pub struct TlsFiles {
    /// This part's certificate chain, PEM; turns on TLS with both sides authenticated
    #[arg(long = "tls-cert", value_name = "FILE", requires_all = ["tls_key", "tls_ca"], id = "tls_cert")]
    pub cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(long = "tls-key", value_name = "FILE", requires = "tls_cert", id = "tls_key")]
    pub key: Option<PathBuf>,
    /// The authority that signed every part's certificate, PEM
    #[arg(long = "tls-ca", value_name = "FILE", requires = "tls_cert", id = "tls_ca")]
    pub ca: Option<PathBuf>,
    /// Name that every peer's certificate must bear, in place of the host name dialled
    #[arg(long = "tls-name", value_name = "NAME", requires = "tls_cert", id = "tls_name")]
    pub name: Option<String>,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One or two of the three files are named.
    #[error("TLS needs --tls-cert, --tls-key and --tls-ca together; {missing} is missing")]
    Incomplete {
        /// The flag that is missing.
        missing: &'static str,
    },
    /// A file cannot be read or holds the wrong thing.
    #[error("{flag} {}: {problem}", path.display())]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The files do not fit together.
    #[error("certificate {} and key {}: {problem}", cert.display(), key.display())]
    Pair {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The name of peers is none.
    #[error("--tls-name {0:?} is neither a DNS name nor an IP address")]
    Name(String),
}

/// TLS as every listener and connection of a process uses it. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
    cert_pem: Arc<[u8]>,
    key_pem: Arc<[u8]>,
    ca_pem: Arc<[u8]>,
    name: Option<Arc<str>>,
}

impl std::fmt::Debug for Tls {
    /// Says nothing about keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The three files, read.
struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

impl Tls {
    /// Reads the files; `None` when none is named.
    ///
    /// # Errors
    /// When only some are named, one is unreadable or holds no PEM of its kind, or key and certificate do not match.
    pub fn load(files: &TlsFiles) -> Result<Option<Self>, TlsError> {
        let (cert, key, ca) = match (&files.cert, &files.key, &files.ca) {
            (None, None, None) => return Ok(None),
            (Some(cert), Some(key), Some(ca)) => (cert, key, ca),
            (None, _, _) => return Err(TlsError::Incomplete { missing: "--tls-cert" }),
            (_, None, _) => return Err(TlsError::Incomplete { missing: "--tls-key" }),
            (_, _, None) => return Err(TlsError::Incomplete { missing: "--tls-ca" }),
        };
        if let Some(name) = &files.name {
            ServerName::try_from(name.as_str()).map_err(|_| TlsError::Name(name.clone()))?;
        }
        let pem = Pem { cert: read("--tls-cert", cert)?, key: read("--tls-key", key)?, ca: read("--tls-ca", ca)? };
        let chain = certificates("--tls-cert", cert, &pem.cert)?;
        let private = PrivateKeyDer::from_pem_slice(&pem.key)
            .map_err(|e| file("--tls-key", key, format!("no PEM private key in it ({e})")))?;
        let roots = Arc::new(roots(ca, &pem.ca)?);
        let pair = |e: rustls::Error| TlsError::Pair { cert: cert.clone(), key: key.clone(), problem: e.to_string() };
        let server = server_config(&roots, &chain, &private, ca)?.map_err(pair)?;
        let client = client_config(roots, chain, private).map_err(pair)?;
        Ok(Some(Self {
            server: Arc::new(server),
            client: Arc::new(client),
            cert_pem: pem.cert.into(),
            key_pem: pem.key.into(),
            ca_pem: pem.ca.into(),
            name: files.name.as_deref().map(Into::into),
        }))
    }

    /// For raw TCP listeners: requires a client's certificate.
    pub fn server_config(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For raw TCP connections: presents this part's certificate.
    pub fn client_config(&self) -> Arc<rustls::ClientConfig> {
        Arc::clone(&self.client)
    }

    /// The name that the certificate of the peer at `host` must bear.
    ///
    /// # Errors
    /// When the host is neither a DNS name nor an IP address.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        let name = self.name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))
    }

    pub(crate) fn tonic_server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(Identity::from_pem(&self.cert_pem, &self.key_pem))
            .client_ca_root(Certificate::from_pem(&self.ca_pem))
    }

    pub(crate) fn tonic_client(&self) -> ClientTlsConfig {
        let config = ClientTlsConfig::new()
            .identity(Identity::from_pem(&self.cert_pem, &self.key_pem))
            .ca_certificate(Certificate::from_pem(&self.ca_pem));
        match &self.name {
            Some(name) => config.domain_name(&**name),
            None => config,
        }
    }
}

fn file(flag: &'static str, path: &Path, problem: impl Into<String>) -> TlsError {
    TlsError::File { flag, path: path.to_owned(), problem: problem.into() }
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|e| file(flag, path, e.to_string()))
}

fn certificates(flag: &'static str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|e| file(flag, path, format!("malformed PEM ({e})")))?;
    if found.is_empty() {
        return Err(file(flag, path, "no PEM certificate in it (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(found)
}

fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("--tls-ca", path, pem)? {
        roots.add(certificate).map_err(|e| file("--tls-ca", path, e.to_string()))?;
    }
    Ok(roots)
}

fn server_config(
    roots: &Arc<RootCertStore>,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    ca: &Path,
) -> Result<Result<rustls::ServerConfig, rustls::Error>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider))
        .build()
        .map_err(|e| file("--tls-ca", ca, e.to_string()))?;
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.and_then(|b| b.with_client_cert_verifier(verifier).with_single_cert(chain.to_vec(), key.clone_key())))
}

fn client_config(
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
}

#[cfg(test)]
pub(crate) mod tests;
