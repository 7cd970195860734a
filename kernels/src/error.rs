//! The ways in which an operation can refuse: shapes that do not fit, and numbers that are not numbers.

/// A slice or tensor whose size is not what its shape says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected {expected} {unit}, got {got}")]
pub struct ShapeError {
    /// What was to be read.
    pub what: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// How many there should be.
    pub expected: usize,
    /// How many there are.
    pub got: usize,
}

impl ShapeError {
    pub(crate) fn check(what: &'static str, unit: &'static str, expected: usize, got: usize) -> Result<(), Self> {
        if expected == got { Ok(()) } else { Err(Self { what, unit, expected, got }) }
    }
}

/// A NaN, or an infinity where none can be: the request that it belongs to must end with an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} of row {row} are not finite: the model's numbers overflowed or its weights are damaged")]
pub struct NotFinite {
    /// Which numbers.
    pub what: &'static str,
    /// The row of the step, or 0 where there is one row only.
    pub row: usize,
}

/// Weights that cannot be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// The data do not fit the shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// An e4m3 code that stands for no number.
    #[error("element {element} of an fp8 weight is NaN: the checkpoint is damaged; fetch it again")]
    NanWeight {
        /// Its place in the tensor, row-major.
        element: usize,
    },
    /// Rows that the tensor does not have.
    #[error("rows {start}..{end} were asked of a weight with {rows} rows")]
    NoSuchRows {
        /// The first row asked for.
        start: usize,
        /// One past the last.
        end: usize,
        /// Rows that there are.
        rows: usize,
    },
}

/// A token id beyond the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("token id {id} is beyond the vocabulary of {tokens} tokens")]
pub struct UnknownToken {
    /// The id.
    pub id: u32,
    /// Tokens of the vocabulary.
    pub tokens: usize,
}
