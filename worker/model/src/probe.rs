//! What others see of a step while it is computed.

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

/// What a step computes, one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Queries of attention, rotated.
    Queries,
    /// Queries taken into the latent space.
    Absorb,
    /// The latent rows of the cache.
    Latents,
    /// The index keys of the cache.
    IndexKeys,
    /// Queries of the indexer and its heads' weights.
    IndexQueries,
    /// Scores of all positions, and the choice among them.
    IndexScan,
    /// Attention over the rows of the cache.
    Attention,
    /// Values taken out of the latent space.
    Values,
    /// The output projection.
    Output,
    /// Which experts.
    Gate,
    /// Shared experts, or the whole of a dense MLP.
    Shared,
    /// Routed experts.
    Experts,
    /// Embedding, norms, sums, head.
    Rest,
}

impl Stage {
    /// All of them, in the order of a layer.
    pub const ALL: [Stage; 13] = [
        Stage::Queries,
        Stage::Absorb,
        Stage::Latents,
        Stage::IndexKeys,
        Stage::IndexQueries,
        Stage::IndexScan,
        Stage::Attention,
        Stage::Values,
        Stage::Output,
        Stage::Gate,
        Stage::Shared,
        Stage::Experts,
        Stage::Rest,
    ];

    /// As in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Queries => "queries",
            Stage::Absorb => "absorb",
            Stage::Latents => "latents",
            Stage::IndexKeys => "index_keys",
            Stage::IndexQueries => "index_queries",
            Stage::IndexScan => "index_scan",
            Stage::Attention => "attention",
            Stage::Values => "values",
            Stage::Output => "output",
            Stage::Gate => "gate",
            Stage::Shared => "shared_expert",
            Stage::Experts => "experts",
            Stage::Rest => "rest",
        }
    }
}

/// Called while a step is computed. `row` counts the rows of the step.
pub trait Probe {
    /// All rows of a layer are in the cache.
    fn written(&mut self, layer: LayerId, cache: &Cache);

    /// A stage has been computed, one time for each layer or more: what passed since the last call is its time.
    fn computed(&mut self, _stage: Stage) {}

    /// Whether all calls below are wanted: they cost time.
    fn details(&self) -> bool {
        false
    }

    /// Whether `chose` is called, which costs little.
    fn choices(&self) -> bool {
        self.details()
    }

    /// A layer with an indexer of its own chose these positions, ascending. Where details are wanted, the margin is the
    /// gap between the last chosen and the best left out, in standard deviations of the scores. Not called for rows of
    /// dense attention.
    fn chose(&mut self, _layer: LayerId, _row: usize, _positions: &[u32], _margin: Option<f32>) {}

    /// A layer sent a row to these experts.
    fn routed(&mut self, _layer: LayerId, _row: usize, _route: Route<'_>) {}

    /// The residual stream after a layer, `[rows, hidden]`. What is written there is what the next layer reads.
    fn hidden(&mut self, _layer: LayerId, _rows: &mut [f32]) {}

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
