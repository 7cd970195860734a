//! The tensors that a configuration promises, with their shapes: what a loader checks a checkpoint against, and what
//! parameters are counted by where there is no checkpoint.

use std::collections::BTreeMap;

use crate::config::{Config, LayerChoice, LayerPlan, Quantization};

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    /// Input embedding.
    Embedding,
    /// Output head.
    Head,
    /// Attention without indexer.
    Attention,
    /// Indexer.
    Indexer,
    /// Dense MLPs.
    Mlp,
    /// Gates.
    Gate,
    /// Experts that every token takes.
    Shared,
    /// Experts that a token may take.
    Routed,
    /// Norms of layers and of the whole.
    Norm,
    /// What joins a draft layer to the main model.
    Join,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) name: String,
    /// `[n]` or `[n, k]`.
    pub(crate) shape: Vec<usize>,
    pub(crate) group: Group,
    /// Part of a draft layer.
    pub(crate) draft: bool,
    /// Published as fp8 where the model is quantised.
    pub(crate) quantised: bool,
    /// Published as f32, whatever the others are.
    pub(crate) exact: bool,
}

impl Spec {
    /// How many numbers.
    pub(crate) fn parameters(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }

    /// Bytes as published: bf16, f32 or fp8 with scales.
    pub(crate) fn bytes(&self, quantization: Option<Quantization>) -> u64 {
        match (quantization, self.shape.as_slice()) {
            (Some(q), &[n, k]) if self.quantised => {
                let scales = n.div_ceil(q.block[0]) as u64 * k.div_ceil(q.block[1]) as u64;
                self.parameters() + 4 * scales
            }
            _ => self.parameters() * if self.exact { 4 } else { 2 },
        }
    }
}

/// What tensors come to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Total {
    pub(crate) parameters: u64,
    pub(crate) bytes: u64,
}

/// What the tensors of a configuration come to, by what they are for.
pub(crate) struct Totals(BTreeMap<(Group, bool), Total>);

impl Totals {
    /// Counts them.
    pub(crate) fn of(config: &Config) -> Self {
        let mut totals: BTreeMap<(Group, bool), Total> = BTreeMap::new();
        for spec in tensors(config) {
            let total = totals.entry((spec.group, spec.draft)).or_default();
            total.parameters += spec.parameters();
            total.bytes += spec.bytes(config.quantization);
        }
        Self(totals)
    }

    /// The sum of those groups of which `keep` says so; its second argument tells draft layers.
    pub(crate) fn sum(&self, keep: impl Fn(Group, bool) -> bool) -> Total {
        let kept = self.0.iter().filter(|((group, draft), _)| keep(*group, *draft));
        kept.fold(Total::default(), |sum, (_, total)| Total {
            parameters: sum.parameters + total.parameters,
            bytes: sum.bytes + total.bytes,
        })
    }
}

/// Collects the tensors of one layer, or those outside the layers.
struct Specs {
    specs: Vec<Spec>,
    prefix: String,
    draft: bool,
}

impl Specs {
    fn push(&mut self, group: Group, name: &str, shape: &[usize], quantised: bool) {
        let name = format!("{}{name}", self.prefix);
        let exact = name.ends_with("e_score_correction_bias") || name.contains("indexer.k_norm.");
        self.specs.push(Spec { name, shape: shape.to_vec(), group, draft: self.draft, quantised, exact });
    }

    fn vector(&mut self, group: Group, name: &str, n: usize) {
        self.push(group, name, &[n], false);
    }

    fn linear(&mut self, group: Group, name: &str, shape: [usize; 2]) {
        self.push(group, &format!("{name}.weight"), &shape, true);
    }

    fn gated(&mut self, group: Group, name: &str, hidden: usize, width: usize) {
        self.linear(group, &format!("{name}.gate_proj"), [width, hidden]);
        self.linear(group, &format!("{name}.up_proj"), [width, hidden]);
        self.linear(group, &format!("{name}.down_proj"), [hidden, width]);
    }
}

