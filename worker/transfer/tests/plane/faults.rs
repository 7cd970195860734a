//! What TCP makes of faults: flipped and missing bytes, peers of another version, peers that are slow or lie.

use std::time::Duration;

use bytes::BytesMut;
use hadal_shell::tls::{Tls, TlsFiles};
use hadal_transfer::{
    Connector, Decoder, ErrorKind, Expect, Frame, Hello, Received, Refusal, Timeouts, VERSION, encode, frame_bytes_max,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::setup::{LEASE, PAGE, RECEIVER, SENDER, fetch, later, offer, page, tcp, us};

/// Stands between receiver and sender: flips the bit of one byte of what the sender sends, and closes after so many.
async fn proxy(to: String, flip_at: Option<usize>, close_after: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(to).await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
        let mut seen = 0;
        let mut buffer = vec![0; 4096];
        while let Ok(n) = from_server.read(&mut buffer).await {
            let n = n.min(close_after - seen);
            if n == 0 {
                break;
            }
            if let Some(at) = flip_at.filter(|at| (seen..seen + n).contains(at)) {
                buffer[at - seen] ^= 1;
            }
            to_client.write_all(&buffer[..n]).await.unwrap();
            seen += n;
        }
    });
    address
}

/// Sends eight pages through the proxy and says how the receiver fares.
async fn through_proxy(flip_at: Option<usize>, close_after: usize) -> ErrorKind {
    let sender = tcp(us(SENDER), Timeouts::default(), None).await.tcp;
    let receiver = tcp(us(RECEIVER), Timeouts::default(), None).await.tcp;
    let offered = sender.offer(offer());
    let address = proxy(sender.address(), flip_at, close_after).await;
    let task = tokio::spawn(async move {
        let mut outgoing = offered.accept().await?;
        for block in 0..8 {
            outgoing.send(page(block)).await?;
        }
        outgoing.end().await
    });
    let receive = async {
        let mut incoming = receiver.fetch(fetch(address)).await?;
        while let Received::Block(block) = incoming.next().await? {
            assert_eq!(block, page(block.block), "a page that is believed is right");
            incoming.grant(PAGE as u64).await?;
        }
        incoming.ack().await
    };
    let error = receive.await.expect_err("the fault is noticed");
    assert!(task.await.unwrap().is_err(), "the sender notices that nobody acknowledges");
    error.kind()
}

#[tokio::test]
async fn a_flipped_byte_is_a_checksum_error() {
    // Welcome takes 11 bytes; then come pages with 21 bytes of header each.
    for at in [11 + 4, 11 + 30, 11 + 3 * (PAGE + 21) + 500] {
        assert_eq!(through_proxy(Some(at), usize::MAX).await, ErrorKind::Checksum);
    }
}

#[tokio::test]
async fn a_truncated_stream_is_a_short_read() {
    for after in [11 + 7, 11 + 5 * (PAGE + 21), 11 + 5 * (PAGE + 21) + 100] {
        assert_eq!(through_proxy(None, after).await, ErrorKind::ShortRead);
    }
}

fn hello() -> Hello {
    let Expect { class, geometry, .. } = us(RECEIVER);
    let layout = geometry.layout.clone();
    Hello { version: VERSION, lease: LEASE, class, sender: SENDER, receiver: RECEIVER, layout }
}

async fn say(stream: &mut TcpStream, frame: &Frame) {
    let mut bytes = BytesMut::new();
    encode(frame, &mut bytes);
    stream.write_all(&bytes).await.unwrap();
}

async fn hear(stream: &mut TcpStream) -> Frame {
    let mut decoder = Decoder::new(frame_bytes_max(PAGE));
    loop {
        if let Some(frame) = decoder.next_frame().unwrap() {
            return frame;
        }
        assert_ne!(stream.read_buf(decoder.buffer()).await.unwrap(), 0, "closed without an answer");
    }
}

#[tokio::test]
async fn another_version_is_refused_and_counted() {
    let sender = tcp(us(SENDER), Timeouts::default(), None).await;
    let _offered = sender.tcp.offer(offer());
    let mut stream = TcpStream::connect(sender.tcp.address()).await.unwrap();
    say(&mut stream, &Frame::Hello(Hello { version: 9, ..hello() })).await;
    assert!(matches!(hear(&mut stream).await, Frame::Refuse { refusal: Refusal::Version, .. }));
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(*sender.counted.lock().unwrap(), [ErrorKind::Version]);
}

#[tokio::test]
async fn a_sender_of_another_version_is_noticed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let receiver = tcp(us(RECEIVER), Timeouts::default(), None).await.tcp;
    let wanted = receiver.fetch(fetch(listener.local_addr().unwrap().to_string()));
    let peer = async {
        let mut stream = listener.accept().await.unwrap().0;
        hear(&mut stream).await;
        say(&mut stream, &Frame::Welcome { version: 2 }).await;
        stream
    };
    let (incoming, _stream) = tokio::join!(wanted, peer);
    assert_eq!(incoming.err().unwrap().kind(), ErrorKind::Version);
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let timeouts = Timeouts { handshake: Duration::from_millis(20), ..Timeouts::default() };
    let sender = tcp(us(SENDER), timeouts, None).await;
    let mut stream = TcpStream::connect(sender.tcp.address()).await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(*sender.counted.lock().unwrap(), [ErrorKind::Timeout]);
}

