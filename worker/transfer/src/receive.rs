//! The receiver's end of a connection: grants credit, checks every page, and holds the sender to both.

use std::ops::Range;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::connector::{Block, BoxFuture, Expect, Fetch, Incoming, Received};
use crate::error::TransferError;
use crate::frame::{Frame, Hello, VERSION};
use crate::link::Link;

pub(crate) struct ReceiveLeg {
    link: Link,
    us: Expect,
    due: Range<u32>,
    credit_bytes: u64,
    blocks: u32,
    deadline: Instant,
    stall: Duration,
}

impl ReceiveLeg {
    /// Says Hello and grants the window.
    pub(crate) async fn open(
        mut link: Link,
        us: Expect,
        fetch: &Fetch,
        (handshake, stall): (Duration, Duration),
    ) -> Result<Self, TransferError> {
        let until = fetch.deadline.min(Instant::now() + handshake);
        link.queue(&Frame::Hello(Hello {
            version: VERSION,
            lease: fetch.lease,
            class: us.class,
            sender: fetch.sender,
            receiver: us.incarnation,
            layout: us.geometry.layout.clone(),
        }));
        link.flush(until).await?;
        let answer = timeout_at(until, link.read()).await;
        match answer.map_err(|_| TransferError::Timeout("the sender does not answer Hello"))?? {
            Frame::Welcome { version: VERSION } => {}
            Frame::Welcome { version } => return Err(crate::FrameError::Version { theirs: version }.into()),
            Frame::Refuse { refusal, reason } => return Err(TransferError::Refused { refusal, reason }),
            Frame::Abort { reason } => return Err(TransferError::Aborted(reason)),
            _ => return Err(TransferError::Protocol("Welcome or Refuse must follow Hello".into())),
        }
        let window = fetch.window_bytes.max(us.page_bytes_max());
        let due = fetch.blocks.clone();
        let mut leg = Self { link, us, due, credit_bytes: 0, blocks: 0, deadline: fetch.deadline, stall };
        leg.grant_bytes(window).await?;
        Ok(leg)
    }

    fn until(&self) -> Instant {
        self.deadline.min(Instant::now() + self.stall)
    }

    async fn grant_bytes(&mut self, bytes: u64) -> Result<(), TransferError> {
        self.credit_bytes = self.credit_bytes.saturating_add(bytes);
        self.link.queue(&Frame::Credit { bytes });
        self.link.flush(self.until()).await
    }

    async fn receive(&mut self) -> Result<Received, TransferError> {
        let frame = timeout_at(self.deadline, self.link.read()).await;
        match frame.map_err(|_| TransferError::Timeout("the lease ended before the pages were here"))?? {
            Frame::Block { block, store, rows, bytes } => self.page(Block { block, store, rows, bytes }),
            Frame::End { blocks } if blocks == self.blocks => Ok(Received::End),
            Frame::End { blocks } => {
                Err(TransferError::ShortRead(format!("{} pages came of {blocks} that were sent", self.blocks)))
            }
            Frame::Abort { reason } => Err(TransferError::Aborted(reason)),
            _ => Err(TransferError::Protocol("a sender sends Block, End or Abort only".into())),
        }
    }

    fn page(&mut self, block: Block) -> Result<Received, TransferError> {
        self.us.check(&block, &self.due)?;
        let left = self.credit_bytes.checked_sub(block.bytes.len() as u64);
        self.credit_bytes = left.ok_or_else(|| TransferError::Protocol("a page beyond the credit".into()))?;
        self.blocks += 1;
        Ok(Received::Block(block))
    }
}

impl Incoming for ReceiveLeg {
    fn next(&mut self) -> BoxFuture<'_, Result<Received, TransferError>> {
        Box::pin(self.receive())
    }

    fn grant(&mut self, bytes: u64) -> BoxFuture<'_, Result<(), TransferError>> {
        Box::pin(self.grant_bytes(bytes))
    }

    fn ack(mut self: Box<Self>) -> BoxFuture<'static, Result<(), TransferError>> {
        Box::pin(async move {
            self.link.queue(&Frame::Ack);
            let until = self.until();
            self.link.flush(until).await?;
            self.link.close(until).await;
            Ok(())
        })
    }

    fn abort(self: Box<Self>, reason: String) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.link.farewell(&Frame::Abort { reason }).await })
    }
}
