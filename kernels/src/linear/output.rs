//! A matrix that several threads write, each its own part.
#![allow(unsafe_code, reason = "parts of one matrix are not one slice, so the borrow checker cannot split it")]

use std::marker::PhantomData;
use std::ops::Range;

/// Some rows and columns of a matrix [rows, width], exclusively borrowed. They come from [`Part::split`] alone, which
/// makes those of one matrix disjoint.
pub(super) struct Part<'a> {
    start: *mut f32,
    width: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for an exclusive borrow of the f32s in its rows and columns, and f32 is Send.
unsafe impl Send for Part<'_> {}

impl<'a> Part<'a> {
    /// Splits `matrix` [.., width] into the given ranges of rows, which are ascending and do not overlap, and those
    /// into runs of `step` columns; the last may be narrower.
    pub(super) fn split(
        matrix: &'a mut [f32],
        width: usize,
        rows: impl Iterator<Item = Range<usize>>,
        step: usize,
    ) -> impl Iterator<Item = Part<'a>> {
        let (start, size, mut end) = (matrix.as_mut_ptr(), matrix.len(), 0);
        let ranges = rows.inspect(move |rows| {
            let fits = rows.start >= end && rows.end >= rows.start && rows.end * width <= size;
            assert!(fits, "parts of a matrix are disjoint and lie within it");
            end = rows.end;
        });
        ranges.flat_map(move |rows| {
            (0..width).step_by(step.max(1)).map(move |first| {
                let columns = first..(first + step.max(1)).min(width);
                Part { start, width, rows: rows.clone(), columns, borrow: PhantomData }
            })
        })
    }

    /// Its rows in the matrix.
    pub(super) fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// Its columns in the matrix.
    pub(super) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// Writes its part of a row of the matrix.
    pub(super) fn write(&mut self, row: usize, values: &[f32]) {
        let fits = self.rows.contains(&row) && values.len() <= self.columns.len();
        assert!(fits, "a job writes within its part");
        // SAFETY: by the check, the range lies in the slice that `split` borrowed and in the rows and columns of this
        // value, which no other value of that split has; `&mut self` keeps two threads from this one.
        unsafe {
            let to = self.start.add(row * self.width + self.columns.start);
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len());
        }
    }
}
