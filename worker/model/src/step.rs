//! What one step computes: slices of sequences, each with the pages that hold its rows, and how the draft layer follows
//! them.

use hadal_types::{Attention, Part};

/// Which rows of a slice get logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Logits {
    /// None: a chunk that is not the end of a prompt.
    #[default]
    None,
    /// The last one.
    Last,
    /// Every one, for verification and golden data.
    All,
}

impl Logits {
    /// How many of so many rows.
    pub fn rows(self, tokens: usize) -> usize {
        match self {
            Logits::None => 0,
            Logits::Last => tokens.min(1),
            Logits::All => tokens,
        }
    }
}

/// Consecutive tokens of one sequence. Rows of earlier tokens must be in the cache.
#[derive(Clone, Debug)]
pub struct Slice<'a> {
    /// The tokens to compute.
    pub tokens: &'a [u32],
    /// Position of the first of them.
    pub start: u32,
    /// The sequence's pages by [`Part::index`], from its first block to that of the last token of this slice at least;
    /// empty for a part that the model does not have.
    pub pages: [&'a [u32]; Part::ALL.len()],
    /// Which logits are wanted.
    pub logits: Logits,
    /// What the tokens attend to, in every step of the sequence. A model without an indexer knows one kind only.
    pub attention: Attention,
}

/// A batch of slices, of one sequence each. Two slices of one sequence may not be in one step.
#[derive(Clone, Debug, Default)]
pub struct Step<'a> {
    /// The slices, in any order.
    pub slices: Vec<Slice<'a>>,
}

impl Step<'_> {
    /// Tokens of all slices.
    pub fn rows(&self) -> usize {
        self.slices.iter().map(|s| s.tokens.len()).sum()
    }
}

/// How the draft layer follows a slice of the step just computed.
///
/// The draft row of a position joins its token with the main model's last hidden row of the position before, and lies
/// in the draft layer's stores under that position. So the rows of a slice give the draft rows of the positions after
/// them: of the slice's other tokens, and of the token that was sampled. Position 0 has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    /// Leading tokens of the slice that stand: all but a draft that was refused. With 0 nothing is written.
    pub kept: usize,
    /// The token after those, where its draft row is wanted.
    pub next: Option<u32>,
    /// Which of these draft rows get logits. The others are written and not computed further: what a draft layer keeps
    /// of a token depends on its input alone.
    pub logits: Logits,
}

impl Draft {
    /// Draft rows, beside the one that position 0 has not.
    pub(crate) fn rows(&self) -> usize {
        if self.kept == 0 { 0 } else { self.kept - 1 + usize::from(self.next.is_some()) }
    }
}
