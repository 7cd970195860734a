//! A matrix that several threads write, each to columns of its own.
#![allow(unsafe_code, reason = "columns of one matrix are not one slice, so the borrow checker cannot split it")]

use std::marker::PhantomData;

/// The result [rows, columns] of a product while its jobs run. Private to `linear`, where each job writes the columns
/// of its own panels only.
pub(super) struct Output<'a> {
    start: *mut f32,
    rows: usize,
    columns: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for an exclusive borrow of f32s, which may go to another thread; jobs on several threads write
// disjoint columns, as `write` requires of its caller within this module's parent.
unsafe impl Send for Output<'_> {}
// SAFETY: as above.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    pub(super) fn new(out: &'a mut [f32], rows: usize, columns: usize) -> Self {
        let out = &mut out[..rows * columns];
        Self { start: out.as_mut_ptr(), rows, columns, borrow: PhantomData }
    }

    /// Writes `values` to `row` from `column` on. No two jobs that run at the same time write the same column.
    pub(super) fn write(&self, row: usize, column: usize, values: &[f32]) {
        assert!(row < self.rows && column + values.len() <= self.columns, "a job writes within the result");
        // SAFETY: the range lies within the borrowed slice by the check above, no other job writes these columns, and
        // nobody reads the result before the jobs have ended.
        unsafe {
            let to = self.start.add(row * self.columns + column);
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len());
        }
    }
}
