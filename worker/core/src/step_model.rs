//! The time of a step on paper, for workers without a model.

use crate::plan::StepLoad;

/// Coefficients of a step's time in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepModel {
    /// Of any step.
    pub step_us: f64,
    /// Of each prefill row.
    pub prefill_token_us: f64,
    /// Of each decode row.
    pub decode_token_us: f64,
    /// Of each pair of a row and a token that it attends to.
    pub context_token_us: f64,
}

impl StepModel {
    /// Microseconds that a step takes; at least 1.
    pub fn micros(&self, load: StepLoad) -> u64 {
        let us = self.step_us
            + self.prefill_token_us * f64::from(load.prefill_tokens)
            + self.decode_token_us * f64::from(load.decode_tokens)
            + self.context_token_us * load.context_tokens as f64;
        us.max(1.0) as u64
    }
}
