//! Weights in panels: how they are cut from the checkpoint's tensors.

use std::ops::Range;

use crate::error::{PackError, ShapeError, UnknownToken};
use crate::gemm::{Bf16, E4m3, PANEL};
use crate::number::{bf16_to_f32, e4m3_to_f32};

/// Weights as a checkpoint has them, row-major [n, k].
#[derive(Clone, Copy, Debug)]
pub enum WeightRef<'a> {
    /// binary32.
    F32(&'a [f32]),
    /// bfloat16 bits.
    Bf16(&'a [u16]),
    /// e4m3 codes with one scale for each block of `block[0]` rows and `block[1]` columns,
    /// [ceil(n / block[0]), ceil(k / block[1])]; value = code × scale.
    Fp8 {
        /// The codes.
        data: &'a [u8],
        /// The scales.
        scales: &'a [f32],
        /// Rows and columns of a block.
        block: [usize; 2],
    },
}

impl WeightRef<'_> {
    fn len(&self) -> usize {
        match self {
            WeightRef::F32(d) => d.len(),
            WeightRef::Bf16(d) => d.len(),
            WeightRef::Fp8 { data, .. } => data.len(),
        }
    }

    fn check(&self, [rows, columns]: [usize; 2]) -> Result<(), ShapeError> {
        ShapeError::check("weights", "elements", rows * columns, self.len())?;
        if let WeightRef::Fp8 { scales, block: [r, c], .. } = self {
            let blocks = rows.div_ceil((*r).max(1)) * columns.div_ceil((*c).max(1));
            ShapeError::check("weight scales", "blocks", blocks, scales.len())?;
        }
        Ok(())
    }
}

/// Rows of a tensor, as they are or transposed: how `kv_b_proj` becomes the two halves of absorbed MLA.
#[derive(Clone, Debug)]
pub struct WeightSlice<'a> {
    /// The whole tensor.
    pub weight: WeightRef<'a>,
    /// Its shape, [rows, columns].
    pub shape: [usize; 2],
    /// The rows to take.
    pub rows: Range<usize>,
    /// Whether outputs are the tensor's columns, and k its rows.
    pub transposed: bool,
}

impl WeightSlice<'_> {
    /// Outputs and inputs of the product.
    fn size(&self) -> (usize, usize) {
        let (taken, columns) = (self.rows.len(), self.shape[1]);
        if self.transposed { (columns, taken) } else { (taken, columns) }
    }

    /// Row and column of the tensor that hold (output, k).
    fn cell(&self, output: usize, k: usize) -> (usize, usize) {
        let start = self.rows.start;
        if self.transposed { (start + k, output) } else { (start + output, k) }
    }

    fn at(&self, output: usize, k: usize) -> usize {
        let (row, column) = self.cell(output, k);
        row * self.shape[1] + column
    }

    /// Cuts blocks along k where the tensor has them: a slice that starts within one begins with a shorter block.
    fn pack_fp8(&self, data: &[u8], scales: &[f32], [block_rows, block_columns]: [usize; 2]) -> Weights {
        let (n, k) = self.size();
        let (block, start) = if self.transposed { (block_rows, self.rows.start) } else { (block_columns, 0) };
        let first = block - start % block;
        let across = self.shape[1].div_ceil(block_columns);
        let scale = |output: usize, b: usize| {
            let (row, column) = self.cell(output, if b == 0 { 0 } else { first + (b - 1) * block });
            scales[row / block_rows * across + column / block_columns]
        };
        Weights::Fp8 {
            data: panels(n, k, E4m3(0), |o, k| E4m3(data[self.at(o, k)])),
            scales: panels(n, k_blocks(k, first, block), 0.0, scale),
            first,
            block,
        }
    }
}

/// Weights of one product, packed; see the head of the parent module.
#[derive(Clone, Debug)]
pub struct Linear {
    n: usize,
    k: usize,
    weights: Weights,
}

#[derive(Clone)]
pub(super) enum Weights {
    F32(Vec<f32>),
    Bf16(Vec<Bf16>),
    /// `first` is the length of the first block along k, which a slice may cut; the others have `block`.
    Fp8 {
        data: Vec<E4m3>,
        scales: Vec<f32>,
        first: usize,
        block: usize,
    },
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Weights::F32(_) => "f32",
            Weights::Bf16(_) => "bf16",
            Weights::Fp8 { .. } => "fp8",
        })
    }
}

impl Linear {
    /// Packs a whole tensor [n, k].
    ///
    /// # Errors
    /// The number of elements or scales does not fit the shape, or an e4m3 code is NaN.
    pub fn pack(weight: WeightRef<'_>, n: usize, k: usize) -> Result<Linear, PackError> {
        Self::pack_slice(&WeightSlice { weight, shape: [n, k], rows: 0..n, transposed: false })
    }

