//! The health service of tonic over loopback, plain and with TLS.

use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::net;
use crate::tls::tests::Authority;

const SERVICE: &str = "hadal";

async fn check(channel: Channel) -> Result<i32, tonic::Status> {
    let request = HealthCheckRequest { service: SERVICE.to_owned() };
    Ok(HealthClient::new(channel).check(request).await?.into_inner().status)
}

/// A health server, its address, what ends it, and its end.
async fn start(tls: Option<Tls>) -> (String, CancellationToken, tokio::task::JoinHandle<Result<(), ServeError>>) {
    let (listener, address) = net::listen("--grpc", "127.0.0.1:0", &net::Exposure::default()).unwrap();
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status(SERVICE, ServingStatus::Serving).await;
    let drain = CancellationToken::new();
    let server = tokio::spawn(serve(listener, tls, Routes::new(service), drain.clone()));
    (address.to_string(), drain, server)
}

#[tokio::test]
async fn a_call_is_answered_and_the_server_drains() {
    let (address, drain, server) = start(None).await;
    assert_eq!(check(channel(&address, None).unwrap()).await.unwrap(), 1);
    drain.cancel();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn with_tls_both_sides_are_authenticated() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let load = |files| Tls::load(&files).unwrap().unwrap();
    let (address, drain, server) = start(Some(load(authority.files("server", &["127.0.0.1"])))).await;
    let client = load(authority.files("client", &["localhost"]));
    assert_eq!(check(channel(&address, Some(&client)).unwrap()).await.unwrap(), 1);
    let stranger = load(foreign.files("client", &["localhost"]));
    assert!(check(channel(&address, Some(&stranger)).unwrap()).await.is_err());
    assert!(check(channel(&address, None).unwrap()).await.is_err());
    drain.cancel();
    server.await.unwrap().unwrap();
    let (address, drain, server) = start(None).await;
    let alone = check(channel(&address, Some(&client)).unwrap()).await.unwrap_err();
    assert!(explain(&alone).contains("does not speak TLS"), "{}", explain(&alone));
    drain.cancel();
    server.await.unwrap().unwrap();
}

#[test]
fn what_tells_of_tls_on_one_side_only_is_explained() {
    // Whether a plain client hears this or a broken pipe is a race.
    let status = tonic::Status::unavailable("connection error detected: frame with invalid size");
    assert!(explain(&status).contains("perhaps the other side speaks TLS"));
    assert_eq!(explain(&tonic::Status::unavailable("closed")), "closed");
}

#[tokio::test]
async fn a_fixed_name_is_checked_in_place_of_the_address() {
    let authority = Authority::new();
    let mut files = authority.files("part", &["hadal"]);
    files.name = Some("hadal".to_owned());
    let tls = Tls::load(&files).unwrap().unwrap();
    let (address, drain, server) = start(Some(tls.clone())).await;
    assert_eq!(check(channel(&address, Some(&tls)).unwrap()).await.unwrap(), 1);
    drain.cancel();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_malformed_address_is_refused() {
    for wrong in ["", "nowhere", ":8001", "host:port", "a b:1"] {
        assert!(channel(wrong, None).is_err(), "{wrong:?}");
    }
}
