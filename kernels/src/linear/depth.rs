//! How the inputs of a product are cut into lines: a scale block begins on a line of its own, so that its last line may
//! hold fewer k than others.

use std::ops::Range;

use crate::panel::Encoding;

/// The cut of `k` inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Depth {
    k: usize,
    line_k: usize,
    /// k of the first block, which a slice may cut, and of the others.
    first: usize,
    block: usize,
}

impl Depth {
    /// One block of `k`.
    pub(crate) fn whole(encoding: Encoding, k: usize) -> Self {
        Self::blocks_of(encoding, k, k, k)
    }

    /// A block of `first` and then blocks of `block`.
    pub(crate) fn blocks_of(encoding: Encoding, k: usize, first: usize, block: usize) -> Self {
        Self { k, line_k: encoding.line_k(), first: first.min(k), block: block.max(1) }
    }

    /// k of a line.
    pub(crate) fn line_k(&self) -> usize {
        self.line_k
    }

    /// Blocks along k; at least one.
    pub(crate) fn blocks(&self) -> usize {
        1 + (self.k - self.first).div_ceil(self.block)
    }

    /// The k of a block.
    pub(crate) fn block_k(&self, block: usize) -> Range<usize> {
        match block {
            0 => 0..self.first,
            _ => {
                let start = self.first + (block - 1) * self.block;
                start..(start + self.block).min(self.k)
            }
        }
    }

    /// The first line of a block; the number of lines for what comes after the last.
    pub(crate) fn block_line(&self, block: usize) -> usize {
        if block == 0 {
            return 0;
        }
        let before = self.block_k(block.min(self.blocks()) - 1);
        let start =
            if block == 1 { 0 } else { self.first_lines() + (block.min(self.blocks()) - 2) * self.block_lines() };
        start + before.len().div_ceil(self.line_k)
    }

    /// Lines of the first block.
    pub(crate) fn first_lines(&self) -> usize {
        self.first.div_ceil(self.line_k)
    }

    /// Lines of a full block that is not the first.
    pub(crate) fn block_lines(&self) -> usize {
        self.block.div_ceil(self.line_k)
    }

    /// Lines of a panel.
    pub(crate) fn lines(&self) -> usize {
        self.block_line(self.blocks())
    }

    /// The blocks that have a line among these.
    pub(crate) fn blocks_in(&self, lines: Range<usize>) -> impl Iterator<Item = usize> + use<> {
        let block_of = |line: usize| match line.checked_sub(self.first_lines()) {
            Some(after) => 1 + after / self.block_lines(),
            None => 0,
        };
        if lines.is_empty() { 0..0 } else { block_of(lines.start)..block_of(lines.end - 1) + 1 }
    }

    /// The block that holds `k`, and the line.
    pub(crate) fn place(&self, k: usize) -> (usize, usize) {
        let block = if k < self.first { 0 } else { 1 + (k - self.first) / self.block };
        (block, self.block_line(block) + (k - self.block_k(block).start) / self.line_k)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_k_has_a_line_of_its_block() {
        for encoding in [Encoding::F32, Encoding::Bf16, Encoding::E4m3] {
            for (k, first, block) in [(1, 1, 1), (300, 128, 128), (300, 7, 24), (24, 24, 24), (25, 24, 24), (9, 1, 3)] {
                let d = Depth::blocks_of(encoding, k, first, block);
                let mut lines = 0;
                for b in 0..d.blocks() {
                    assert_eq!(d.block_line(b), lines);
                    for (i, k) in d.block_k(b).enumerate() {
                        assert_eq!(d.place(k), (b, lines + i / d.line_k()));
                    }
                    lines += d.block_k(b).len().div_ceil(d.line_k());
                }
                assert_eq!((d.lines(), d.block_k(d.blocks() - 1).end), (lines, k));
            }
        }
    }

    #[test]
    fn no_inputs_are_no_lines() {
        assert_eq!(Depth::whole(Encoding::Bf16, 0).lines(), 0);
    }
}
