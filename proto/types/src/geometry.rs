//! Cache geometry as data: what rows a model keeps, and which of them a step reads.
//!
//! A model is a list of *stores* and a list of *layers* that refer to them by number. The control plane plans, moves
//! and evicts by these lists alone; only the model crate knows what a record means. The number of stores, their owners
//! and the layers that read them are three different maps: a layer may read rows that another one owns, or reuse the
//! choice of another, and a model without an index has no index store.

use serde::{Deserialize, Serialize};

/// Tokens of a block, the unit of caching, hashing and transfer.
pub const BLOCK_TOKENS: u32 = 64;

/// How the numbers of a field are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// IEEE binary32, little endian.
    F32,
    /// bfloat16, little endian.
    Bf16,
    /// OCP e4m3fn.
    E4m3,
    /// Two's-complement bytes.
    I8,
}

impl Encoding {
    /// Bytes of one number.
    pub fn bytes(self) -> u64 {
        match self {
            Encoding::F32 => 4,
            Encoding::Bf16 => 2,
            Encoding::E4m3 | Encoding::I8 => 1,
        }
    }
}

/// A run of equal numbers in a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Field {
    /// What it is, for people.
    pub name: String,
    /// How each number is stored.
    pub encoding: Encoding,
    /// How many numbers a row has.
    pub count: u32,
}

/// How rows lie in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// Whole records one after another.
    PerRow,
    /// The first field of every row, then the second of every row, and so on.
    FieldsApart,
}

/// Which rows of a sequence are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// All, for ever: immutable rows, addressed by prefix hash.
    All,
    /// The rows of the last so many tokens.
    Window(u32),
    /// One value, at one position.
    Value,
}

/// The classes of store, all that placing, moving and evicting need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreClass {
    /// Grows; immutable; shared by prefix.
    Append,
    /// Fixed size; the last W tokens.
    Window,
    /// Fixed size; one value.
    State,
}

/// The kinds of store that are paged, moved and evicted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Index keys: every step scores all of them.
    Index,
    /// Latent rows: a step reads the chosen ones.
    Latent,
}

impl Part {
    /// Every part, in the order in which they are sent: index before latents.
    pub const ALL: [Part; 2] = [Part::Index, Part::Latent];

    /// The name in metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            Part::Index => "index",
            Part::Latent => "latent",
        }
    }

    /// Position in [`Part::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// A set of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct PartSet(u8);

impl PartSet {
    /// No part.
    pub const EMPTY: PartSet = PartSet(0);

    /// The bits, for the wire: bit `n` is `Part::ALL[n]`.
    pub fn bits(self) -> u32 {
        u32::from(self.0)
    }

    /// From the bits of the wire; bits of unknown parts are dropped.
    pub fn from_bits(bits: u32) -> Self {
        let known = (1u32 << Part::ALL.len()) - 1;
        PartSet((bits & known) as u8)
    }

    /// With one part more.
    #[must_use]
    pub fn with(self, part: Part) -> Self {
        PartSet(self.0 | 1 << part.index())
    }

    /// Without the parts of `other`.
    #[must_use]
    pub fn without(self, other: PartSet) -> Self {
        PartSet(self.0 & !other.0)
    }

    /// Whether `part` is in it.
    pub fn contains(self, part: Part) -> bool {
        self.0 & (1 << part.index()) != 0
    }

    /// Whether it has every part of `other`.
    pub fn contains_all(self, other: PartSet) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether it is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The parts, in sending order.
    pub fn iter(self) -> impl Iterator<Item = Part> {
        Part::ALL.into_iter().filter(move |p| self.contains(*p))
    }
}

impl FromIterator<Part> for PartSet {
    fn from_iter<I: IntoIterator<Item = Part>>(parts: I) -> Self {
        parts.into_iter().fold(PartSet::EMPTY, PartSet::with)
    }
}

/// Position of a store in [`Geometry::stores`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StoreId(pub u32);

/// A layer of the model, by the model's own number; draft layers follow the main ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LayerId(pub u32);

/// One kind of cache row of one owner layer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Store {
    /// The layer that writes it.
    pub owner: LayerId,
    /// What it is paged, moved and evicted with.
    pub part: Part,
    /// Tokens a row stands for.
    pub stride: u32,
    /// The fields of a row, in order.
    pub record: Vec<Field>,
    /// How rows lie in a page.
    pub placement: Placement,
    /// Which rows are kept.
    pub keep: Keep,
}

impl Store {
    /// The class, from what is kept.
    pub fn class(&self) -> StoreClass {
        match self.keep {
            Keep::All => StoreClass::Append,
            Keep::Window(_) => StoreClass::Window,
            Keep::Value => StoreClass::State,
        }
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> u64 {
        self.record.iter().map(|f| f.encoding.bytes() * u64::from(f.count)).sum()
    }

    /// Rows of a full block.
    pub fn block_rows(&self) -> u32 {
        BLOCK_TOKENS / self.stride
    }

    /// Bytes of a full block: the page of this store.
    pub fn block_bytes(&self) -> u64 {
        self.row_bytes() * u64::from(self.block_rows())
    }
}

/// Which rows of a store a step reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    /// Every earlier one.
    All,
    /// Those that the layer's choice names.
    Chosen,
}

