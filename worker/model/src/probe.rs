//! What `check` sees of a forward pass, beside logits.

use hadal_kernels::Margin;
use hadal_types::LayerId;

/// Called while a step is computed. `row` counts the rows of the step.
pub trait Probe {
    /// A layer chose these positions, ascending.
    fn chose(&mut self, layer: LayerId, row: usize, positions: &[u32], margin: Margin);
    /// A layer sent a row to these experts, ascending, with these weights.
    fn routed(&mut self, layer: LayerId, row: usize, experts: &[u32], weights: &[f32], margin: f32);
    /// The residual stream after a layer, `[rows, hidden]`.
    fn hidden(&mut self, layer: LayerId, rows: &[f32]);
    /// The same after the last norm.
    fn last_hidden(&mut self, rows: &[f32]);
}
