//! A matrix that several threads write, each its own columns.
#![allow(unsafe_code, reason = "columns of one matrix are not one slice, so the borrow checker cannot split it")]

use std::marker::PhantomData;
use std::ops::Range;

/// Some columns of a matrix [rows, width], exclusively borrowed. They come from [`Columns::split`] alone, which makes
/// those of one matrix disjoint.
pub(super) struct Columns<'a> {
    start: *mut f32,
    rows: usize,
    width: usize,
    columns: Range<usize>,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for an exclusive borrow of the f32s in its columns, and f32 is Send.
unsafe impl Send for Columns<'_> {}

impl<'a> Columns<'a> {
    /// Splits `matrix` [rows, width] into runs of `step` columns; the last may be narrower.
    pub(super) fn split(
        matrix: &'a mut [f32],
        rows: usize,
        width: usize,
        step: usize,
    ) -> impl Iterator<Item = Columns<'a>> {
        let matrix = &mut matrix[..rows * width];
        let start = matrix.as_mut_ptr();
        (0..width).step_by(step.max(1)).map(move |first| {
            let columns = first..(first + step.max(1)).min(width);
            Columns { start, rows, width, columns, borrow: PhantomData }
        })
    }

    /// How many columns there are.
    pub(super) fn len(&self) -> usize {
        self.columns.len()
    }

    /// Writes one row of these columns.
    pub(super) fn write(&mut self, row: usize, values: &[f32]) {
        assert!(row < self.rows && values.len() <= self.columns.len(), "a job writes within its columns");
        // SAFETY: by the check, the range lies in a row of the slice that `split` borrowed and in the columns of this
        // value, which no other value of that split has; `&mut self` keeps two threads from this one.
        unsafe {
            let to = self.start.add(row * self.width + self.columns.start);
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len());
        }
    }
}
