//! The KV plane: moves cache blocks from the worker that computed them to the worker that decodes with them.

mod connector;
mod error;
mod frame;
mod lease;
mod link;
mod memory;
mod receive;
mod send;
mod tcp;

pub use connector::{
    Block, BoxFuture, Connector, Expect, Fetch, Incoming, Offer, Offered, Outgoing, Received, Timeouts,
};
pub use error::{ErrorKind, OnError, Refusal, TransferError};
pub use frame::{Decoder, Frame, FrameError, Hello, VERSION, encode, frame_bytes_max};
pub use memory::Memory;
pub use tcp::{Tcp, TcpConfig};
