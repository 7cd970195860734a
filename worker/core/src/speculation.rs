//! Whether to draft: where it gives more tokens a second than it costs.
//!
//! What a draft's row costs depends on how many decodes share the step: alone it is nearly free, in a large batch it may
//! cost as much as a token. So there is one decision for each power of two of decodes. Steps of nothing but decodes are
//! measured, with drafts and without, and the better way is taken. The other one is tried for a few steps now and then,
//! since what is drafted, the model's load and the machine's change. Nothing but the instants and results of steps enters,
//! so the same events give the same decisions.

use std::time::Duration;

use crate::plan::{Follow, Plan};

/// Steps of a trial of the other way.
const TRIAL: u32 = 8;
/// Steps between two trials: one step in 65 is one of a trial.
const PERIOD: u32 = 512;
/// Steps whose average counts: older ones fade.
const MEMORY: u32 = 16;
/// Powers of two of decodes that are told apart.
const SIZES: usize = 17;

/// What is known of all sizes, and the step under way.
#[derive(Debug, Default)]
pub(crate) struct Speculation {
    sizes: [Size; SIZES],
    /// Of the last step with decodes.
    last: usize,
    step: Option<Measured>,
}

/// A step of decodes alone.
#[derive(Debug)]
struct Measured {
    began: Duration,
    size: usize,
    /// With drafts or without; none for a step between the two.
    way: Option<bool>,
}

/// What is known of steps with about so many decodes.
#[derive(Debug)]
struct Size {
    with: Pace,
    without: Pace,
    drafting: bool,
    /// Whether this way is tried although the other one was better.
    trying: bool,
    /// Steps until that changes.
    left: u32,
}

/// Averages of steps.
#[derive(Debug, Default)]
struct Pace {
    steps: u32,
    tokens: f64,
    seconds: f64,
}

impl Default for Size {
    fn default() -> Self {
        // The first trial comes soon.
        Self { with: Pace::default(), without: Pace::default(), drafting: true, trying: false, left: TRIAL }
    }
}

impl Pace {
    fn note(&mut self, tokens: u32, time: Duration) {
        self.steps = (self.steps + 1).min(MEMORY);
        let share = 1.0 / f64::from(self.steps);
        self.tokens += (f64::from(tokens) - self.tokens) * share;
        self.seconds += (time.as_secs_f64() - self.seconds) * share;
    }

    /// Tokens a second; none before the first step.
    fn rate(&self) -> Option<f64> {
        (self.steps > 0).then(|| self.tokens / self.seconds.max(1e-9))
    }
}

impl Size {
    /// Whether drafts are better, as far as is known.
    fn better(&self) -> bool {
        match (self.with.rate(), self.without.rate()) {
            (Some(with), Some(without)) => with >= without,
            // What a trial could not measure does not change anything.
            _ => self.drafting != self.trying,
        }
    }

    fn step_done(&mut self) {
        self.left = self.left.saturating_sub(1);
        let better = self.better();
        if self.left == 0 && !self.trying {
            (self.trying, self.drafting, self.left) = (true, !self.drafting, TRIAL);
        } else if self.left == 0 || (!self.trying && better != self.drafting) {
            (self.trying, self.drafting, self.left) = (false, better, PERIOD);
        }
    }
}

impl Speculation {
    /// Whether a step with so many decodes is to have drafts, and to ask for the next ones.
    pub(crate) fn decide(&mut self, decodes: usize) -> bool {
        let size = size(decodes);
        self.last = if decodes > 0 { size } else { self.last };
        self.sizes[size].drafting
    }

    /// What holds for as many decodes as the last step had.
    pub(crate) fn drafting(&self) -> bool {
        self.sizes[self.last].drafting
    }

    /// A step begins. With forced tokens, which say nothing of drafts, it is not measured.
    pub(crate) fn step_planned(&mut self, now: Duration, plan: &Plan, forced: bool) {
        let decodes = plan.slices().len();
        let decodes_alone = plan.slices().iter().all(|s| s.sample && plan.tokens(s).len() == 1 + usize::from(s.draft));
        if decodes == 0 || !decodes_alone || forced {
            self.step = None;
            return;
        }
        let tried = plan.slices().iter().filter(|s| s.draft).count();
        let asks = plan.slices().iter().any(|s| s.follow == Follow::Draft);
        let way = match tried {
            0 if !asks => Some(false),
            0 => None,
            _ => Some(true),
        };
        self.step = Some(Measured { began: now, size: size(decodes), way });
    }

    /// The step is over and gave so many tokens.
    pub(crate) fn step_done(&mut self, now: Duration, tokens: u32) {
        let Some(step) = self.step.take() else { return };
        let size = &mut self.sizes[step.size];
        let time = now.saturating_sub(step.began);
        match step.way {
            Some(true) => size.with.note(tokens, time),
            Some(false) => size.without.note(tokens, time),
            None => {}
        }
        size.step_done();
    }

    /// The step is over and gave nothing.
    pub(crate) fn step_failed(&mut self) {
        self.step = None;
    }
}

/// Which power of two.
fn size(decodes: usize) -> usize {
    (decodes.max(1).ilog2() as usize).min(SIZES - 1)
}
