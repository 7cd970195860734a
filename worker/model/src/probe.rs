//! What others see of a step while it is computed.

use hadal_kernels::Margin;
use hadal_types::LayerId;

use crate::cache::Cache;

/// Experts of one row, ascending, with the weights of their answers.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    /// Ids.
    pub experts: &'a [u32],
    /// As multiplied onto the answers.
    pub weights: &'a [f32],
    /// The gap between the last chosen and the best left out, in standard deviations of the scores.
    pub margin: f32,
}

/// Called while a step is computed. `row` counts the rows of the step.
pub trait Probe {
    /// All rows of a layer are in the cache.
    fn written(&mut self, layer: LayerId, cache: &Cache);

    /// Whether all calls below are wanted: they cost time.
    fn details(&self) -> bool {
        false
    }

    /// Whether `chose` is called, which costs little.
    fn choices(&self) -> bool {
        self.details()
    }

    /// A layer with an indexer of its own chose these positions, ascending. Not called for rows of dense attention.
    fn chose(&mut self, _layer: LayerId, _row: usize, _positions: &[u32], _margin: Margin) {}

    /// A layer sent a row to these experts.
    fn routed(&mut self, _layer: LayerId, _row: usize, _route: Route<'_>) {}

    /// The residual stream after a layer, `[rows, hidden]`.
    fn hidden(&mut self, _layer: LayerId, _rows: &[f32]) {}

    /// The same after the last norm.
    fn last_hidden(&mut self, _rows: &[f32]) {}
}

/// Calls a function for each layer.
pub(crate) struct OnLayer<'a>(pub(crate) &'a mut dyn FnMut(LayerId, &Cache));

impl Probe for OnLayer<'_> {
    fn written(&mut self, layer: LayerId, cache: &Cache) {
        (self.0)(layer, cache);
    }
}
