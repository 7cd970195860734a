//! Prefill side: the connection to the receiver of one prompt. The step thread hands it copies of pages within a
//! budget, which is given back as they leave; so a slow network costs a bounded copy and never holds a step up.

use std::sync::Arc;

use hadal_transfer::{Block, Offered, TransferError};
use hadal_worker_core::{Event, RequestKey};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::metrics::Direction;
use crate::step::{Context, Message};

/// What the step thread hands over.
pub(crate) enum Item {
    /// A page.
    Block(Block),
    /// That was all.
    End,
}

/// Sends until the end is acknowledged, the receiver is gone or nobody wants it any more.
pub(crate) async fn run(
    context: Arc<Context>,
    request: RequestKey,
    offered: Offered,
    items: mpsc::Receiver<Item>,
    ends: CancellationToken,
) {
    let sent = tokio::select! {
        biased;
        () = ends.cancelled() => return,
        sent = send(&context, request, offered, items) => sent,
    };
    let event = match sent {
        Ok(()) => Event::SendAcknowledged { request },
        Err(error) => {
            tracing::warn!(%error, "sending a prompt's pages failed");
            context.counters.transfer_ended(Direction::Sent, error.kind().name());
            Event::SendFailed { request, message: error.to_string() }
        }
    };
    // When the step thread has ended the pages are gone with it.
    let _ = context.steps.send(Message::Event(event)).await;
}

async fn send(
    context: &Context,
    request: RequestKey,
    offered: Offered,
    mut items: mpsc::Receiver<Item>,
) -> Result<(), TransferError> {
    let mut outgoing = offered.accept().await?;
    credit(context, request, context.limits.send_bytes).await;
    loop {
        let item = tokio::select! {
            biased;
            item = items.recv() => item,
            gone = outgoing.broken() => return Err(gone),
        };
        match item {
            Some(Item::Block(block)) => {
                let (store, bytes) = (block.store, block.bytes.len());
                outgoing.send(block).await?;
                if let Some(store) = context.info.geometry.stores.get(store as usize) {
                    context.counters.moved(Direction::Sent, store.part, bytes);
                }
                credit(context, request, bytes as u64).await;
            }
            Some(Item::End) => return outgoing.end().await,
            None => {
                outgoing.abort("the prefill has ended".into()).await;
                return Err(TransferError::Aborted("the prefill has ended".into()));
            }
        }
    }
}

/// Gives the step thread room for so many bytes more.
async fn credit(context: &Context, request: RequestKey, bytes: u64) {
    // Without a step thread there is nothing to send.
    let _ = context.steps.send(Message::Event(Event::SendCredit { request, bytes })).await;
}
