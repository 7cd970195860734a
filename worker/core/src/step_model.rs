//! The time of a step on paper, for workers without a model.

use crate::plan::StepLoad;

/// Coefficients of a step's time in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepModel {
    /// Of any step.
    pub step_us: f64,
    /// Of each prefill row.
    pub prefill_token_us: f64,
    /// Of each decode row, of drafts too.
    pub decode_token_us: f64,
    /// Of each pair of a row and a token that it attends to.
    pub context_token_us: f64,
}

impl StepModel {
    /// Microseconds that a step takes; at least 1.
    pub fn micros(&self, load: StepLoad) -> u64 {
        let us = self.step_us
            + self.prefill_token_us * f64::from(load.prefill_tokens)
            + self.decode_token_us * f64::from(load.decode_tokens + load.draft_tokens)
            + self.context_token_us * load.context_tokens as f64;
        us.max(1.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_step_takes_its_time() {
        let model = StepModel { step_us: 100.0, prefill_token_us: 2.0, decode_token_us: 10.0, context_token_us: 0.5 };
        let load = StepLoad { prefill_tokens: 3, decode_tokens: 2, draft_tokens: 1, context_tokens: 8 };
        assert_eq!(model.micros(load), 100 + 6 + 30 + 4);
        let nothing =
            StepModel { step_us: 0.0, prefill_token_us: 0.0, decode_token_us: 0.0, context_token_us: f64::NAN };
        assert_eq!(nothing.micros(load), 1);
    }
}
