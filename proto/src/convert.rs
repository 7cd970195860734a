//! Wire messages to and from the shared types. Messages come from outside: nothing here trusts them.

use hadal_types as t;

use crate::cluster as w;

/// A message that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {field}: {problem}")]
pub struct Malformed {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl Malformed {
    fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

impl From<Malformed> for tonic::Status {
    fn from(error: Malformed) -> Self {
        tonic::Status::invalid_argument(error.to_string())
    }
}

/// The 16 bytes of an id, class or fingerprint.
///
/// # Errors
/// When there are more or fewer.
pub fn id16(field: &'static str, bytes: &[u8]) -> Result<[u8; 16], Malformed> {
    bytes.try_into().map_err(|_| Malformed::new(field, format!("16 bytes expected, got {}", bytes.len())))
}

/// Chain hashes, one after another.
pub fn hashes_to_bytes(hashes: &[t::ChainHash]) -> Vec<u8> {
    hashes.iter().flat_map(|h| h.0).collect()
}

/// Chain hashes from their concatenation.
///
/// # Errors
/// When the length is not a multiple of 16.
pub fn hashes_from_bytes(bytes: &[u8]) -> Result<Vec<t::ChainHash>, Malformed> {
    let (hashes, rest) = bytes.as_chunks::<16>();
    if !rest.is_empty() {
        return Err(Malformed::new("hashes", format!("{} bytes are no multiple of 16", bytes.len())));
    }
    Ok(hashes.iter().map(|h| t::ChainHash(*h)).collect())
}

fn part(index: u32) -> Result<t::Part, Malformed> {
    let found = t::Part::ALL.get(index as usize).copied();
    found.ok_or_else(|| Malformed::new("part", format!("there is no part {index}")))
}

impl From<&t::Ledger> for w::Ledger {
    fn from(ledger: &t::Ledger) -> Self {
        let parts = ledger.parts.iter().map(|p| w::PartLedger {
            part: p.part.index() as u32,
            page_bytes: p.page_bytes,
            pages_total: p.pages_total,
            pages_free: p.pages_free,
            pages_cached: p.pages_cached,
        });
        Self { weights_bytes: ledger.weights_bytes, workspace_bytes: ledger.workspace_bytes, parts: parts.collect() }
    }
}

impl TryFrom<&w::Ledger> for t::Ledger {
    type Error = Malformed;

    fn try_from(ledger: &w::Ledger) -> Result<Self, Malformed> {
        let mut parts: Vec<t::PartLedger> = Vec::new();
        for p in &ledger.parts {
            let part = part(p.part)?;
            if parts.iter().any(|q| q.part == part) {
                return Err(Malformed::new("ledger", format!("part {} stands twice", part.name())));
            }
            let held = p.pages_free.checked_add(p.pages_cached);
            if held.is_none_or(|held| held > p.pages_total) {
                let problem = format!(
                    "{} free and {} cached pages of {} in part {}",
                    p.pages_free,
                    p.pages_cached,
                    p.pages_total,
                    part.name()
                );
                return Err(Malformed::new("ledger", problem));
            }
            if p.pages_total.checked_mul(p.page_bytes).is_none() {
                let (total, bytes, part) = (p.pages_total, p.page_bytes, part.name());
                let problem = format!("{total} pages of {bytes} bytes in part {part} are more than can be");
                return Err(Malformed::new("ledger", problem));
            }
            parts.push(t::PartLedger {
                part,
                page_bytes: p.page_bytes,
                pages_total: p.pages_total,
                pages_free: p.pages_free,
                pages_cached: p.pages_cached,
            });
        }
        parts.sort_by_key(|p| p.part);
        Ok(Self { weights_bytes: ledger.weights_bytes, workspace_bytes: ledger.workspace_bytes, parts })
    }
}

impl From<&t::SamplingParams> for w::Sampling {
    fn from(s: &t::SamplingParams) -> Self {
        Self {
            temperature: s.temperature,
            top_p: s.top_p,
            top_k: s.top_k,
            min_p: s.min_p,
            repetition_penalty: s.repetition_penalty,
            frequency_penalty: s.frequency_penalty,
            presence_penalty: s.presence_penalty,
            logit_bias: s.logit_bias.iter().map(|&(token, bias)| w::LogitBias { token, bias }).collect(),
            seed: s.seed,
            choice: s.choice,
            max_tokens: s.max_tokens,
            min_tokens: s.min_tokens,
            stop_token_ids: s.stop_token_ids.clone(),
            logprobs: s.logprobs,
            forced_tokens: s.forced.clone(),
            choice_overlap: s.choice_overlap,
        }
    }
}

impl TryFrom<&w::Sampling> for t::SamplingParams {
    type Error = Malformed;

