//! The buffers of a step, allocated once for a largest number of rows and used again by every step.

use hadal_kernels::{Choice, NotFinite, Routes};

use crate::config::{Config, LayerChoice};
use crate::step::{Draft, Slice, Step};

/// Room for one step at a time. What is in it between steps has no meaning, but for the last step's logits.
pub struct Workspace {
    pub(crate) rows_max: usize,
    vocab: usize,
    /// Residual stream and normed input of a block, [rows, hidden]; answer of a block, the same.
    pub(crate) x: Vec<f32>,
    pub(crate) normed: Vec<f32>,
    pub(crate) answer: Vec<f32>,
    /// Cosines and sines, [rows, rope / 2].
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
    pub(crate) mla: MlaBuffers,
    pub(crate) index: IndexBuffers,
    /// Choice of the last layer that chose.
    pub(crate) choice: Choice,
    pub(crate) gate_logits: Vec<f32>,
    pub(crate) routes: Routes,
    /// [wanted rows, vocab], and where each slice's begin.
    logits: Vec<f32>,
    logits_at: Vec<std::ops::Range<usize>>,
    /// For the draft layer, empty without one: the main model's last hidden rows of the step, normed, [rows, hidden],
    /// which live until the next; what a row is joined of, [rows, 2, hidden]; the tokens of the rows.
    pub(crate) hidden: Vec<f32>,
    pub(crate) join: Vec<f32>,
    pub(crate) draft_tokens: Vec<u32>,
    pub(crate) failures: Vec<Option<NotFinite>>,
}

/// Buffers of attention.
pub(crate) struct MlaBuffers {
    /// Query latent before and after its norm, [rows, q_rank].
    pub(crate) q_down: Vec<f32>,
    pub(crate) q_latent: Vec<f32>,
    /// [rows, heads, nope + rope].
    pub(crate) q: Vec<f32>,
    /// [rows, heads, rank + rope].
    pub(crate) absorbed: Vec<f32>,
    /// Latent and rotated key, [rows, rank + rope]; normed latent, [rows, rank].
    pub(crate) row: Vec<f32>,
    pub(crate) latent: Vec<f32>,
    /// Inputs and outputs of the products of each head, [heads, rows, width].
    pub(crate) head_in: Vec<f32>,
    pub(crate) head_out: Vec<f32>,
    /// [rows, heads, rank], then [rows, heads, v_dim].
    pub(crate) attended: Vec<f32>,
    pub(crate) values: Vec<f32>,
}

/// Buffers of the indexer.
pub(crate) struct IndexBuffers {
    /// [rows, heads, dim].
    pub(crate) q: Vec<f32>,
    /// Before and after the norm, [rows, dim].
    pub(crate) key: Vec<f32>,
    pub(crate) key_normed: Vec<f32>,
    /// [rows, heads].
    pub(crate) w: Vec<f32>,
}

/// Numbers of each buffer for one row.
struct Widths {
    hidden: usize,
    rope_half: usize,
    q_rank: usize,
    q: usize,
    absorbed: usize,
    row: usize,
    latent: usize,
    head_in: usize,
    head_out: usize,
    attended: usize,
    values: usize,
    index_q: usize,
    index_key: usize,
    index_heads: usize,
    experts: usize,
    vocab: usize,
    draft: usize,
}

impl Widths {
    fn new(c: &Config) -> Self {
        let index = c.indexer.filter(|_| c.layers.iter().any(|l| l.choice != LayerChoice::All));
        Self {
            hidden: c.hidden,
            rope_half: c.rope_dim / 2,
            q_rank: c.q_rank.unwrap_or(0),
            q: c.heads * (c.nope + c.rope_dim),
            absorbed: c.heads * c.latent_dim(),
            row: c.latent_dim(),
            latent: c.kv_rank,
            head_in: c.heads * c.kv_rank.max(c.nope),
            head_out: c.heads * c.kv_rank.max(c.v_dim),
            attended: c.heads * c.kv_rank,
            values: c.heads * c.v_dim,
            index_q: index.map_or(0, |i| i.heads * i.dim),
            index_key: index.map_or(0, |i| i.dim),
            index_heads: index.map_or(0, |i| i.heads),
            experts: c.moe.map_or(0, |m| m.experts),
            vocab: c.vocab,
            draft: if c.draft_layers() > 0 { c.hidden } else { 0 },
        }
    }

    fn total(&self) -> usize {
        let mla = 2 * self.q_rank + self.q + self.absorbed + self.row + self.latent + self.head_in + self.head_out;
        let index = self.index_q + 2 * self.index_key + self.index_heads;
        let draft = 3 * self.draft;
        let ends = 3 * self.hidden + 2 * self.rope_half + self.experts + self.vocab;
        ends + mla + self.attended + self.values + index + draft
    }
}

