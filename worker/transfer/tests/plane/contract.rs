//! What every backend of the KV plane promises. Each case runs against TCP and against the in-process double.

use futures_util::FutureExt;
use hadal_transfer::{ErrorKind, Expect, Incoming, Offer, Outgoing, Received, TransferError};
use hadal_types::{Incarnation, NumericsClass};
use tokio::time::Instant;

use crate::setup::{PAGE, Pair, RECEIVER, SENDER, fetch, memory_pair, offer, page, tcp_pair, us};

/// Runs a case against each backend.
macro_rules! contract {
    ($($case:ident),+ $(,)?) => {
        mod over_tcp {
            $(#[tokio::test] async fn $case() {
                super::$case(super::tcp_pair(super::us(super::SENDER), super::us(super::RECEIVER)).await).await;
            })+
        }
        mod in_memory {
            $(#[tokio::test] async fn $case() {
                super::$case(super::memory_pair(super::us(super::SENDER), super::us(super::RECEIVER))).await;
            })+
        }
    };
}

contract!(
    pages_arrive_as_they_were,
    a_sender_waits_for_credit,
    a_lease_is_filled_once,
    an_unknown_lease_is_refused,
    a_withdrawn_lease_is_refused,
    an_expired_lease_is_refused,
    a_lease_ends_for_its_sender_too,
    a_restarted_sender_refuses,
    a_receiver_that_goes_is_noticed,
    a_sender_that_goes_is_noticed,
    giving_up_says_why_to_the_receiver,
    giving_up_says_why_to_the_sender,
    pages_that_are_not_due_are_refused,
);

async fn connected(pair: &Pair) -> (Box<dyn Outgoing>, Box<dyn Incoming>) {
    let offered = pair.sender.offer(offer());
    let (outgoing, incoming) = tokio::join!(offered.accept(), pair.receiver.fetch(fetch(pair.sender.address())));
    (outgoing.unwrap(), incoming.unwrap())
}

async fn refused(pair: &Pair) -> ErrorKind {
    let error = pair.receiver.fetch(fetch(pair.sender.address())).await.err().expect("it is refused");
    error.kind()
}

async fn pages_arrive_as_they_were(pair: Pair) {
    let (mut outgoing, mut incoming) = connected(&pair).await;
    let send = async {
        for block in 0..8 {
            outgoing.send(page(block)).await.unwrap();
        }
        outgoing.end().await
    };
    let receive = async {
        for block in 0..8 {
            assert_eq!(incoming.next().await.unwrap(), Received::Block(page(block)));
            incoming.grant(PAGE as u64).await.unwrap();
        }
        assert_eq!(incoming.next().await.unwrap(), Received::End);
        incoming.ack().await
    };
    let (sent, received) = tokio::join!(send, receive);
    sent.unwrap();
    received.unwrap();
}

async fn a_sender_waits_for_credit(pair: Pair) {
    let (mut outgoing, mut incoming) = connected(&pair).await;
    for block in 0..4 {
        outgoing.send(page(block)).await.unwrap();
    }
    // The window is four pages.
    assert!(outgoing.send(page(4)).now_or_never().is_none());
    for block in 0..4 {
        assert_eq!(incoming.next().await.unwrap(), Received::Block(page(block)));
    }
    assert!(incoming.next().now_or_never().is_none());
    incoming.grant(PAGE as u64).await.unwrap();
    outgoing.send(page(4)).await.unwrap();
    assert_eq!(incoming.next().await.unwrap(), Received::Block(page(4)));
}

async fn a_lease_is_filled_once(pair: Pair) {
    let _first = connected(&pair).await;
    assert_eq!(refused(&pair).await, ErrorKind::Lease);
}

async fn an_unknown_lease_is_refused(pair: Pair) {
    assert_eq!(refused(&pair).await, ErrorKind::Lease);
}

async fn a_withdrawn_lease_is_refused(pair: Pair) {
    drop(pair.sender.offer(offer()));
    assert_eq!(refused(&pair).await, ErrorKind::Lease);
}

async fn an_expired_lease_is_refused(pair: Pair) {
    let _offered = pair.sender.offer(Offer { deadline: Instant::now(), ..offer() });
    assert_eq!(refused(&pair).await, ErrorKind::Lease);
}

async fn a_lease_ends_for_its_sender_too(pair: Pair) {
    let offered = pair.sender.offer(Offer { deadline: Instant::now(), ..offer() });
    assert!(matches!(offered.accept().await, Err(TransferError::Timeout(_))));
}

async fn a_restarted_sender_refuses(pair: Pair) {
    let _offered = pair.sender.offer(offer());
    let mut fetch = fetch(pair.sender.address());
    fetch.sender = Incarnation(99);
    let error = pair.receiver.fetch(fetch).await.err().expect("it is refused");
    assert_eq!(error.kind(), ErrorKind::Lease);
}

async fn a_receiver_that_goes_is_noticed(pair: Pair) {
    let (mut outgoing, incoming) = connected(&pair).await;
    drop(incoming);
    let error = outgoing.broken().await;
    assert!(matches!(error.kind(), ErrorKind::ShortRead | ErrorKind::Io), "{error}");
}

async fn a_sender_that_goes_is_noticed(pair: Pair) {
    let (mut outgoing, mut incoming) = connected(&pair).await;
    outgoing.send(page(0)).await.unwrap();
    drop(outgoing);
    assert_eq!(incoming.next().await.unwrap(), Received::Block(page(0)));
    assert_eq!(incoming.next().await.unwrap_err().kind(), ErrorKind::ShortRead);
}

async fn giving_up_says_why_to_the_receiver(pair: Pair) {
    let (outgoing, mut incoming) = connected(&pair).await;
    outgoing.abort("preempted".into()).await;
    assert!(matches!(incoming.next().await, Err(TransferError::Aborted(why)) if why == "preempted"));
}

async fn giving_up_says_why_to_the_sender(pair: Pair) {
    let (mut outgoing, incoming) = connected(&pair).await;
    incoming.abort("cancelled".into()).await;
    assert!(matches!(outgoing.broken().await, TransferError::Aborted(why) if why == "cancelled"));
}

async fn pages_that_are_not_due_are_refused(pair: Pair) {
    let (mut outgoing, mut incoming) = connected(&pair).await;
    outgoing.send(page(8)).await.unwrap();
    assert_eq!(incoming.next().await.unwrap_err().kind(), ErrorKind::Protocol);
}

/// Each difference of identity, for each backend.
#[tokio::test]
async fn a_peer_of_another_kind_is_refused() {
    let layout = |mut us: Expect| {
        let mut geometry = (*us.geometry).clone();
        geometry.layout = "rows-32".into();
        us.geometry = geometry.into();
        us
    };
    let class = |mut us: Expect| {
        us.class = NumericsClass([6; 16]);
        us
    };
    let receivers = [
        (layout(us(RECEIVER)), ErrorKind::Layout),
        (class(us(RECEIVER)), ErrorKind::Layout),
        (us(Incarnation(3)), ErrorKind::Lease),
    ];
    for (receiver, kind) in receivers {
        for pair in [tcp_pair(us(SENDER), receiver.clone()).await, memory_pair(us(SENDER), receiver.clone())] {
            let _offered = pair.sender.offer(offer());
            assert_eq!(refused(&pair).await, kind);
        }
    }
}