    fn try_from(s: &w::Sampling) -> Result<Self, Malformed> {
        let params = Self {
            temperature: s.temperature,
            top_p: s.top_p,
            top_k: s.top_k,
            min_p: s.min_p,
            repetition_penalty: s.repetition_penalty,
            frequency_penalty: s.frequency_penalty,
            presence_penalty: s.presence_penalty,
            logit_bias: s.logit_bias.iter().map(|b| (b.token, b.bias)).collect(),
            seed: s.seed,
            choice: s.choice,
            max_tokens: s.max_tokens,
            min_tokens: s.min_tokens,
            stop_token_ids: s.stop_token_ids.clone(),
            logprobs: s.logprobs,
            forced: s.forced_tokens.clone(),
            choice_overlap: s.choice_overlap,
        };
        params.validate().map_err(|e| Malformed::new("sampling", e.to_string()))?;
        Ok(params)
    }
}

impl w::RequestContext {
    /// What its tokens attend to.
    pub fn attention(&self) -> t::Attention {
        if self.dense { t::Attention::Dense } else { t::Attention::Sparse }
    }
}

impl From<t::Encoding> for w::encoding::Kind {
    fn from(encoding: t::Encoding) -> Self {
        match encoding {
            t::Encoding::F32 => Self::F32,
            t::Encoding::Bf16 => Self::Bf16,
            t::Encoding::E4m3 => Self::E4m3,
            t::Encoding::I8 => Self::I8,
        }
    }
}

fn encoding(kind: w::encoding::Kind) -> Result<t::Encoding, Malformed> {
    match kind {
        w::encoding::Kind::F32 => Ok(t::Encoding::F32),
        w::encoding::Kind::Bf16 => Ok(t::Encoding::Bf16),
        w::encoding::Kind::E4m3 => Ok(t::Encoding::E4m3),
        w::encoding::Kind::I8 => Ok(t::Encoding::I8),
        w::encoding::Kind::Unspecified => Err(Malformed::new("encoding", "unknown")),
    }
}

impl From<&t::Geometry> for w::Geometry {
    fn from(g: &t::Geometry) -> Self {
        let store = |s: &t::Store| w::Store {
            owner: s.owner.0,
            part: s.part.index() as u32,
            stride: s.stride,
            record: s
                .record
                .iter()
                .map(|f| w::Field {
                    name: f.name.clone(),
                    encoding: w::encoding::Kind::from(f.encoding).into(),
                    count: f.count,
                })
                .collect(),
            fields_apart: s.placement == t::Placement::FieldsApart,
            keep: Some(match s.keep {
                t::Keep::All => w::store::Keep::All(true),
                t::Keep::Window(tokens) => w::store::Keep::Window(tokens),
                t::Keep::Value => w::store::Keep::Value(true),
            }),
        };
        let layer = |l: &t::Layer| w::Layer {
            id: l.id.0,
            reads: l
                .reads
                .iter()
                .map(|r| w::layer::Read { store: r.store.0, chosen: r.rows == t::Rows::Chosen })
                .collect(),
            choice: match l.choice {
                t::Choice::None => None,
                t::Choice::Own { scores, k } => {
                    Some(w::layer::Choice::Own(w::layer::OwnChoice { scores: scores.0, k }))
                }
                t::Choice::Reuse { layer } => Some(w::layer::Choice::Reuse(layer.0)),
            },
            draft: l.draft,
        };
        Self {
            layout: g.layout.clone(),
            stores: g.stores.iter().map(store).collect(),
            layers: g.layers.iter().map(layer).collect(),
        }
    }
}

impl TryFrom<&w::Geometry> for t::Geometry {
    type Error = Malformed;

