//! The sender's end of a connection: pages within the credit, then the end, then the acknowledgement.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::connector::{Block, BoxFuture, Outgoing};
use crate::error::TransferError;
use crate::frame::Frame;
use crate::link::{Link, Step};

pub(crate) struct SendLeg {
    link: Link,
    credit_bytes: u64,
    blocks: u32,
    acknowledged: bool,
    deadline: Instant,
    stall: Duration,
}

impl SendLeg {
    pub(crate) fn new(link: Link, deadline: Instant, stall: Duration) -> Self {
        Self { link, credit_bytes: 0, blocks: 0, acknowledged: false, deadline, stall }
    }

    fn until(&self) -> Instant {
        self.deadline.min(Instant::now() + self.stall)
    }

    async fn read(&mut self, until: Instant, what: &'static str) -> Result<(), TransferError> {
        match timeout_at(until, self.link.read()).await {
            Ok(frame) => self.take(frame?),
            Err(_) => Err(TransferError::Timeout(what)),
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), TransferError> {
        match frame {
            Frame::Credit { bytes } => self.credit_bytes = self.credit_bytes.saturating_add(bytes),
            Frame::Ack => self.acknowledged = true,
            Frame::Abort { reason } => return Err(TransferError::Aborted(reason)),
            _ => return Err(TransferError::Protocol("a receiver sends credit, Ack or Abort only".into())),
        }
        Ok(())
    }

    async fn write_queued(&mut self) -> Result<(), TransferError> {
        let until = self.until();
        while let Step::Frame(frame) = self.link.step(until).await? {
            self.take(frame)?;
        }
        Ok(())
    }

    async fn send_block(&mut self, block: Block) -> Result<(), TransferError> {
        let cost = block.bytes.len() as u64;
        let until = self.until();
        while self.credit_bytes < cost {
            self.read(until, "the receiver grants no credit").await?;
        }
        self.credit_bytes -= cost;
        let Block { block, store, rows, bytes } = block;
        self.link.queue(&Frame::Block { block, store, rows, bytes });
        self.blocks += 1;
        self.write_queued().await
    }

    async fn finish(&mut self) -> Result<(), TransferError> {
        self.link.queue(&Frame::End { blocks: self.blocks });
        self.write_queued().await?;
        let until = self.until();
        while !self.acknowledged {
            self.read(until, "the receiver does not acknowledge").await?;
        }
        self.link.close(until).await;
        Ok(())
    }
}

impl Outgoing for SendLeg {
    fn send(&mut self, block: Block) -> BoxFuture<'_, Result<(), TransferError>> {
        Box::pin(self.send_block(block))
    }

    fn broken(&mut self) -> BoxFuture<'_, TransferError> {
        Box::pin(async move {
            loop {
                if let Err(error) = self.read(self.deadline, "the lease ended").await {
                    return error;
                }
            }
        })
    }

    fn end(mut self: Box<Self>) -> BoxFuture<'static, Result<(), TransferError>> {
        Box::pin(async move { self.finish().await })
    }

    fn abort(self: Box<Self>, reason: String) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.link.farewell(&Frame::Abort { reason }).await })
    }
}
