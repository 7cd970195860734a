//! Memory for packed weights, which the threads that fill it touch first.
#![allow(unsafe_code, reason = "zeroing by one thread what all fill would double the time of a load")]

use std::mem::MaybeUninit;

use crate::context::Ctx;
use crate::panel::Line;

/// Lines that are filled at once: they stay in the first-level cache.
const CHUNK: usize = 64;

/// Builds panels of `panel_lines` lines. `fill` is given zeroed lines of a panel and the place of the first one.
pub(super) fn build(
    ctx: &Ctx,
    panels: usize,
    panel_lines: usize,
    fill: impl Fn(usize, usize, &mut [Line]) + Sync + Send,
) -> Vec<Line> {
    let count = panels * panel_lines;
    let mut lines: Vec<Line> = Vec::with_capacity(count);
    let spare = &mut lines.spare_capacity_mut()[..count];
    let mut jobs: Vec<_> = spare.chunks_mut(panel_lines.max(1)).enumerate().collect();
    ctx.for_each(count * size_of::<Line>() / 4, &mut jobs, |(panel, out)| write(out, |at, to| fill(*panel, at, to)));
    // SAFETY: the jobs are all chunks of the first `count` lines, and `write` initialises every line of its chunk.
    unsafe { lines.set_len(count) };
    lines
}

/// Writes every line of `out`.
fn write(out: &mut [MaybeUninit<Line>], fill: impl Fn(usize, &mut [Line])) {
    let mut at = 0;
    for out in out.chunks_mut(CHUNK) {
        let mut chunk = [Line::ZERO; CHUNK];
        let chunk = &mut chunk[..out.len()];
        fill(at, chunk);
        out.iter_mut().zip(chunk).for_each(|(to, from)| {
            to.write(*from);
        });
        at += out.len();
    }
}