    /// Packs some rows of a tensor, perhaps transposed.
    ///
    /// # Errors
    /// As [`Linear::pack`], or the rows are not all there.
    pub fn pack_slice(slice: &WeightSlice<'_>) -> Result<Linear, PackError> {
        let rows = slice.shape[0];
        slice.weight.check(slice.shape)?;
        let Range { start, end } = slice.rows;
        if end > rows || start > end {
            return Err(PackError::NoSuchRows { start, end, rows });
        }
        let (n, k) = slice.size();
        let weights = match slice.weight {
            WeightRef::F32(d) => Weights::F32(panels(n, k, 0.0, |o, k| d[slice.at(o, k)])),
            WeightRef::Bf16(d) => Weights::Bf16(panels(n, k, Bf16(0), |o, k| Bf16(d[slice.at(o, k)]))),
            WeightRef::Fp8 { data, scales, block } => {
                if let Some(element) = data.iter().position(|c| c & 0x7f == 0x7f) {
                    return Err(PackError::NanWeight { element });
                }
                slice.pack_fp8(data, scales, block.map(|b| b.max(1)))
            }
        };
        Ok(Linear { n, k, weights })
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Memory that it holds.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::F32(d) => d.len() * 4,
            Weights::Bf16(d) => d.len() * 2,
            Weights::Fp8 { data, scales, .. } => data.len() + scales.len() * 4,
        }
    }

    /// The weights of one output as f32, [k]. Empty if there is no such output.
    pub fn row_f32(&self, output: usize) -> Vec<f32> {
        if output >= self.n {
            return Vec::new();
        }
        let (panel, lane) = (output / PANEL, output % PANEL);
        let at = |k: usize| (panel * self.k + k) * PANEL + lane;
        (0..self.k)
            .map(|k| match &self.weights {
                Weights::F32(d) => d[at(k)],
                Weights::Bf16(d) => bf16_to_f32(d[at(k)].0),
                Weights::Fp8 { data, scales, .. } => {
                    let scale = scales[(panel * self.k_blocks() + self.k_step(k, 1).0) * PANEL + lane];
                    e4m3_to_f32(data[at(k)].0) * scale
                }
            })
            .collect()
    }

    pub(super) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Scale blocks along k.
    pub(super) fn k_blocks(&self) -> usize {
        match self.weights {
            Weights::Fp8 { first, block, .. } => k_blocks(self.k, first, block),
            _ => 1,
        }
    }

    /// The scale block that `from` is in, and the end of a step of at most `most` that stays within it.
    pub(super) fn k_step(&self, from: usize, most: usize) -> (usize, usize) {
        let end = (from + most).min(self.k);
        match self.weights {
            Weights::Fp8 { first, .. } if from < first => (0, end.min(first)),
            Weights::Fp8 { first, block, .. } => {
                let index = (from - first) / block;
                (index + 1, end.min(first + (index + 1) * block))
            }
            _ => (0, end),
        }
    }
}

fn k_blocks(k: usize, first: usize, block: usize) -> usize {
    1 + k.saturating_sub(first).div_ceil(block)
}

/// Lays [n, k] out as [ceil(n / 16)][k][16].
fn panels<T: Copy>(n: usize, k: usize, zero: T, get: impl Fn(usize, usize) -> T) -> Vec<T> {
    let mut out = Vec::with_capacity(n.div_ceil(PANEL) * PANEL * k);
    for panel in 0..n.div_ceil(PANEL) {
        for k in 0..k {
            out.extend((panel * PANEL..(panel + 1) * PANEL).map(|o| if o < n { get(o, k) } else { zero }));
        }
    }
    out
}

/// The embedding of a vocabulary, [tokens, width], as the checkpoint has it.
#[derive(Clone, Debug)]
pub struct Embedding {
    width: usize,
    table: Table,
}

#[derive(Clone, Debug)]
enum Table {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
}

impl Embedding {
    /// Copies a table. An fp8 table is widened to f32.
    ///
    /// # Errors
    /// The number of elements does not fit the shape.
    pub fn new(weight: WeightRef<'_>, tokens: usize, width: usize) -> Result<Embedding, PackError> {
        weight.check([tokens, width])?;
        let table = match weight {
            WeightRef::F32(d) => Table::F32(d.to_vec()),
            WeightRef::Bf16(d) => Table::Bf16(d.to_vec()),
            WeightRef::Fp8 { .. } => {
                let packed = Linear::pack(weight, tokens, width)?;
                Table::F32((0..tokens).flat_map(|t| packed.row_f32(t)).collect())
            }
        };
        Ok(Embedding { width, table })
    }

    /// Tokens of the vocabulary.
    pub fn tokens(&self) -> usize {
        match &self.table {
            Table::F32(d) => d.len() / self.width.max(1),
            Table::Bf16(d) => d.len() / self.width.max(1),
        }
    }

    /// Memory that it holds.
    pub fn bytes(&self) -> usize {
        match &self.table {
            Table::F32(d) => d.len() * 4,
            Table::Bf16(d) => d.len() * 2,
        }
    }

    /// Writes the rows of `ids` to `out` [ids, width].
    ///
    /// # Errors
    /// A token that the vocabulary does not have.
    pub fn lookup(&self, ids: &[u32], out: &mut [f32]) -> Result<(), UnknownToken> {
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(self.width.max(1))) {
            let (row, tokens) = (id as usize, self.tokens());
            if row >= tokens {
                return Err(UnknownToken { id, tokens });
            }
            let range = row * self.width..(row + 1) * self.width;
            match &self.table {
                Table::F32(d) => out.copy_from_slice(&d[range]),
                Table::Bf16(d) => out.iter_mut().zip(&d[range]).for_each(|(o, &b)| *o = bf16_to_f32(b)),
            }
        }
        Ok(())
    }
}
