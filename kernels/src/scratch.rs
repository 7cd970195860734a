//! Buffers that threads keep from call to call, so that a steady stream of steps allocates nothing.

use std::cell::Cell;
use std::thread::LocalKey;

use crate::panel::Line;

type Buffers<T> = Cell<Vec<Vec<T>>>;

thread_local! {
    static NUMBERS: Buffers<f32> = const { Cell::new(Vec::new()) };
    static LINES: Buffers<Line> = const { Cell::new(Vec::new()) };
}

/// Lends a buffer of `len` numbers whose contents are arbitrary. Calls may nest: each takes a buffer of its own.
pub(crate) fn with<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    lend(&NUMBERS, len, 0.0, f)
}

/// The same with lines.
pub(crate) fn with_lines<R>(len: usize, f: impl FnOnce(&mut [Line]) -> R) -> R {
    lend(&LINES, len, Line::ZERO, f)
}

fn lend<T: Copy, R>(kept: &'static LocalKey<Buffers<T>>, len: usize, zero: T, f: impl FnOnce(&mut [T]) -> R) -> R {
    let mut buffers = kept.take();
    let mut buffer = buffers.pop().unwrap_or_default();
    kept.set(buffers);
    if buffer.len() < len {
        buffer.resize(len, zero);
    }
    let result = f(&mut buffer[..len]);
    let mut buffers = kept.take();
    buffers.push(buffer);
    kept.set(buffers);
    result
}
