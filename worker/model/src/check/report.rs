//! What a check found, for programs (serde) and people (Display).

use std::fmt;

use serde::Serialize;

/// Rows compared and rows that chose differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Choices {
    /// Rows of all layers.
    pub rows: usize,
    /// Rows whose set differs in any member.
    pub different: usize,
}

/// Relative differences of what is derived from the configuration; none where golden data have nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Constants {
    /// Of rotary frequencies.
    pub inv_freq: Option<f64>,
    /// Of the factor on cosines and sines.
    pub cos_sin_factor: Option<f64>,
    /// Of the factor on attention scores.
    pub attention_scale: Option<f64>,
}

/// The narrowest margin of a layer's choices.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LayerMargin {
    /// The layer.
    pub layer: u32,
    /// The gap between the last chosen and the best left out, in standard deviations of the scores.
    pub margin: f32,
    /// Position of the row.
    pub row: usize,
}

/// One prompt. Differences are absolute and the largest of all rows; none where golden data have nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PromptReport {
    /// Its name.
    pub name: String,
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Tokens of the continuation.
    pub new_tokens: usize,
    /// Of logits.
    pub logits: Option<f32>,
    /// Of the residual stream after any layer, and after the last norm.
    pub hidden: Option<f32>,
    /// Of the draft layer's logits, where its choices are clear.
    pub mtp: Option<f32>,
    /// Of the weights of experts.
    pub router_weights: Option<f32>,
    /// Choices of the indexer.
    pub indexer: Choices,
    /// Choices of the router.
    pub router: Choices,
    /// Narrowest margins of the layers' indexers; none for a layer that left nothing out.
    pub index_margins: Vec<LayerMargin>,
    /// The same of routers.
    pub router_margins: Vec<LayerMargin>,
    /// Whether every greedy token is the golden one.
    pub greedy_same: bool,
}

impl PromptReport {
    /// Whether choices and greedy tokens are identical and logits within `tolerance`. Of a prompt that golden data say
    /// nothing about, nothing is known.
    pub fn passed(&self, tolerance: f32) -> bool {
        let close = |difference: Option<f32>| difference.is_none_or(|d| d <= tolerance);
        let compared = self.new_tokens > 0 || self.logits.is_some();
        compared
            && self.greedy_same
            && self.indexer.different == 0
            && self.router.different == 0
            && close(self.logits)
            && close(self.mtp)
    }
}

/// What `hadal check` prints.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// The folder.
    pub checkpoint: String,
    /// Its architecture.
    pub architecture: String,
    /// Kernel path.
    pub kernels: String,
    /// Largest difference of logits that passes.
    pub tolerance: f32,
    /// Factors and frequencies.
    pub constants: Constants,
    /// Prompts.
    pub prompts: Vec<PromptReport>,
}

impl CheckReport {
    /// Frequencies are f32 and may differ in the last place.
    const CONSTANT_TOLERANCE: f64 = 1e-6;

    /// Whether everything passed.
    pub fn passed(&self) -> bool {
        let c = &self.constants;
        let constants = [c.inv_freq, c.cos_sin_factor, c.attention_scale];
        let close = |d: Option<f64>| d.is_none_or(|d| d <= Self::CONSTANT_TOLERANCE);
        constants.into_iter().all(close) && self.prompts.iter().all(|p| p.passed(self.tolerance))
    }
}

/// A number of a table, or a dash.
fn cell<T: fmt::LowerExp>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v:.1e}"))
}

fn choices(c: Choices) -> String {
    if c.rows == 0 { "-".to_owned() } else { format!("{}/{}", c.different, c.rows) }
}

fn narrowest(margins: &[LayerMargin]) -> String {
    let least = margins.iter().min_by(|a, b| a.margin.total_cmp(&b.margin));
    least.map_or_else(|| "-".to_owned(), |m| format!("{:.1e} @{}:{}", m.margin, m.layer, m.row))
}

/// A row of the table.
fn row(f: &mut fmt::Formatter<'_>, cells: [String; 13]) -> fmt::Result {
    const WIDTHS: [usize; 13] = [8, 6, 4, 8, 8, 8, 8, 10, 10, 16, 16, 7, 6];
    for (number, (cell, width)) in cells.iter().zip(WIDTHS).enumerate() {
        match number {
            0 => write!(f, "{cell:<width$}")?,
            _ => write!(f, " {cell:>width$}")?,
        }
    }
    writeln!(f)
}

impl PromptReport {
    fn cells(&self, tolerance: f32) -> [String; 13] {
        [
            self.name.clone(),
            self.tokens.to_string(),
            self.new_tokens.to_string(),
            cell(self.logits),
            cell(self.hidden),
            cell(self.mtp),
            cell(self.router_weights),
            choices(self.indexer),
            choices(self.router),
            narrowest(&self.index_margins),
            narrowest(&self.router_margins),
            if self.greedy_same { "same" } else { "DIFFERS" }.to_owned(),
            if self.passed(tolerance) { "ok" } else { "BAD" }.to_owned(),
        ]
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEAD: [&str; 13] = [
            "prompt",
            "tokens",
            "new",
            "logits",
            "hidden",
            "mtp",
            "weights",
            "indexer",
            "router",
            "index margin",
            "router margin",
            "greedy",
            "result",
        ];
        writeln!(f, "{} ({}, f32, {})", self.checkpoint, self.architecture, self.kernels)?;
        let c = &self.constants;
        writeln!(
            f,
            "relative differences: rope frequencies {}, cos/sin factor {}, attention scale {}",
            cell(c.inv_freq),
            cell(c.cos_sin_factor),
            cell(c.attention_scale)
        )?;
        row(f, HEAD.map(str::to_owned))?;
        self.prompts.iter().try_for_each(|p| row(f, p.cells(self.tolerance)))?;
        let verdict = if self.passed() { "passed" } else { "FAILED" };
        write!(
            f,
            "{verdict}: choices and greedy tokens must be identical, logits and mtp within {:.0e}; \
             choices are rows that differ / rows, margins are the narrowest, in standard deviations @layer:row",
            self.tolerance
        )
    }
}