/// A store that a layer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Read {
    /// Which store.
    pub store: StoreId,
    /// Which of its rows.
    pub rows: Rows,
}

/// How a layer chooses rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// It reads all.
    None,
    /// It scores the rows of a store and takes the best `k`.
    Own {
        /// The store that is scored.
        scores: StoreId,
        /// Rows chosen.
        k: u32,
    },
    /// It takes the choice of an earlier layer.
    Reuse {
        /// The layer that chose.
        layer: LayerId,
    },
}

/// A layer and what it reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Layer {
    /// The model's number of it.
    pub id: LayerId,
    /// The stores that a step reads.
    pub reads: Vec<Read>,
    /// How rows are chosen.
    pub choice: Choice,
    /// Whether it drafts tokens (MTP) and is no part of the main model.
    pub draft: bool,
}

/// What a model keeps and reads. Made by the model crate; everything else only counts with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Geometry {
    /// The name of the record layouts; peers with another name are refused.
    pub layout: String,
    /// The stores, addressed by [`StoreId`].
    pub stores: Vec<Store>,
    /// The layers, main ones first.
    pub layers: Vec<Layer>,
}

/// A geometry that contradicts itself, as it may come from a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// A reference to a store that is not in the list.
    #[error("layer {layer} refers to store {store}, but the geometry has {stores} stores")]
    NoSuchStore {
        /// The layer that refers.
        layer: u32,
        /// The store it names.
        store: u32,
        /// How many there are.
        stores: usize,
    },
    /// A stride that does not divide the block.
    #[error("store {store}: a stride of {stride} tokens does not divide the block of {BLOCK_TOKENS}")]
    Stride {
        /// The store.
        store: usize,
        /// Its stride.
        stride: u32,
    },
    /// A store without bytes.
    #[error("store {store}: its rows have no bytes")]
    NoBytes {
        /// The store.
        store: usize,
    },
    /// A layer reuses the choice of one that makes none, or makes it later.
    #[error("layer {layer} reuses the choice of layer {of}, which makes none before it")]
    NoChoice {
        /// The layer that reuses.
        layer: u32,
        /// The layer named.
        of: u32,
    },
}

impl Geometry {
    /// Checks that references resolve, strides divide the block, and rows have bytes.
    ///
    /// # Errors
    /// Names the first contradiction.
    pub fn validate(&self) -> Result<(), GeometryError> {
        for (store, s) in self.stores.iter().enumerate() {
            if s.stride == 0 || !BLOCK_TOKENS.is_multiple_of(s.stride) {
                return Err(GeometryError::Stride { store, stride: s.stride });
            }
            if s.row_bytes() == 0 {
                return Err(GeometryError::NoBytes { store });
            }
        }
        for (position, layer) in self.layers.iter().enumerate() {
            let scored = match layer.choice {
                Choice::Own { scores, .. } => Some(scores),
                _ => None,
            };
            for store in layer.reads.iter().map(|r| r.store).chain(scored) {
                if store.0 as usize >= self.stores.len() {
                    return Err(GeometryError::NoSuchStore {
                        layer: layer.id.0,
                        store: store.0,
                        stores: self.stores.len(),
                    });
                }
            }
            if let Choice::Reuse { layer: of } = layer.choice {
                let chooses = |l: &Layer| l.id == of && matches!(l.choice, Choice::Own { .. });
                if !self.layers[..position].iter().any(chooses) {
                    return Err(GeometryError::NoChoice { layer: layer.id.0, of: of.0 });
                }
            }
        }
        Ok(())
    }

    /// The store of that number.
    pub fn store(&self, id: StoreId) -> Option<&Store> {
        self.stores.get(id.0 as usize)
    }

    /// The parts that this model has.
    pub fn parts(&self) -> PartSet {
        self.stores.iter().map(|s| s.part).collect()
    }

    /// The stores of a part, with their numbers, in order of owner layer.
    pub fn stores_of(&self, part: Part) -> impl Iterator<Item = (StoreId, &Store)> {
        self.stores.iter().enumerate().filter(move |(_, s)| s.part == part).map(|(i, s)| (StoreId(i as u32), s))
    }

    /// The stores that a layer writes, index before latents.
    pub fn stores_owned_by(&self, layer: LayerId) -> impl Iterator<Item = StoreId> {
        Part::ALL
            .into_iter()
            .flat_map(move |part| self.stores_of(part).filter(move |(_, s)| s.owner == layer).map(|(id, _)| id))
    }

    /// Bytes of one page of a part: one block of every store of it.
    pub fn page_bytes(&self, part: Part) -> u64 {
        self.stores_of(part).map(|(_, s)| s.block_bytes()).sum()
    }

    /// Bytes that one token adds to a part, exact where strides divide the block.
    pub fn token_bytes(&self, part: Part) -> f64 {
        self.page_bytes(part) as f64 / f64::from(BLOCK_TOKENS)
    }

