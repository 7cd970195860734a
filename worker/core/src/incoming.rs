//! The decode side of a prefill elsewhere.

/// Where a page that arrives belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncomingPage {
    /// Page in the pool of the store's part.
    pub page: u32,
    /// Rows that it must have.
    pub rows: u32,
}

/// A page that nobody waits for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unexpected {
    /// The request ended, or this attempt did: drop the page, and the connection.
    #[error("the request or this attempt to prefill it is over")]
    Over,
    /// The page is not of this sequence, was not wanted or came twice: the peer is at fault, fail the leg.
    #[error("block {block} of store {store} was not to be sent")]
    NotWanted {
        /// The block.
        block: u32,
        /// The store.
        store: u32,
    },
}
