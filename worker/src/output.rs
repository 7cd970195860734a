//! What waits for a stream's reader. The step thread never waits for it: tokens join the last delta that was not taken
//! yet, so a slow reader costs a few bytes a token, and beyond a limit its request is ended.
//!
//! ```text
//! step thread ──Outlet──► queue ──Outflow──► gRPC stream        dropping Outflow cancels the request
//!                                                               dropping Outlet ends the stream with an error
//! ```

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use hadal_worker_core::RequestKey;
use tokio_stream::Stream;
use tonic::Status;

use crate::step::Steps;

/// An event of a stream.
pub(crate) trait Lost {
    /// What the reader is told when the worker ends before the request.
    fn lost() -> Self;
}

struct Queue<E> {
    state: Mutex<State<E>>,
}

struct State<E> {
    events: VecDeque<E>,
    ended: bool,
    closed: bool,
    key: Option<RequestKey>,
    waker: Option<Waker>,
}

impl<E> Queue<E> {
    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State<E>)) {
        let waker = {
            let mut state = self.lock();
            if state.ended || state.closed {
                return;
            }
            change(&mut state);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The step thread's end.
pub(crate) struct Outlet<E: Lost>(Arc<Queue<E>>);

/// The reader's end.
pub(crate) struct Outflow<E> {
    queue: Arc<Queue<E>>,
    steps: Steps,
}

/// A queue of one stream.
pub(crate) fn outflow<E: Lost>(steps: Steps) -> (Outlet<E>, Outflow<E>) {
    let state = State { events: VecDeque::new(), ended: false, closed: false, key: None, waker: None };
    let queue = Arc::new(Queue { state: Mutex::new(state) });
    (Outlet(Arc::clone(&queue)), Outflow { queue, steps })
}

impl<E: Lost> Outlet<E> {
    /// Names the request, so that dropping the reader cancels it. False when the reader is gone already.
    pub(crate) fn assign(&self, key: RequestKey) -> bool {
        let mut state = self.0.lock();
        state.key = Some(key);
        !state.closed
    }

    /// Adds an event.
    pub(crate) fn push(&self, event: E) {
        self.0.change(|state| state.events.push_back(event));
    }

    /// Adds to the last event that waits if `join` can, else adds what it gives back.
    pub(crate) fn join(&self, join: impl FnOnce(Option<&mut E>) -> Option<E>) {
        self.0.change(|state| {
            if let Some(event) = join(state.events.back_mut()) {
                state.events.push_back(event);
            }
        });
    }

    /// Adds the last event.
    pub(crate) fn end(&self, event: E) {
        self.0.change(|state| {
            state.events.push_back(event);
            state.ended = true;
        });
    }
}

impl<E: Lost> Drop for Outlet<E> {
    fn drop(&mut self) {
        self.end(E::lost());
    }
}

impl<E> Stream for Outflow<E> {
    type Item = Result<E, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.queue.lock();
        match state.events.pop_front() {
            Some(event) => Poll::Ready(Some(Ok(event))),
            None if state.ended => Poll::Ready(None),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<E> Drop for Outflow<E> {
    fn drop(&mut self) {
        let key = {
            let mut state = self.queue.lock();
            state.closed = true;
            state.key.filter(|_| !state.ended)
        };
        if let Some(key) = key {
            self.steps.cancel(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    #[derive(Debug, PartialEq)]
    enum Event {
        Sum(u32),
        Lost,
    }

    impl Lost for Event {
        fn lost() -> Self {
            Event::Lost
        }
    }

    fn add(n: u32) -> impl FnOnce(Option<&mut Event>) -> Option<Event> {
        move |last| match last {
            Some(Event::Sum(sum)) => {
                *sum += n;
                None
            }
            _ => Some(Event::Sum(n)),
        }
    }

    #[tokio::test]
    async fn events_that_nobody_took_are_joined() {
        let (outlet, mut outflow) = outflow(Steps::detached().0);
        outlet.join(add(1));
        outlet.join(add(2));
        assert_eq!(outflow.next().await.unwrap().unwrap(), Event::Sum(3));
        outlet.join(add(4));
        drop(outlet);
        assert_eq!(outflow.next().await.unwrap().unwrap(), Event::Sum(4));
        assert_eq!(outflow.next().await.unwrap().unwrap(), Event::Lost);
        assert!(outflow.next().await.is_none());
    }

    #[test]
    fn dropping_the_reader_cancels_the_request_unless_it_ended() {
        let (steps, _inbox) = Steps::detached();
        let (outlet, reader) = outflow::<Event>(steps.clone());
        assert!(outlet.assign(RequestKey(7)));
        drop(reader);
        assert_eq!(steps.take_cancelled(), [RequestKey(7)]);

        let (outlet, reader) = outflow::<Event>(steps.clone());
        assert!(outlet.assign(RequestKey(8)));
        outlet.end(Event::Sum(0));
        drop(reader);
        assert!(steps.take_cancelled().is_empty());

        let (outlet, reader) = outflow::<Event>(steps.clone());
        drop(reader);
        assert!(!outlet.assign(RequestKey(9)), "it need not begin");
    }
}
