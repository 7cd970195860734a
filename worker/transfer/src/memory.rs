//! The in-process double of the KV plane: the same promises over channels. Workers that share a [`Memory`] hub reach
//! each other by name; it serves tests and simulations of what stands on the trait.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::connector::{Block, BoxFuture, Connector, Expect, Fetch, Incoming, Offer, Offered, Outgoing, Received};
use crate::error::{Refusal, TransferError};
use crate::frame::{Hello, VERSION};
use crate::lease::Leases;

/// Pages in flight; credit is what bounds bytes.
const QUEUE: usize = 64;

type Table = Arc<Mutex<Leases<oneshot::Sender<Box<dyn Outgoing>>>>>;
type Hub = Arc<Mutex<HashMap<String, (Expect, Table)>>>;

/// One worker's end of the double.
#[derive(Clone)]
pub struct Memory {
    hub: Hub,
    name: String,
    us: Expect,
    leases: Table,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    /// The first worker of a hub.
    pub fn new(name: &str, us: Expect) -> Self {
        Self::enter(Hub::default(), name, us)
    }

    /// Another worker of the same hub.
    pub fn join(&self, name: &str, us: Expect) -> Self {
        Self::enter(Arc::clone(&self.hub), name, us)
    }

    fn enter(hub: Hub, name: &str, us: Expect) -> Self {
        let leases: Table = Arc::new(Mutex::new(Leases::new()));
        lock(&hub).insert(name.to_owned(), (us.clone(), Arc::clone(&leases)));
        Self { hub, name: name.to_owned(), us, leases }
    }

    fn connect(&self, fetch: Fetch) -> Result<Receiver, TransferError> {
        let peer = lock(&self.hub).get(&fetch.address).cloned();
        let Some((them, leases)) = peer else {
            let problem = "nobody of that name in this hub".to_owned();
            return Err(TransferError::Connect { address: fetch.address, problem });
        };
        let hello = Hello {
            version: VERSION,
            lease: fetch.lease,
            class: self.us.class,
            sender: fetch.sender,
            receiver: self.us.incarnation,
            layout: self.us.geometry.layout.clone(),
        };
        let claimed = lock(&leases).claim(&hello, &them, Instant::now());
        let claimed = claimed.map_err(|r| TransferError::Refused { refusal: r.refusal, reason: r.reason })?;
        let (frames, incoming) = mpsc::channel(QUEUE);
        let (answers, answered) = mpsc::channel(1);
        let window = fetch.window_bytes.max(self.us.page_bytes_max());
        let credit = Arc::new(Semaphore::new(window as usize));
        let sender = Sender { frames, answered, credit: Arc::clone(&credit), deadline: claimed.deadline };
        claimed.owner.send(Box::new(sender)).map_err(|_| TransferError::Refused {
            refusal: Refusal::Lease,
            reason: "the lease was withdrawn".into(),
        })?;
        Ok(Receiver { incoming, answers, credit, us: self.us.clone(), due: fetch.blocks, deadline: fetch.deadline })
    }
}

impl Connector for Memory {
    fn address(&self) -> String {
        self.name.clone()
    }

    fn offer(&self, offer: Offer) -> Offered {
        let (owner, arrives) = oneshot::channel();
        lock(&self.leases).offer(&offer, owner);
        let leases = Arc::clone(&self.leases);
        Offered::new(arrives, offer.deadline, move || lock(&leases).withdraw(offer.lease))
    }

    fn fetch(&self, fetch: Fetch) -> BoxFuture<'_, Result<Box<dyn Incoming>, TransferError>> {
        Box::pin(async move { Ok(Box::new(self.connect(fetch)?) as Box<dyn Incoming>) })
    }
}

enum Message {
    Block(Block),
    End,
    Abort(String),
}

enum Answer {
    Ack,
    Abort(String),
}

struct Sender {
    frames: mpsc::Sender<Message>,
    answered: mpsc::Receiver<Answer>,
    credit: Arc<Semaphore>,
    deadline: Instant,
}

impl Sender {
    /// Does `what`, unless the receiver or the lease goes first.
    async fn unless_gone<T>(
        answered: &mut mpsc::Receiver<Answer>,
        deadline: Instant,
        what: impl Future<Output = Option<T>>,
    ) -> Result<T, TransferError> {
        tokio::select! {
            biased;
            done = what => done.ok_or_else(gone),
            answer = answered.recv() => Err(match answer {
                Some(Answer::Abort(reason)) => TransferError::Aborted(reason),
                _ => gone(),
            }),
            () = tokio::time::sleep_until(deadline) => Err(TransferError::Timeout("the lease ended")),
        }
    }
}

fn gone() -> TransferError {
    TransferError::ShortRead("the peer closed the connection between two frames".into())
}

impl Outgoing for Sender {
    fn send(&mut self, block: Block) -> BoxFuture<'_, Result<(), TransferError>> {
        Box::pin(async move {
            let Self { frames, answered, credit, deadline } = self;
            let cost = block.bytes.len() as u32;
            let permit = Self::unless_gone(answered, *deadline, async { credit.acquire_many(cost).await.ok() }).await?;
            permit.forget();
            Self::unless_gone(answered, *deadline, async { frames.send(Message::Block(block)).await.ok() }).await
        })
    }

    fn broken(&mut self) -> BoxFuture<'_, TransferError> {
        Box::pin(async move {
            let never = std::future::pending::<Option<()>>();
            Self::unless_gone(&mut self.answered, self.deadline, never).await.err().unwrap_or_else(gone)
        })
    }

    fn end(mut self: Box<Self>) -> BoxFuture<'static, Result<(), TransferError>> {
        Box::pin(async move {
            self.frames.send(Message::End).await.map_err(|_| gone())?;
            match timeout_at(self.deadline, self.answered.recv()).await {
                Ok(Some(Answer::Ack)) => Ok(()),
                Ok(Some(Answer::Abort(reason))) => Err(TransferError::Aborted(reason)),
                Ok(None) => Err(gone()),
                Err(_) => Err(TransferError::Timeout("the receiver does not acknowledge")),
            }
        })
    }

    fn abort(self: Box<Self>, reason: String) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let _ = timeout_at(self.deadline, self.frames.send(Message::Abort(reason))).await;
        })
    }
}

struct Receiver {
    incoming: mpsc::Receiver<Message>,
    answers: mpsc::Sender<Answer>,
    credit: Arc<Semaphore>,
    us: Expect,
    due: Range<u32>,
    deadline: Instant,
}

impl Incoming for Receiver {
    fn next(&mut self) -> BoxFuture<'_, Result<Received, TransferError>> {
        Box::pin(async move {
            let message = timeout_at(self.deadline, self.incoming.recv()).await;
            match message.map_err(|_| TransferError::Timeout("the lease ended before the pages were here"))? {
                Some(Message::Block(block)) => {
                    self.us.check(&block, &self.due)?;
                    Ok(Received::Block(block))
                }
                Some(Message::End) => Ok(Received::End),
                Some(Message::Abort(reason)) => Err(TransferError::Aborted(reason)),
                None => Err(gone()),
            }
        })
    }

    fn grant(&mut self, bytes: u64) -> BoxFuture<'_, Result<(), TransferError>> {
        self.credit.add_permits(bytes as usize);
        Box::pin(async { Ok(()) })
    }

    fn ack(self: Box<Self>) -> BoxFuture<'static, Result<(), TransferError>> {
        Box::pin(async move { self.answers.send(Answer::Ack).await.map_err(|_| gone()) })
    }

    fn abort(self: Box<Self>, reason: String) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let _ = self.answers.send(Answer::Abort(reason)).await;
        })
    }
}