/// Every tensor of a configuration. A draft layer's copies of embedding and head are not among them: the main model's
/// are used. They are made layer by layer: a few bytes of configuration can promise millions.
pub(crate) fn tensors(config: &Config) -> impl Iterator<Item = Spec> + '_ {
    let layers = config.layers.iter().enumerate();
    outside(config).into_iter().chain(layers.flat_map(|(number, plan)| layer(config, number, plan)))
}

fn outside(config: &Config) -> Vec<Spec> {
    let mut s = Specs { specs: Vec::new(), prefix: "model.".to_owned(), draft: false };
    s.push(Group::Embedding, "embed_tokens.weight", &[config.vocab, config.hidden], false);
    s.vector(Group::Norm, "norm.weight", config.hidden);
    s.prefix.clear();
    if !config.tied {
        s.push(Group::Head, "lm_head.weight", &[config.vocab, config.hidden], false);
    }
    s.specs
}

fn layer(config: &Config, number: usize, plan: &LayerPlan) -> Vec<Spec> {
    let mut s = Specs { specs: Vec::new(), prefix: format!("model.layers.{number}."), draft: plan.draft };
    if plan.draft {
        s.vector(Group::Join, "enorm.weight", config.hidden);
        s.vector(Group::Join, "hnorm.weight", config.hidden);
        s.push(Group::Join, "eh_proj.weight", &[config.hidden, 2 * config.hidden], false);
        s.vector(Group::Join, "shared_head.norm.weight", config.hidden);
    }
    s.vector(Group::Norm, "input_layernorm.weight", config.hidden);
    s.vector(Group::Norm, "post_attention_layernorm.weight", config.hidden);
    attention(&mut s, config, plan.choice == LayerChoice::Own);
    match &config.moe {
        Some(_) if plan.moe => moe(&mut s, config),
        _ => s.gated(Group::Mlp, "mlp", config.hidden, config.mlp_width),
    }
    s.specs
}

fn attention(s: &mut Specs, config: &Config, indexes: bool) {
    let queries = config.heads * (config.nope + config.rope_dim);
    let base = s.prefix.len();
    s.prefix.push_str("self_attn.");
    match config.q_rank {
        None => s.linear(Group::Attention, "q_proj", [queries, config.hidden]),
        Some(rank) => {
            s.linear(Group::Attention, "q_a_proj", [rank, config.hidden]);
            s.vector(Group::Attention, "q_a_layernorm.weight", rank);
            s.linear(Group::Attention, "q_b_proj", [queries, rank]);
        }
    }
    s.linear(Group::Attention, "kv_a_proj_with_mqa", [config.latent_dim(), config.hidden]);
    s.vector(Group::Attention, "kv_a_layernorm.weight", config.kv_rank);
    s.linear(Group::Attention, "kv_b_proj", [config.heads * (config.nope + config.v_dim), config.kv_rank]);
    s.linear(Group::Attention, "o_proj", [config.hidden, config.heads * config.v_dim]);
    if let (Some(indexer), Some(rank), true) = (&config.indexer, config.q_rank, indexes) {
        s.linear(Group::Indexer, "indexer.wq_b", [indexer.heads * indexer.dim, rank]);
        s.linear(Group::Indexer, "indexer.wk", [indexer.dim, config.hidden]);
        s.vector(Group::Indexer, "indexer.k_norm.weight", indexer.dim);
        s.vector(Group::Indexer, "indexer.k_norm.bias", indexer.dim);
        s.push(Group::Indexer, "indexer.weights_proj.weight", &[indexer.heads, config.hidden], false);
    }
    s.prefix.truncate(base);
}

fn moe(s: &mut Specs, config: &Config) {
    let Some(moe) = &config.moe else { return };
    s.push(Group::Gate, "mlp.gate.weight", &[moe.experts, config.hidden], false);
    if moe.bias {
        s.vector(Group::Gate, "mlp.gate.e_score_correction_bias", moe.experts);
    }
    if moe.shared > 0 {
        s.gated(Group::Shared, "mlp.shared_experts", config.hidden, moe.shared * moe.width);
    }
    for expert in 0..moe.experts {
        s.gated(Group::Routed, &format!("mlp.experts.{expert}"), config.hidden, moe.width);
    }
}
