//! The gRPC service.

use std::pin::Pin;

use hadal_coordinator_core::{Refusal, RefusalKind};
use hadal_proto::cluster as w;
use hadal_proto::cluster::coordinator_server::Coordinator;
use hadal_shell::tasks::Tasks;
use hadal_types::RequestId;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::actor::{Ended, Mailbox};
use crate::{attach, wire};

/// Answers calls by way of the actor.
pub(crate) struct Service {
    mailbox: Mailbox,
    tasks: Tasks,
}

impl Service {
    pub(crate) fn new(mailbox: Mailbox, tasks: Tasks) -> Self {
        Self { mailbox, tasks }
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Coordinator for Service {
    type AttachStream = Responses<w::CoordinatorCommand>;
    type WatchStream = Responses<w::FleetView>;

    async fn attach(
        &self,
        request: Request<Streaming<w::WorkerReport>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (connection, commands, stream) = self.mailbox.connection();
        let reader = attach::read(self.mailbox.clone(), connection, commands, request.into_inner());
        self.tasks.spawn("worker connection", reader);
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn place(&self, request: Request<w::PlaceRequest>) -> Result<Response<w::PlaceResponse>, Status> {
        let request = match wire::place(request.into_inner(), self.mailbox.now()) {
            Ok(request) => request,
            Err(error) => return Ok(Response::new(invalid(error.to_string()))),
        };
        // Drawn before the place is taken: without randomness nothing is to be taken.
        let lease = hadal_shell::id::lease_id().map_err(|error| Status::internal(error.to_string()))?;
        let id = request.request.clone();
        let answer = self.mailbox.place(request).await.map_err(ended)?;
        let response = wire::response(answer, lease);
        note(&id, &response);
        Ok(Response::new(response))
    }

    async fn watch(&self, _: Request<w::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let views = WatchStream::new(self.mailbox.view()).map(|view| Ok(w::FleetView::clone(&view)));
        Ok(Response::new(Box::pin(views)))
    }
}

/// What became of a request, by its id.
fn note(request_id: &RequestId, response: &w::PlaceResponse) {
    match &response.answer {
        Some(w::place_response::Answer::Placement(placement)) => {
            let name = |worker: &Option<w::WorkerRef>| worker.as_ref().map_or("", |w| w.id.as_str()).to_owned();
            let (decode, prefill) = (name(&placement.decode), name(&placement.prefill));
            tracing::debug!(%request_id, %decode, %prefill, queued_us = placement.queued_us, "placed");
        }
        Some(w::place_response::Answer::Refusal(refusal)) => {
            tracing::info!(%request_id, reason = %refusal.message, "placement refused");
        }
        None => {}
    }
}

fn invalid(message: String) -> w::PlaceResponse {
    let refusal = Refusal { kind: RefusalKind::Invalid, message, retry_after: None };
    w::PlaceResponse { answer: Some(w::place_response::Answer::Refusal(wire::refused(refusal))) }
}

fn ended(error: Ended) -> Status {
    Status::unavailable(error.to_string())
}
