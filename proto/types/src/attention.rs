//! What tokens attend to.

/// Which of the rows before a token its attention reads. Rows of the two kinds differ from the second layer on, so
/// cached blocks of one are never those of the other: see [`crate::ChainRoot`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Attention {
    /// Those that the model's indexer chooses, or all where it has none.
    #[default]
    Sparse,
    /// All, for comparing; no choice is made.
    Dense,
}
