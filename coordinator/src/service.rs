//! The gRPC service. All but the question who leads is the leader's; a standby refuses it and names the leader.

use std::pin::Pin;

use hadal_coordinator_core::{Refusal, RefusalKind};
use hadal_proto::cluster as w;
use hadal_proto::cluster::coordinator_server::Coordinator;
use hadal_shell::tasks::Tasks;
use hadal_types::RequestId;
use tokio::sync::watch;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::actor::{DrainError, Ended, Mailbox};
use crate::leadership::Standing;
use crate::{attach, wire};

/// Answers calls by way of the actor.
pub(crate) struct Service {
    standing: watch::Receiver<Standing>,
    /// What others dial to reach this coordinator.
    address: String,
    tasks: Tasks,
}

impl Service {
    pub(crate) fn new(standing: watch::Receiver<Standing>, address: String, tasks: Tasks) -> Self {
        Self { standing, address, tasks }
    }

    /// The way to what decides, if this coordinator leads.
    fn leading(&self) -> Result<Mailbox, Status> {
        match &*self.standing.borrow() {
            Standing::Leading { mailbox, .. } => Ok(mailbox.clone()),
            Standing::Ended => Err(ended(Ended)),
            Standing::Standby { leader: Some(leader) } => {
                let (address, term) = (&leader.address, leader.term.0);
                Err(Status::unavailable(format!("this coordinator is not the leader; it is {address} (term {term})")))
            }
            Standing::Standby { leader: None } => {
                Err(Status::unavailable("this coordinator is not the leader; nobody is known to lead now"))
            }
        }
    }
}

/// What a standing is on the wire; none at the end.
fn view(standing: &Standing, own_address: &str) -> Option<w::LeaderView> {
    match standing {
        Standing::Leading { term, .. } => {
            Some(w::LeaderView { leads: true, term: term.0, address: own_address.to_owned() })
        }
        Standing::Standby { leader } => {
            let (term, address) = leader.as_ref().map_or((0, String::new()), |l| (l.term.0, l.address.clone()));
            Some(w::LeaderView { leads: false, term, address })
        }
        Standing::Ended => None,
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Coordinator for Service {
    type AttachStream = Responses<w::CoordinatorCommand>;
    type WatchStream = Responses<w::FleetView>;
    type LeaderStream = Responses<w::LeaderView>;

    async fn attach(
        &self,
        request: Request<Streaming<w::WorkerReport>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mailbox = self.leading()?;
        let (connection, commands, stream) = mailbox.connection();
        let reader = attach::read(mailbox, connection, commands, request.into_inner());
        self.tasks.spawn("worker connection", reader);
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn place(&self, request: Request<w::PlaceRequest>) -> Result<Response<w::PlaceResponse>, Status> {
        let mailbox = self.leading()?;
        let request = match wire::place(request.into_inner(), mailbox.now()) {
            Ok(request) => request,
            Err(error) => return Ok(Response::new(invalid(error.to_string()))),
        };
        // Drawn before the place is taken: without randomness nothing is to be taken.
        let lease = hadal_shell::id::lease_id().map_err(|error| Status::internal(error.to_string()))?;
        let id = request.request.clone();
        let answer = mailbox.place(request).await.map_err(ended)?;
        let response = wire::response(answer, lease);
        note(&id, &response);
        Ok(Response::new(response))
    }

    async fn watch(&self, _: Request<w::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let views = WatchStream::new(self.leading()?.view()).map(|view| Ok(w::FleetView::clone(&view)));
        Ok(Response::new(Box::pin(views)))
    }

    async fn leader(&self, _: Request<w::LeaderRequest>) -> Result<Response<Self::LeaderStream>, Status> {
        let address = self.address.clone();
        let views = WatchStream::new(self.standing.clone()).map_while(move |standing| view(&standing, &address));
        Ok(Response::new(Box::pin(views.map(Ok))))
    }

    async fn drain_worker(
        &self,
        request: Request<w::DrainWorkerRequest>,
    ) -> Result<Response<w::DrainWorkerResponse>, Status> {
        let commanded = self.leading()?.drain(request.into_inner().worker_id).await.map_err(ended)?;
        let term = commanded.map_err(|error| match error {
            DrainError::Unknown(_) => Status::not_found(error.to_string()),
            DrainError::Unconfirmed | DrainError::Deaf(_) => Status::unavailable(error.to_string()),
        })?;
        Ok(Response::new(w::DrainWorkerResponse { term: term.0 }))
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
