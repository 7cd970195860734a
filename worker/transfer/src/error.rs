//! What goes wrong on the KV plane, typed so that it can be counted.

use std::sync::Arc;

use crate::frame::FrameError;

/// Why a sender will not fill a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It speaks another protocol version.
    Version,
    /// Its cache rows lie otherwise.
    Layout,
    /// Its bits would be others.
    Class,
    /// It is not the process that granted the lease, or the receiver is not the one it was granted to.
    Incarnation,
    /// The lease is unknown, taken, withdrawn or over.
    Lease,
    /// Something that this release has no name for.
    Other,
}

impl Refusal {
    pub(crate) fn code(self) -> u8 {
        match self {
            Refusal::Other => 0,
            Refusal::Version => 1,
            Refusal::Layout => 2,
            Refusal::Class => 3,
            Refusal::Incarnation => 4,
            Refusal::Lease => 5,
        }
    }

    pub(crate) fn from_code(code: u8) -> Self {
        let known = [Refusal::Version, Refusal::Layout, Refusal::Class, Refusal::Incarnation, Refusal::Lease];
        known.into_iter().find(|r| r.code() == code).unwrap_or(Refusal::Other)
    }
}

/// A transfer that failed. Each is counted under its [`ErrorKind`] and the leg it belongs to is retried or recomputed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransferError {
    /// No connection.
    #[error("cannot connect to the KV plane at {address}: {problem}; is the worker up, and is --transfer reachable?")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        problem: String,
    },
    /// The connection broke.
    #[error("the KV connection broke: {0}")]
    Io(Arc<std::io::Error>),
    /// It ended where more was due.
    #[error("the KV stream ended early: {0}")]
    ShortRead(String),
    /// Bytes that are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame that has no place here.
    #[error("unexpected on the KV plane: {0}")]
    Protocol(String),
    /// The peer refused.
    #[error("the sender refuses: {reason}")]
    Refused {
        /// Why, as a kind.
        refusal: Refusal,
        /// Why, for people.
        reason: String,
    },
    /// The peer gave up.
    #[error("the peer gave up: {0}")]
    Aborted(String),
    /// It took too long.
    #[error("timed out: {0}")]
    Timeout(&'static str),
}

/// The kinds under which errors are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorKind {
    /// No connection.
    Connect,
    /// The connection broke.
    Io,
    /// A stream that ended early.
    ShortRead,
    /// A checksum that does not fit.
    Checksum,
    /// Frames that are none, or out of place, or beyond the credit.
    Protocol,
    /// Another protocol version.
    Version,
    /// Another layout or numerics class.
    Layout,
    /// An unknown or expired lease, or another life.
    Lease,
    /// The peer gave up.
    Aborted,
    /// Too slow.
    Timeout,
}

impl ErrorKind {
    /// The value of the label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Connect => "connect",
            ErrorKind::Io => "io",
            ErrorKind::ShortRead => "short_read",
            ErrorKind::Checksum => "checksum",
            ErrorKind::Protocol => "protocol",
            ErrorKind::Version => "version",
            ErrorKind::Layout => "layout",
            ErrorKind::Lease => "lease",
            ErrorKind::Aborted => "aborted",
            ErrorKind::Timeout => "timeout",
        }
    }
}

impl TransferError {
    /// The kind to count it under.
    pub fn kind(&self) -> ErrorKind {
        match self {
            TransferError::Connect { .. } => ErrorKind::Connect,
            TransferError::Io(_) => ErrorKind::Io,
            TransferError::ShortRead(_) => ErrorKind::ShortRead,
            TransferError::Frame(FrameError::Checksum { .. }) => ErrorKind::Checksum,
            TransferError::Frame(FrameError::Version { .. }) => ErrorKind::Version,
            TransferError::Frame(_) | TransferError::Protocol(_) => ErrorKind::Protocol,
            TransferError::Refused { refusal, .. } => match refusal {
                Refusal::Version => ErrorKind::Version,
                Refusal::Layout | Refusal::Class => ErrorKind::Layout,
                Refusal::Incarnation | Refusal::Lease => ErrorKind::Lease,
                Refusal::Other => ErrorKind::Protocol,
            },
            TransferError::Aborted(_) => ErrorKind::Aborted,
            TransferError::Timeout(_) => ErrorKind::Timeout,
        }
    }
}

impl From<std::io::Error> for TransferError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => TransferError::ShortRead(error.to_string()),
            _ => TransferError::Io(Arc::new(error)),
        }
    }
}

/// Told of errors that no caller sees, such as refused connections, so that they are counted too.
pub type OnError = Arc<dyn Fn(ErrorKind) + Send + Sync>;
