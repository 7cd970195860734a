//! The gRPC service of a worker: checks what comes in, hands it to the step thread, and gives its stream back.

mod files;
mod requests;

use std::sync::Arc;

use hadal_proto::cluster as w;
use hadal_proto::cluster::worker_server::{Worker, WorkerServer};
use hadal_shell::grpc::MESSAGE_BYTES_MAX;
use hadal_types::Role;
use hadal_worker_core::{Failure, FailureKind};
use tonic::{Request, Response, Status};

use crate::errors;
use crate::metrics::Leg;
use crate::output::{Lost, Outflow, Outlet, outflow};
use crate::step::{Context, Message};

/// What answers calls.
pub(crate) struct Service {
    context: Arc<Context>,
    role: Role,
}

impl Service {
    pub(crate) fn server(context: Arc<Context>, role: Role) -> WorkerServer<Self> {
        let server = WorkerServer::new(Self { context, role });
        server.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Hands a request to the step thread, or ends its stream with what is wrong with it.
    async fn submit<E: Lost>(
        &self,
        leg: Leg,
        end: fn(Failure) -> E,
        read: impl FnOnce(Outlet<E>) -> Result<Message, (Outlet<E>, Failure)>,
    ) -> Response<Outflow<E>> {
        let (outlet, reader) = outflow(self.context.steps.clone());
        match read(outlet) {
            // A step thread that has ended drops the outlet, which says so to the reader.
            Ok(message) => {
                let _ = self.context.steps.send(message).await;
            }
            Err((outlet, failure)) => {
                self.context.counters.request_ended(leg, Some(failure.kind));
                if failure.kind == FailureKind::Mismatch {
                    tracing::warn!(message = %failure.message, "a request for another worker was refused");
                }
                outlet.end(end(failure));
            }
        }
        Response::new(reader)
    }
}

#[tonic::async_trait]
impl Worker for Service {
    type GenerateStream = Outflow<w::GenerateEvent>;
    type PrefillStream = Outflow<w::PrefillEvent>;
    type ReadFileStream = files::Chunks;

    async fn generate(&self, request: Request<w::GenerateRequest>) -> Result<Response<Self::GenerateStream>, Status> {
        let request = request.into_inner();
        let read = |outlet| requests::generate(&self.context, self.role, request, outlet);
        Ok(self.submit(Leg::Generate, errors::generate_event, read).await)
    }

    async fn prefill(&self, request: Request<w::PrefillRequest>) -> Result<Response<Self::PrefillStream>, Status> {
        let request = request.into_inner();
        let read = |outlet| requests::prefill(&self.context, self.role, request, outlet);
        Ok(self.submit(Leg::Prefill, errors::prefill_event, read).await)
    }

    async fn read_file(&self, request: Request<w::ReadFileRequest>) -> Result<Response<Self::ReadFileStream>, Status> {
        files::read(&self.context.info, &request.into_inner()).map(Response::new)
    }
}
