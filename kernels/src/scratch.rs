//! Buffers that threads keep from call to call, so that a steady stream of steps allocates nothing.

use std::cell::Cell;

thread_local! {
    static BUFFERS: Cell<Vec<Vec<f32>>> = const { Cell::new(Vec::new()) };
}

/// Lends a buffer of `len` numbers whose contents are arbitrary. Calls may nest: each takes a buffer of its own.
pub(crate) fn with<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffers = BUFFERS.take();
    let mut buffer = buffers.pop().unwrap_or_default();
    BUFFERS.set(buffers);
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    let result = f(&mut buffer[..len]);
    let mut buffers = BUFFERS.take();
    buffers.push(buffer);
    BUFFERS.set(buffers);
    result
}