    fn try_from(g: &w::Geometry) -> Result<Self, Malformed> {
        let field =
            |f: &w::Field| Ok(t::Field { name: f.name.clone(), encoding: encoding(f.encoding())?, count: f.count });
        let store = |s: &w::Store| {
            Ok(t::Store {
                owner: t::LayerId(s.owner),
                part: part(s.part)?,
                stride: s.stride,
                record: s.record.iter().map(field).collect::<Result<_, Malformed>>()?,
                placement: if s.fields_apart { t::Placement::FieldsApart } else { t::Placement::PerRow },
                keep: match s.keep {
                    Some(w::store::Keep::All(_)) => t::Keep::All,
                    Some(w::store::Keep::Window(tokens)) => t::Keep::Window(tokens),
                    Some(w::store::Keep::Value(_)) => t::Keep::Value,
                    None => return Err(Malformed::new("store", "it does not say what it keeps")),
                },
            })
        };
        let layer = |l: &w::Layer| t::Layer {
            id: t::LayerId(l.id),
            reads: l
                .reads
                .iter()
                .map(|r| t::Read {
                    store: t::StoreId(r.store),
                    rows: if r.chosen { t::Rows::Chosen } else { t::Rows::All },
                })
                .collect(),
            choice: match &l.choice {
                None => t::Choice::None,
                Some(w::layer::Choice::Own(own)) => t::Choice::Own { scores: t::StoreId(own.scores), k: own.k },
                Some(w::layer::Choice::Reuse(layer)) => t::Choice::Reuse { layer: t::LayerId(*layer) },
            },
            draft: l.draft,
        };
        let geometry = Self {
            layout: g.layout.clone(),
            stores: g.stores.iter().map(store).collect::<Result<_, Malformed>>()?,
            layers: g.layers.iter().map(layer).collect(),
        };
        geometry.validate().map_err(|e| Malformed::new("geometry", e.to_string()))?;
        Ok(geometry)
    }
}

impl From<&t::CacheEvent> for w::CacheEvent {
    fn from(e: &t::CacheEvent) -> Self {
        Self {
            sequence: e.sequence,
            hash: e.hash.0.to_vec(),
            stored: e.change == t::CacheChange::Stored,
            parts: e.parts.bits(),
            tier: tier_number(e.tier),
        }
    }
}

impl w::CacheEvent {
    /// The shared type; the incarnation stands once in the message around the events.
    ///
    /// # Errors
    /// When the hash or the tier is malformed.
    pub fn read(&self, incarnation: u64) -> Result<t::CacheEvent, Malformed> {
        Ok(t::CacheEvent {
            incarnation: t::Incarnation(incarnation),
            sequence: self.sequence,
            hash: t::ChainHash(id16("hash", &self.hash)?),
            change: if self.stored { t::CacheChange::Stored } else { t::CacheChange::Dropped },
            parts: t::PartSet::from_bits(self.parts),
            tier: tier(self.tier)?,
        })
    }
}

fn tier_number(tier: t::Tier) -> u32 {
    match tier {
        t::Tier::Device => 0,
        t::Tier::Host => 1,
        t::Tier::Disk => 2,
    }
}

fn tier(number: u32) -> Result<t::Tier, Malformed> {
    match number {
        0 => Ok(t::Tier::Device),
        1 => Ok(t::Tier::Host),
        2 => Ok(t::Tier::Disk),
        other => Err(Malformed::new("tier", format!("there is no tier {other}"))),
    }
}

#[cfg(test)]
mod tests;
