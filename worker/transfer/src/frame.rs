//! The frames of the KV plane, and nothing that does IO. Bytes come from outside: a length is checked before anything
//! is allocated for it, and a checksum before anything is believed.
//!
//! ```text
//!  0        4        8      9
//!  +--------+--------+------+-------------------+
//!  | length | crc32c | kind | body              |   little endian; length counts kind and body;
//!  +--------+--------+------+-------------------+   the checksum covers length, kind and body
//!
//!  Hello    magic "HDKV", version u16, lease u128, class [16], sender u64, receiver u64, layout (u16 length, UTF-8)
//!  Welcome  version u16
//!  Refuse   code u8, reason (u16 length, UTF-8)
//!  Credit   bytes u64
//!  Block    block u32, store u32, rows u32, page bytes
//!  End      blocks u32
//!  Ack
//!  Abort    reason (u16 length, UTF-8)
//! ```
//!
//! Magic and version of Hello never move, so that any two releases can tell each other apart.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hadal_types::{Incarnation, LeaseId, NumericsClass};

use crate::Refusal;

/// The version that this release speaks.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"HDKV";
const HEADER_BYTES: usize = 8;
const TEXT_BYTES_MAX: usize = 512;
const CONTROL_BYTES_MAX: usize = 1024;
const BLOCK_HEADER_BYTES: usize = 1 + 12;

/// What a receiver says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The protocol that it speaks.
    pub version: u16,
    /// The lease that it wants filled.
    pub lease: LeaseId,
    /// Its numerics class.
    pub class: NumericsClass,
    /// The life of the sender that granted the lease.
    pub sender: Incarnation,
    /// The receiver's life.
    pub receiver: Incarnation,
    /// The name of its cache layout.
    pub layout: String,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Receiver: who I am and which lease I want.
    Hello(Hello),
    /// Sender: go on.
    Welcome {
        /// The protocol that will be spoken.
        version: u16,
    },
    /// Sender: no.
    Refuse {
        /// The kind.
        refusal: Refusal,
        /// For people.
        reason: String,
    },
    /// Receiver: so many more bytes of pages have room.
    Credit {
        /// Bytes of pages.
        bytes: u64,
    },
    /// Sender: the rows of a block in a store.
    Block {
        /// Position of the block in the sequence.
        block: u32,
        /// The store.
        store: u32,
        /// Rows that are filled; fewer than the page has in the last block of a sequence.
        rows: u32,
        /// The page.
        bytes: Bytes,
    },
    /// Sender: that was all.
    End {
        /// Blocks sent on this connection.
        blocks: u32,
    },
    /// Receiver: all of it is here.
    Ack,
    /// Either: it ends here.
    Abort {
        /// For people.
        reason: String,
    },
}

/// Bytes that are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The sum over the frame is another.
    #[error("checksum {computed:08x} of a frame of {length} bytes where {stated:08x} was stated")]
    Checksum {
        /// Length as stated.
        length: usize,
        /// As sent.
        stated: u32,
        /// As received.
        computed: u32,
    },
    /// Longer than any frame of this connection may be.
    #[error("a frame of {length} bytes; at most {limit} are allowed here")]
    TooLong {
        /// As stated.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// Another protocol version.
    #[error("the peer speaks version {theirs} of the KV plane, this process version {VERSION}")]
    Version {
        /// The peer's.
        theirs: u16,
    },
    /// Well summed and still no frame.
    #[error("malformed {what} frame")]
    Malformed {
        /// The kind of frame.
        what: &'static str,
    },
}

/// The longest frame that carries pages of at most `page_bytes`.
pub fn frame_bytes_max(page_bytes: usize) -> usize {
    page_bytes.saturating_add(BLOCK_HEADER_BYTES).max(CONTROL_BYTES_MAX)
}

/// Appends a frame. Texts beyond 512 bytes are cut.
pub fn encode(frame: &Frame, out: &mut BytesMut) {
    let start = out.len();
    out.put_bytes(0, HEADER_BYTES);
    match frame {
        Frame::Hello(hello) => put_hello(hello, out),
        Frame::Welcome { version } => {
            out.put_u8(2);
            out.put_u16_le(*version);
        }
        Frame::Refuse { refusal, reason } => {
            out.put_u8(3);
            out.put_u8(refusal.code());
            put_text(reason, out);
        }
        Frame::Credit { bytes } => {
            out.put_u8(4);
            out.put_u64_le(*bytes);
        }
        Frame::Block { block, store, rows, bytes } => {
            out.reserve(BLOCK_HEADER_BYTES + bytes.len());
            out.put_u8(5);
            [*block, *store, *rows].into_iter().for_each(|n| out.put_u32_le(n));
            out.put_slice(bytes);
        }
        Frame::End { blocks } => {
            out.put_u8(6);
            out.put_u32_le(*blocks);
        }
        Frame::Ack => out.put_u8(7),
        Frame::Abort { reason } => {
            out.put_u8(8);
            put_text(reason, out);
        }
    }
    let length = ((out.len() - start - HEADER_BYTES) as u32).to_le_bytes();
    let sum = crc32c::crc32c_append(crc32c::crc32c(&length), &out[start + HEADER_BYTES..]);
    out[start..start + 4].copy_from_slice(&length);
    out[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
}

fn put_hello(hello: &Hello, out: &mut BytesMut) {
    out.put_u8(1);
    out.put_slice(&MAGIC);
    out.put_u16_le(hello.version);
    out.put_u128_le(hello.lease.0);
    out.put_slice(&hello.class.0);
    out.put_u64_le(hello.sender.0);
    out.put_u64_le(hello.receiver.0);
    put_text(&hello.layout, out);
}

fn put_text(text: &str, out: &mut BytesMut) {
    let end = (0..=text.len().min(TEXT_BYTES_MAX)).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    out.put_u16_le(end as u16);
    out.put_slice(&text.as_bytes()[..end]);
}

/// Turns bytes, in whatever pieces they come, into frames. Holds at most one frame beyond what was pushed.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    limit: usize,
}