/// Numbers that the kernels keep during a step of so many rows: activations rounded for a product, the inside of an
/// MLP, and the answers of experts, of which they compute a bounded number at a time.
fn kernel_numbers(config: &Config, rows: u64) -> u64 {
    const ANSWERS: u64 = 1024;
    let hidden = config.hidden as u64;
    let (shared, width, per_token) =
        config.moe.map_or((0, 0, 0), |m| ((m.shared * m.width) as u64, m.width as u64, m.experts_per_token as u64));
    let by_head = (config.heads * config.kv_rank.max(config.nope).max(config.v_dim)) as u64;
    let dense = 4 * shared.max(config.mlp_width as u64);
    let answers = (rows * per_token).min(ANSWERS.max(rows));
    let experts = answers * (2 * hidden + 3 * width + hidden.max(width));
    (rows * by_head.max(dense)).max(experts)
}

impl Workspace {
    /// For steps of at most `rows_max` rows.
    pub(crate) fn new(config: &Config, rows_max: usize) -> Self {
        let w = Widths::new(config);
        let rows = |width: usize| vec![0.0f32; width * rows_max];
        Self {
            rows_max,
            vocab: w.vocab,
            x: rows(w.hidden),
            normed: rows(w.hidden),
            answer: rows(w.hidden),
            cos: rows(w.rope_half),
            sin: rows(w.rope_half),
            mla: MlaBuffers {
                q_down: rows(w.q_rank),
                q_latent: rows(w.q_rank),
                q: rows(w.q),
                absorbed: rows(w.absorbed),
                row: rows(w.row),
                latent: rows(w.latent),
                head_in: rows(w.head_in),
                head_out: rows(w.head_out),
                attended: rows(w.attended),
                values: rows(w.values),
            },
            index: IndexBuffers {
                q: rows(w.index_q),
                key: rows(w.index_key),
                key_normed: rows(w.index_key),
                w: rows(w.index_heads),
            },
            choice: Choice::default(),
            gate_logits: rows(w.experts),
            routes: Routes::default(),
            logits: rows(w.vocab),
            logits_at: Vec::new(),
            hidden: rows(w.draft),
            join: rows(2 * w.draft),
            draft_tokens: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Bytes that a step of so many rows takes: these buffers, the positions and experts that each row chooses, and what
    /// the kernels keep for themselves.
    pub(crate) fn bytes_for(config: &Config, rows_max: usize) -> u64 {
        let chosen = config.indexer.map_or(0, |i| i.topk);
        let routed = config.moe.map_or(0, |m| 2 * m.experts_per_token);
        let rows = rows_max as u64 * (Widths::new(config).total() + chosen + routed) as u64;
        4 * (rows + kernel_numbers(config, rows_max as u64))
    }

    /// Rows of the largest step.
    pub fn rows_max(&self) -> usize {
        self.rows_max
    }

    /// The logits of slice `slice` of the last step, [rows asked for, vocab]. Empty where none were asked for. After
    /// [`crate::Model::draft`], those of the draft rows that follow the slice; empty also where these have failed.
    pub fn logits(&self, slice: usize) -> &[f32] {
        let range = self.logits_at.get(slice).cloned().unwrap_or_default();
        &self.logits[range.start * self.vocab..range.end * self.vocab]
    }

    /// Why slice `slice` of the last step has no answer from a row on (a row of the step): its rows before that one and
    /// their logits are right, the others must not be used again. Forgotten when drafts are computed.
    pub fn failure(&self, slice: usize) -> Option<&NotFinite> {
        self.failures.get(slice).and_then(Option::as_ref)
    }

    /// Lays out the logits of a step and forgets the failures of the last.
    pub(crate) fn begin(&mut self, slices: &[Slice<'_>]) {
        self.failures.clear();
        self.failures.resize(slices.len(), None);
        self.choice.clear();
        let mut at = 0;
        self.logits_at.clear();
        self.logits_at.extend(slices.iter().map(|s| {
            let from = at;
            at += s.logits.rows(s.tokens.len());
            from..at
        }));
    }

    /// Lays out the logits of drafts by the slices that they follow, when there are failures of those that asked for
    /// logits still.
    pub(crate) fn lay_out_drafts(&mut self, step: &Step<'_>, drafts: &[Draft]) {
        let mut at = 0;
        let mut asked = self.failures.iter();
        self.logits_at.clear();
        self.logits_at.extend(step.slices.iter().zip(drafts).map(|(_, draft)| {
            let (from, rows) = (at, draft.logits.rows(draft.rows()));
            let failed = rows > 0 && asked.next().is_some_and(Option::is_some);
            at += rows;
            if failed { from..from } else { from..at }
        }));
        self.failures.clear();
    }

    /// Room for the logits of the step, [wanted rows, vocab].
    pub(crate) fn logits_mut(&mut self) -> &mut [f32] {
        let rows = self.logits_at.last().map_or(0, |r| r.end);
        &mut self.logits[..rows * self.vocab]
    }
}
