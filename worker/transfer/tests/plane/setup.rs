//! Two workers that agree on everything, and pages to send.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hadal_shell::tls::Tls;
use hadal_transfer::{Block, Connector, ErrorKind, Expect, Fetch, Memory, Offer, Tcp, TcpConfig, Timeouts};
use hadal_types::{
    Encoding, Field, Geometry, Incarnation, Keep, LayerId, LeaseId, NumericsClass, Part, Placement, Store,
};
use tokio::net::TcpListener;
use tokio::time::Instant;

pub(crate) const LEASE: LeaseId = LeaseId(77);
pub(crate) const SENDER: Incarnation = Incarnation(1);
pub(crate) const RECEIVER: Incarnation = Incarnation(2);
/// Bytes of a page of the only store.
pub(crate) const PAGE: usize = 64 * 16;

pub(crate) fn us(incarnation: Incarnation) -> Expect {
    let store = Store {
        owner: LayerId(0),
        part: Part::Latent,
        stride: 1,
        record: vec![Field { name: "x".into(), encoding: Encoding::I8, count: 16 }],
        placement: Placement::PerRow,
        keep: Keep::All,
    };
    let geometry = Geometry { layout: "rows-16".into(), stores: vec![store], layers: vec![] };
    Expect { incarnation, class: NumericsClass([5; 16]), geometry: Arc::new(geometry) }
}

pub(crate) fn page(block: u32) -> Block {
    let bytes: Vec<u8> = (0..PAGE).map(|i| (i as u32 * 31 + block) as u8).collect();
    Block { block, store: 0, rows: 64, bytes: bytes.into() }
}

/// Far enough away that no test meets it by accident.
pub(crate) fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

pub(crate) fn offer() -> Offer {
    Offer { lease: LEASE, receiver: RECEIVER, deadline: later() }
}

pub(crate) fn fetch(address: String) -> Fetch {
    Fetch { address, lease: LEASE, sender: SENDER, blocks: 0..8, window_bytes: 4 * PAGE as u64, deadline: later() }
}

/// A sender and a receiver of one backend.
pub(crate) struct Pair {
    pub(crate) sender: Arc<dyn Connector>,
    pub(crate) receiver: Arc<dyn Connector>,
}

/// Errors that only the listener saw.
pub(crate) type Counted = Arc<Mutex<Vec<ErrorKind>>>;

pub(crate) struct TcpEnd {
    pub(crate) tcp: Tcp,
    pub(crate) counted: Counted,
}

/// One TCP worker, listening.
pub(crate) async fn tcp(us: Expect, timeouts: Timeouts, tls: Option<Tls>) -> TcpEnd {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let counted = Counted::default();
    let seen = Arc::clone(&counted);
    let on_error = Arc::new(move |kind| seen.lock().unwrap().push(kind));
    let tcp = Tcp::new(TcpConfig { address, us, timeouts, tls, on_error });
    tokio::spawn(tcp.clone().serve(listener));
    TcpEnd { tcp, counted }
}

pub(crate) async fn tcp_pair(sender: Expect, receiver: Expect) -> Pair {
    let sender = tcp(sender, Timeouts::default(), None).await.tcp;
    let receiver = tcp(receiver, Timeouts::default(), None).await.tcp;
    Pair { sender: Arc::new(sender), receiver: Arc::new(receiver) }
}

pub(crate) fn memory_pair(sender: Expect, receiver: Expect) -> Pair {
    let sender = Memory::new("sender", sender);
    let receiver = sender.join("receiver", receiver);
    Pair { sender: Arc::new(sender), receiver: Arc::new(receiver) }
}
