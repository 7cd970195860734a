//! Frames over a byte stream, TCP or TLS. Every future here may be dropped and made anew without losing a byte: what
//! is half read stays in the decoder, what is half written stays in the buffer.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, timeout_at};

use crate::TransferError;
use crate::frame::{Decoder, Frame, encode};

const READ_BYTES: usize = 64 << 10;
const FAREWELL: Duration = Duration::from_secs(1);

/// What frames travel over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// One connection.
pub(crate) struct Link {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    decoder: Decoder,
    out: BytesMut,
}

/// What [`Link::step`] saw.
pub(crate) enum Step {
    /// All that was queued is written.
    Written,
    /// A frame arrived meanwhile.
    Frame(Frame),
}

impl Link {
    pub(crate) fn new(stream: Box<dyn Stream>, limit: usize) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { reader, writer, decoder: Decoder::new(limit), out: BytesMut::new() }
    }

    /// Adds a frame to what is to be written.
    pub(crate) fn queue(&mut self, frame: &Frame) {
        encode(frame, &mut self.out);
    }

    /// The next frame.
    pub(crate) async fn read(&mut self) -> Result<Frame, TransferError> {
        read(&mut self.reader, &mut self.decoder).await
    }

    /// Writes what is queued.
    pub(crate) async fn flush(&mut self, until: Instant) -> Result<(), TransferError> {
        let write = write(&mut self.writer, &mut self.out);
        timeout_at(until, write).await.unwrap_or(Err(TransferError::Timeout("the peer takes no bytes")))
    }

    /// Writes what is queued, reading meanwhile, so that two peers that both write cannot block one another.
    pub(crate) async fn step(&mut self, until: Instant) -> Result<Step, TransferError> {
        let Self { reader, writer, decoder, out } = self;
        tokio::select! {
            biased;
            frame = read(reader, decoder) => frame.map(Step::Frame),
            written = write(writer, out) => written.map(|()| Step::Written),
            () = tokio::time::sleep_until(until) => Err(TransferError::Timeout("the peer takes no bytes")),
        }
    }

    /// Says one thing more, if the peer still listens, and closes.
    pub(crate) async fn farewell(mut self, frame: &Frame) {
        self.queue(frame);
        let until = Instant::now() + FAREWELL;
        // The connection is given up either way.
        if self.flush(until).await.is_ok() {
            let _ = timeout_at(until, self.writer.shutdown()).await;
        }
    }

    /// Closes our direction.
    pub(crate) async fn close(&mut self, until: Instant) {
        let _ = timeout_at(until, self.writer.shutdown()).await;
    }
}

async fn read(reader: &mut ReadHalf<Box<dyn Stream>>, decoder: &mut Decoder) -> Result<Frame, TransferError> {
    loop {
        if let Some(frame) = decoder.next_frame()? {
            return Ok(frame);
        }
        decoder.buffer().reserve(READ_BYTES);
        if reader.read_buf(decoder.buffer()).await? == 0 {
            let place = if decoder.is_between_frames() { "between two frames" } else { "within a frame" };
            return Err(TransferError::ShortRead(format!("the peer closed the connection {place}")));
        }
    }
}

async fn write(writer: &mut WriteHalf<Box<dyn Stream>>, out: &mut BytesMut) -> Result<(), TransferError> {
    while out.has_remaining() {
        if writer.write_buf(out).await? == 0 {
            return Err(TransferError::Io(std::sync::Arc::new(std::io::ErrorKind::WriteZero.into())));
        }
    }
    Ok(writer.flush().await?)
}