    /// Bytes of all parts' pages for a sequence of so many tokens (whole blocks).
    pub fn sequence_bytes(&self, tokens: u64) -> u64 {
        blocks_for(tokens) * Part::ALL.into_iter().map(|p| self.page_bytes(p)).sum::<u64>()
    }

    /// Without the draft layers and what only they own: the cache of a worker that does not speculate.
    #[must_use]
    pub fn without_drafts(&self) -> Geometry {
        let drafts: Vec<LayerId> = self.layers.iter().filter(|l| l.draft).map(|l| l.id).collect();
        let kept: Vec<usize> = (0..self.stores.len()).filter(|&i| !drafts.contains(&self.stores[i].owner)).collect();
        let renumber = |id: StoreId| StoreId(kept.iter().position(|&k| k == id.0 as usize).unwrap_or(0) as u32);
        let layers = self.layers.iter().filter(|l| !l.draft).map(|l| Layer {
            reads: l.reads.iter().map(|r| Read { store: renumber(r.store), ..*r }).collect(),
            choice: match l.choice {
                Choice::Own { scores, k } => Choice::Own { scores: renumber(scores), k },
                other => other,
            },
            ..l.clone()
        });
        Geometry {
            layout: self.layout.clone(),
            stores: kept.iter().map(|&i| self.stores[i].clone()).collect(),
            layers: layers.collect(),
        }
    }
}

/// Blocks that so many tokens fill, the last one perhaps in part.
pub fn blocks_for(tokens: u64) -> u64 {
    tokens.div_ceil(u64::from(BLOCK_TOKENS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, encoding: Encoding, count: u32) -> Field {
        Field { name: name.into(), encoding, count }
    }

    /// V3.2's two stores of one layer, and of a draft layer, in the fp8 records.
    fn v32() -> Geometry {
        let stores = [0, 1].into_iter().flat_map(|layer| {
            let latent = vec![
                field("nope", Encoding::E4m3, 512),
                field("scales", Encoding::F32, 4),
                field("rope", Encoding::Bf16, 64),
            ];
            let index = vec![field("key", Encoding::E4m3, 128), field("scale", Encoding::F32, 1)];
            let store = |part, record, placement| Store {
                owner: LayerId(layer),
                part,
                stride: 1,
                record,
                placement,
                keep: Keep::All,
            };
            [store(Part::Latent, latent, Placement::PerRow), store(Part::Index, index, Placement::FieldsApart)]
        });
        let layer = |id: u32| Layer {
            id: LayerId(id),
            reads: vec![Read { store: StoreId(2 * id), rows: Rows::Chosen }],
            choice: Choice::Own { scores: StoreId(2 * id + 1), k: 2048 },
            draft: id == 1,
        };
        Geometry { layout: "test".into(), stores: stores.collect(), layers: vec![layer(0), layer(1)] }
    }

    #[test]
    fn fp8_records_have_the_published_sizes() {
        let g = v32();
        assert_eq!(g.stores[0].row_bytes(), 656);
        assert_eq!(g.stores[1].row_bytes(), 132);
        assert_eq!(g.stores[0].block_bytes(), 41_984);
        assert_eq!(g.stores[1].block_bytes(), 8_448);
    }

    #[test]
    fn leaving_out_drafts_keeps_references_right() {
        let g = v32();
        g.validate().unwrap();
        let main = g.without_drafts();
        main.validate().unwrap();
        assert_eq!(main.stores.len(), 2);
        assert_eq!(main.page_bytes(Part::Index), 8_448);
    }

    #[test]
    fn a_reference_to_a_missing_store_is_refused() {
        let mut g = v32();
        g.stores.truncate(1);
        assert!(matches!(g.validate(), Err(GeometryError::NoSuchStore { .. })));
    }

    #[test]
    fn a_choice_is_reused_from_an_earlier_layer_only_and_rows_have_bytes() {
        let mut g = v32();
        g.layers[1].choice = Choice::Reuse { layer: LayerId(0) };
        g.validate().unwrap();
        g.layers.swap(0, 1);
        assert_eq!(g.validate(), Err(GeometryError::NoChoice { layer: 1, of: 0 }));
        let mut g = v32();
        g.stores[1].record.clear();
        assert_eq!(g.validate(), Err(GeometryError::NoBytes { store: 1 }));
    }

    #[test]
    fn sequences_take_whole_blocks() {
        let g = v32().without_drafts();
        assert_eq!(g.sequence_bytes(1), 41_984 + 8_448);
        assert_eq!(g.sequence_bytes(64), g.sequence_bytes(1));
        assert_eq!(g.sequence_bytes(65), 2 * g.sequence_bytes(1));
    }

    #[test]
    fn part_sets_round_trip_their_bits() {
        for bits in 0..4 {
            assert_eq!(PartSet::from_bits(bits).bits(), bits);
        }
        assert_eq!(PartSet::from_bits(0xff).bits(), 3);
    }
}
