//! The trait of every backend of the KV plane. The receiver reserves pages first and connects; the sender pushes
//! whole pages, never more than the receiver has granted credit for. One lease, one connection, one use.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
pub use futures_util::future::BoxFuture;
use hadal_types::{Geometry, Incarnation, LeaseId, NumericsClass};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::TransferError;

/// What this process is; peers must agree with it.
#[derive(Clone, Debug)]
pub struct Expect {
    /// This life.
    pub incarnation: Incarnation,
    /// The class of its rows.
    pub class: NumericsClass,
    /// The stores and their pages; its layout's name is exchanged.
    pub geometry: Arc<Geometry>,
}

/// How long each wait may last; a lease's deadline ends all of them.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For TCP and TLS to stand.
    pub connect: Duration,
    /// For Hello and its answer.
    pub handshake: Duration,
    /// For a peer that takes no bytes, grants no credit or does not acknowledge.
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(3), handshake: Duration::from_secs(3), stall: Duration::from_secs(30) }
    }
}

/// The rows of one block in one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Position of the block in the sequence.
    pub block: u32,
    /// The store.
    pub store: u32,
    /// Rows that are filled.
    pub rows: u32,
    /// The whole page of that store.
    pub bytes: Bytes,
}

/// What a receiver gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A page, checked against the geometry.
    Block(Block),
    /// The end; every block that was sent has arrived.
    End,
}

/// A lease that the sender will fill.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Its unguessable id.
    pub lease: LeaseId,
    /// The life it is granted to.
    pub receiver: Incarnation,
    /// When it is over.
    pub deadline: Instant,
}

/// A lease that the receiver wants.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// The sender's KV plane.
    pub address: String,
    /// The lease.
    pub lease: LeaseId,
    /// The life that granted it.
    pub sender: Incarnation,
    /// The blocks that may come.
    pub blocks: Range<u32>,
    /// Credit at the start; at least one page is granted.
    pub window_bytes: u64,
    /// When the lease is over.
    pub deadline: Instant,
}

/// A backend.
pub trait Connector: Send + Sync {
    /// Where receivers connect.
    fn address(&self) -> String;

    /// Waits for the receiver of a lease. Dropping what is returned withdraws the lease.
    fn offer(&self, offer: Offer) -> Offered;

    /// Connects to the sender of a lease.
    fn fetch(&self, fetch: Fetch) -> BoxFuture<'_, Result<Box<dyn Incoming>, TransferError>>;
}

/// The sender's end.
pub trait Outgoing: Send {
    /// Sends a page as soon as there is credit for it.
    fn send(&mut self, block: Block) -> BoxFuture<'_, Result<(), TransferError>>;

    /// Resolves when the receiver is gone; to be watched while there is nothing to send. May be dropped and called
    /// again.
    fn broken(&mut self) -> BoxFuture<'_, TransferError>;

    /// Says that this was all and waits until the receiver has it.
    fn end(self: Box<Self>) -> BoxFuture<'static, Result<(), TransferError>>;

    /// Gives up, telling why as far as the connection still carries it.
    fn abort(self: Box<Self>, reason: String) -> BoxFuture<'static, ()>;
}

/// The receiver's end.
pub trait Incoming: Send {
    /// The next page. May be dropped and called again; nothing is lost.
    fn next(&mut self) -> BoxFuture<'_, Result<Received, TransferError>>;

    /// Allows so many more bytes of pages.
    fn grant(&mut self, bytes: u64) -> BoxFuture<'_, Result<(), TransferError>>;

    /// Tells the sender that all is here.
    fn ack(self: Box<Self>) -> BoxFuture<'static, Result<(), TransferError>>;

    /// Gives up, telling why as far as the connection still carries it.
    fn abort(self: Box<Self>, reason: String) -> BoxFuture<'static, ()>;
}

/// A lease that waits for its receiver.
pub struct Offered {
    arrives: oneshot::Receiver<Box<dyn Outgoing>>,
    deadline: Instant,
    _withdraw: Withdraw,
}

struct Withdraw(Option<Box<dyn FnOnce() + Send>>);

impl Drop for Withdraw {
    fn drop(&mut self) {
        if let Some(withdraw) = self.0.take() {
            withdraw();
        }
    }
}

impl Offered {
    /// For backends: what arrives, and how to withdraw the lease.
    pub(crate) fn new(
        arrives: oneshot::Receiver<Box<dyn Outgoing>>,
        deadline: Instant,
        withdraw: impl FnOnce() + Send + 'static,
    ) -> Self {
        Self { arrives, deadline, _withdraw: Withdraw(Some(Box::new(withdraw))) }
    }

    /// The connection, once the receiver is there.
    ///
    /// # Errors
    /// When the lease ends first.
    pub async fn accept(mut self) -> Result<Box<dyn Outgoing>, TransferError> {
        match tokio::time::timeout_at(self.deadline, &mut self.arrives).await {
            Ok(Ok(outgoing)) => Ok(outgoing),
            Ok(Err(_)) => Err(TransferError::Aborted("the KV plane of this worker stopped".into())),
            Err(_) => Err(TransferError::Timeout("the receiver did not connect before the lease ended")),
        }
    }
}

impl Expect {
    /// Checks a page that arrived.
    pub(crate) fn check(&self, block: &Block, blocks: &Range<u32>) -> Result<(), TransferError> {
        let protocol = |problem: String| Err(TransferError::Protocol(problem));
        let Some(store) = self.geometry.stores.get(block.store as usize) else {
            return protocol(format!("a page of store {}, which this layout has not", block.store));
        };
        if !blocks.contains(&block.block) {
            return protocol(format!("block {} where {} to {} are due", block.block, blocks.start, blocks.end));
        }
        if block.rows == 0 || block.rows > store.block_rows() {
            return protocol(format!("{} rows in a page of {}", block.rows, store.block_rows()));
        }
        if block.bytes.len() as u64 != store.block_bytes() {
            let problem = format!("{} bytes in a page of {}", block.bytes.len(), store.block_bytes());
            return Err(TransferError::ShortRead(problem));
        }
        Ok(())
    }

    /// Bytes of the largest page of one store.
    pub(crate) fn page_bytes_max(&self) -> u64 {
        self.geometry.stores.iter().map(|s| s.block_bytes()).max().unwrap_or(0)
    }
}
