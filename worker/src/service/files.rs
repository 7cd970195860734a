//! The small files of the model, for routers. Names are those of the open checkpoint and no others; nothing is read
//! from disk.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hadal_proto::cluster as w;
use tokio_stream::Stream;
use tonic::Status;

use crate::engine::Info;

/// Bytes of a message.
const CHUNK_BYTES: usize = 256 << 10;

/// A file, in pieces.
pub(crate) struct Chunks {
    bytes: Arc<[u8]>,
    sent: usize,
}

impl Stream for Chunks {
    type Item = Result<w::FileChunk, Status>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let end = self.bytes.len().min(self.sent + CHUNK_BYTES);
        let piece = &self.bytes[self.sent..end];
        if piece.is_empty() {
            return Poll::Ready(None);
        }
        let data = Bytes::copy_from_slice(piece);
        self.sent = end;
        Poll::Ready(Some(Ok(w::FileChunk { data })))
    }
}

pub(super) fn read(info: &Info, request: &w::ReadFileRequest) -> Result<Chunks, Status> {
    if request.fingerprint != info.fingerprint.0 {
        let message =
            format!("this worker serves model {} ({}), not the one asked for", info.model_name, info.fingerprint);
        return Err(Status::failed_precondition(message));
    }
    let file = info.files.iter().find(|f| f.name == request.name);
    let file = file.ok_or_else(|| Status::not_found("the model has no small file of that name"))?;
    Ok(Chunks { bytes: Arc::clone(&file.bytes), sent: 0 })
}