#[tokio::test]
async fn noise_is_refused_and_the_listener_goes_on() {
    let sender = tcp(us(SENDER), Timeouts::default(), None).await;
    let mut noise = TcpStream::connect(sender.tcp.address()).await.unwrap();
    noise.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let _ = noise.read(&mut [0]).await;
    assert_eq!(*sender.counted.lock().unwrap(), [ErrorKind::Protocol]);
    let offered = sender.tcp.offer(offer());
    let receiver = tcp(us(RECEIVER), Timeouts::default(), None).await.tcp;
    let (outgoing, incoming) = tokio::join!(offered.accept(), receiver.fetch(fetch(sender.tcp.address())));
    assert!(outgoing.is_ok() && incoming.is_ok());
}

#[tokio::test]
async fn a_receiver_that_grants_nothing_holds_one_window_and_times_out() {
    let timeouts = Timeouts { stall: Duration::from_millis(50), ..Timeouts::default() };
    let sender = tcp(us(SENDER), timeouts, None).await.tcp;
    let receiver = tcp(us(RECEIVER), Timeouts::default(), None).await.tcp;
    let offered = sender.offer(offer());
    let (outgoing, incoming) = tokio::join!(offered.accept(), receiver.fetch(fetch(sender.address())));
    let (mut outgoing, _incoming) = (outgoing.unwrap(), incoming.unwrap());
    let mut sent = 0;
    let error = loop {
        match outgoing.send(page(sent)).await {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((sent, error.kind()), (4, ErrorKind::Timeout));
}

#[tokio::test]
async fn a_sender_that_ignores_credit_is_cut_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let receiver = tcp(us(RECEIVER), Timeouts::default(), None).await.tcp;
    let wanted = receiver.fetch(fetch(listener.local_addr().unwrap().to_string()));
    let peer = async {
        let mut stream = listener.accept().await.unwrap().0;
        hear(&mut stream).await;
        say(&mut stream, &Frame::Welcome { version: VERSION }).await;
        for block in 0..5 {
            let hadal_transfer::Block { block, store, rows, bytes } = page(block);
            say(&mut stream, &Frame::Block { block, store, rows, bytes }).await;
        }
        stream
    };
    let (incoming, _stream) = tokio::join!(wanted, peer);
    let mut incoming = incoming.unwrap();
    for _ in 0..4 {
        incoming.next().await.unwrap();
    }
    assert_eq!(incoming.next().await.unwrap_err().kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn a_lease_that_ends_on_the_way_ends_both_sides() {
    let sender = tcp(us(SENDER), Timeouts::default(), None).await.tcp;
    let receiver = tcp(us(RECEIVER), Timeouts::default(), None).await.tcp;
    let soon = later() - Duration::from_secs(60) + Duration::from_millis(150);
    let offered = sender.offer(hadal_transfer::Offer { deadline: soon, ..offer() });
    let wanted = hadal_transfer::Fetch { deadline: soon, ..fetch(sender.address()) };
    let (outgoing, incoming) = tokio::join!(offered.accept(), receiver.fetch(wanted));
    let (mut outgoing, mut incoming) = (outgoing.unwrap(), incoming.unwrap());
    let (sent, received) = tokio::join!(outgoing.broken(), incoming.next());
    assert_eq!(sent.kind(), ErrorKind::Timeout);
    assert_eq!(received.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn nobody_there_is_a_connect_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let receiver = tcp(us(RECEIVER), Timeouts::default(), None).await.tcp;
    assert_eq!(receiver.fetch(fetch(address)).await.err().unwrap().kind(), ErrorKind::Connect);
}

/// An authority and one certificate for both ends.
fn certificates() -> Tls {
    let folder = tempfile::tempdir().unwrap();
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&key, &issuer).unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let files = TlsFiles {
        cert: write("cert.pem", leaf.pem()),
        key: write("key.pem", key.serialize_pem()),
        ca: write("ca.pem", root.pem()),
        name: None,
    };
    Tls::load(&files).unwrap().unwrap()
}

#[tokio::test]
async fn pages_cross_tls_and_strangers_do_not_get_in() {
    let tls = certificates();
    let sender = tcp(us(SENDER), Timeouts::default(), Some(tls.clone())).await.tcp;
    let receiver = tcp(us(RECEIVER), Timeouts::default(), Some(tls)).await.tcp;
    let offered = sender.offer(offer());

    let stranger = tcp(us(RECEIVER), Timeouts::default(), Some(certificates())).await.tcp;
    assert!(stranger.fetch(fetch(sender.address())).await.is_err());
    let plain = tcp(us(RECEIVER), Timeouts::default(), None).await.tcp;
    assert!(plain.fetch(fetch(sender.address())).await.is_err());

    let (outgoing, incoming) = tokio::join!(offered.accept(), receiver.fetch(fetch(sender.address())));
    let (mut outgoing, mut incoming) = (outgoing.unwrap(), incoming.unwrap());
    let send = async {
        outgoing.send(page(0)).await.unwrap();
        outgoing.end().await
    };
    let receive = async {
        assert_eq!(incoming.next().await.unwrap(), Received::Block(page(0)));
        assert_eq!(incoming.next().await.unwrap(), Received::End);
        incoming.ack().await
    };
    let (sent, received) = tokio::join!(send, receive);
    sent.unwrap();
    received.unwrap();
}