impl Decoder {
    /// Refuses frames whose kind and body take more than `limit` bytes (see [`frame_bytes_max`]).
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), limit }
    }

    /// Where bytes that arrive go. Reserve no more than is to be read at once.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Whether the bytes so far end between two frames.
    pub fn is_between_frames(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next frame, if all of it is here. After an error the stream is of no more use.
    ///
    /// # Errors
    /// When the bytes are no frame, or one that is too long.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.buffer.len() < HEADER_BYTES {
            return Ok(None);
        }
        let mut header = &self.buffer[..HEADER_BYTES];
        let length = header.get_u32_le() as usize;
        let stated = header.get_u32_le();
        if length == 0 {
            return Err(FrameError::Malformed { what: "empty" });
        }
        if length > self.limit {
            return Err(FrameError::TooLong { length, limit: self.limit });
        }
        if self.buffer.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        let computed = crc32c::crc32c_append(
            crc32c::crc32c(&(length as u32).to_le_bytes()),
            &self.buffer[HEADER_BYTES..HEADER_BYTES + length],
        );
        if computed != stated {
            return Err(FrameError::Checksum { length, stated, computed });
        }
        self.buffer.advance(HEADER_BYTES);
        decode(self.buffer.split_to(length).freeze()).map(Some)
    }
}

fn decode(mut body: Bytes) -> Result<Frame, FrameError> {
    let kind = body.get_u8();
    let (what, frame) = match kind {
        1 => ("Hello", hello(&mut body)?),
        2 => ("Welcome", body.try_get_u16_le().ok().map(|version| Frame::Welcome { version })),
        3 => ("Refuse", refuse(&mut body)),
        4 => ("Credit", body.try_get_u64_le().ok().map(|bytes| Frame::Credit { bytes })),
        5 => ("Block", block(&mut body)),
        6 => ("End", body.try_get_u32_le().ok().map(|blocks| Frame::End { blocks })),
        7 => ("Ack", Some(Frame::Ack)),
        8 => ("Abort", text(&mut body).map(|reason| Frame::Abort { reason })),
        _ => ("unknown", None),
    };
    frame.filter(|_| body.is_empty()).ok_or(FrameError::Malformed { what })
}

fn hello(body: &mut Bytes) -> Result<Option<Frame>, FrameError> {
    if body.len() < 6 || body[..4] != MAGIC {
        return Ok(None);
    }
    body.advance(4);
    let version = body.get_u16_le();
    // Only now: what follows belongs to the version.
    if version != VERSION {
        return Err(FrameError::Version { theirs: version });
    }
    let fields = || {
        let lease = LeaseId(body.try_get_u128_le().ok()?);
        let mut class = [0; 16];
        body.try_copy_to_slice(&mut class).ok()?;
        let sender = Incarnation(body.try_get_u64_le().ok()?);
        let receiver = Incarnation(body.try_get_u64_le().ok()?);
        let layout = text(body)?;
        Some(Frame::Hello(Hello { version, lease, class: NumericsClass(class), sender, receiver, layout }))
    };
    Ok({ fields }())
}

fn refuse(body: &mut Bytes) -> Option<Frame> {
    let refusal = Refusal::from_code(body.try_get_u8().ok()?);
    Some(Frame::Refuse { refusal, reason: text(body)? })
}

fn block(body: &mut Bytes) -> Option<Frame> {
    let block = body.try_get_u32_le().ok()?;
    let store = body.try_get_u32_le().ok()?;
    let rows = body.try_get_u32_le().ok()?;
    Some(Frame::Block { block, store, rows, bytes: body.split_to(body.len()) })
}

fn text(body: &mut Bytes) -> Option<String> {
    let length = usize::from(body.try_get_u16_le().ok()?);
    if length > body.len() || length > TEXT_BYTES_MAX {
        return None;
    }
    String::from_utf8(body.split_to(length).to_vec()).ok()
}

#[cfg(test)]
mod tests;
