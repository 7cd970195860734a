//! Handshakes over loopback with certificates made here.

use std::io::ErrorKind;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// An authority and a folder of what it signed.
pub(crate) struct Authority {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    /// Files of a part whose certificate bears `names`.
    pub(crate) fn files(&self, part: &str, names: &[&str]) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |end: &str| self.folder.path().join(format!("{part}{end}"));
        std::fs::write(path(".pem"), certificate.pem()).unwrap();
        std::fs::write(path(".key"), key.serialize_pem()).unwrap();
        let ca = self.folder.path().join("ca.pem");
        TlsFiles { cert: Some(path(".pem")), key: Some(path(".key")), ca: Some(ca), name: None }
    }
}

fn load(files: &TlsFiles) -> Tls {
    Tls::load(files).unwrap().unwrap()
}

/// What the client reads of the byte that the server writes after the handshake.
async fn exchange(
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
    host: &str,
) -> std::io::Result<u8> {
    let (near, far) = duplex(1 << 16);
    let served = async move {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.write_all(&[42]).await?;
        stream.shutdown().await
    };
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let asked = async move { TlsConnector::from(client).connect(name, near).await?.read_u8().await };
    let (served, asked) = tokio::join!(served, asked);
    served.and(asked)
}

#[tokio::test]
async fn parts_of_one_authority_talk() {
    let authority = Authority::new();
    let server = load(&authority.files("server", &["127.0.0.1", "localhost"]));
    let client = load(&authority.files("client", &["localhost"]));
    for host in ["127.0.0.1", "localhost"] {
        assert_eq!(exchange(server.server_config(), client.client_config(), host).await.unwrap(), 42);
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let authority = Authority::new();
    let server = load(&authority.files("server", &["localhost"]));
    let pem = std::fs::read(authority.folder.path().join("ca.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(Path::new("ca.pem"), &pem).unwrap())
        .with_no_client_auth();
    let error = exchange(server.server_config(), Arc::new(client), "localhost").await.unwrap_err();
    assert!(error.to_string().contains("peer sent no certificates"), "{error}");
}

#[tokio::test]
async fn a_client_of_another_authority_is_refused() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let server = load(&authority.files("server", &["localhost"]));
    // It trusts the right authority, but another one signed its certificate.
    let mut files = foreign.files("client", &["localhost"]);
    files.ca = Some(authority.folder.path().join("ca.pem"));
    let error = exchange(server.server_config(), load(&files).client_config(), "localhost").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
}

#[tokio::test]
async fn a_server_of_another_authority_or_name_is_refused() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let client = load(&authority.files("client", &["localhost"]));
    let server = load(&foreign.files("server", &["localhost"]));
    assert!(exchange(server.server_config(), client.client_config(), "localhost").await.is_err());
    let server = load(&authority.files("server", &["elsewhere"]));
    assert!(exchange(server.server_config(), client.client_config(), "localhost").await.is_err());
}

#[test]
fn a_fixed_name_replaces_the_host() {
    let authority = Authority::new();
    let mut files = authority.files("part", &["hadal"]);
    files.name = Some("hadal".to_owned());
    assert_eq!(load(&files).server_name("10.1.2.3").unwrap(), ServerName::try_from("hadal").unwrap());
    files.name = Some("not a name".to_owned());
    assert!(matches!(Tls::load(&files), Err(TlsError::Name(_))));
}

#[test]
fn wrong_files_are_named() {
    let authority = Authority::new();
    let files = authority.files("part", &["localhost"]);
    assert!(Tls::load(&TlsFiles::default()).unwrap().is_none());
    let error = |change: &dyn Fn(&mut TlsFiles)| {
        let mut files = files.clone();
        change(&mut files);
        Tls::load(&files).unwrap_err().to_string()
    };
    assert!(error(&|f| f.key = None).contains("--tls-key is missing"));
    assert!(error(&|f| f.ca = Some("/nowhere".into())).contains("--tls-ca /nowhere: No such file"));
    assert!(error(&|f| f.cert = f.key.clone()).contains("no PEM certificate in it"));
    assert!(error(&|f| f.key = f.cert.clone()).contains("no PEM private key in it"));
    let other = authority.files("other", &["localhost"]);
    let text = error(&|f| f.key = other.key.clone());
    assert!(text.contains("part.pem") && text.contains("other.key"), "{text}");
}
