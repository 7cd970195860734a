//! Weights in lines: how they are cut from the checkpoint's tensors.

use std::ops::Range;

use super::depth::Depth;
use super::lines;
use crate::context::Ctx;
use crate::error::{PackError, ShapeError, UnknownToken};
use crate::number::bf16_to_f32;
use crate::panel::{Encoding, Line, PANEL};

/// Weights as a checkpoint has them, row-major [n, k].
#[derive(Clone, Copy, Debug)]
pub enum WeightRef<'a> {
    /// binary32.
    F32(&'a [f32]),
    /// bfloat16 bits.
    Bf16(&'a [u16]),
    /// The same as a file has them: little endian, at any alignment.
    Bf16Bytes(&'a [[u8; 2]]),
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
            WeightRef::Bf16Bytes(d) => d.len(),
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

    /// The first code in the rows taken that stands for no number.
    fn nan(&self, data: &[u8]) -> Option<usize> {
        let taken = self.rows.start * self.shape[1]..self.rows.end * self.shape[1];
        // The whole answer first, which runs at the speed of memory.
        let any = data[taken.clone()].iter().fold(false, |any, c| any | (c & 0x7f == 0x7f));
        any.then(|| data[taken.clone()].iter().position(|c| c & 0x7f == 0x7f)).flatten().map(|at| taken.start + at)
    }

    /// Cuts blocks along k where the tensor has them: a slice that starts within one begins with a shorter block.
    fn fp8_depth(&self, [block_rows, block_columns]: [usize; 2]) -> Depth {
        let (block, start) = if self.transposed { (block_rows, self.rows.start) } else { (block_columns, 0) };
        Depth::blocks_of(Encoding::E4m3, self.size().1, block - start % block, block)
    }

    /// The scale of every output in every block along k, [panels][blocks][16].
    fn fp8_scales(&self, depth: Depth, scales: &[f32], [block_rows, block_columns]: [usize; 2]) -> Vec<f32> {
        let n = self.size().0;
        let across = self.shape[1].div_ceil(block_columns);
        let mut out = Vec::with_capacity(n.div_ceil(PANEL) * depth.blocks() * PANEL);
        for panel in 0..n.div_ceil(PANEL) {
            for block in 0..depth.blocks() {
                out.extend((panel * PANEL..(panel + 1) * PANEL).map(|output| {
                    if output >= n {
                        return 0.0;
                    }
                    let (row, column) = self.cell(output, depth.block_k(block).start);
                    scales.get(row / block_rows * across + column / block_columns).copied().unwrap_or(0.0)
                }));
            }
        }
        out
    }

    /// Lines of the product from the tensor's data.
    fn lines<T: Weight>(&self, ctx: &Ctx, data: &[T], depth: Depth) -> Vec<Line> {
        let (n, _) = self.size();
        lines::build(ctx, n.div_ceil(PANEL), depth.lines(), |panel, at, out| {
            let outputs = panel * PANEL..((panel + 1) * PANEL).min(n);
            for block in depth.blocks_in(at..at + out.len()) {
                let (first, k) = (depth.block_line(block), depth.block_k(block));
                let from = at.max(first);
                let to = (at + out.len()).min(depth.block_line(block + 1));
                let k = k.start + (from - first) * T::LINE_K..(k.start + (to - first) * T::LINE_K).min(k.end);
                self.fill(data, outputs.clone(), k, &mut out[from - at..to - at]);
            }
        })
    }

    /// Writes the weights of some outputs of a panel and some k, the first of which begins a line.
    fn fill<T: Weight>(&self, data: &[T], outputs: Range<usize>, k: Range<usize>, out: &mut [Line]) {
        let (start, width) = (self.rows.start, self.shape[1]);
        if self.transposed {
            for (i, row) in k.map(|k| start + k).enumerate() {
                let values = &data[row * width..][outputs.clone()];
                for (column, &value) in values.iter().enumerate() {
                    value.put(&mut out[i / T::LINE_K], column, i % T::LINE_K);
                }
            }
        } else {
            for (column, row) in outputs.map(|o| start + o).enumerate() {
                T::put_row(&data[row * width..][k.clone()], column, out);
            }
        }
    }
}

/// A number of a checkpoint's tensor.
trait Weight: Copy + Send + Sync {
    /// k of a line.
    const LINE_K: usize;
    /// Puts it into a line that is zero there.
    fn put(self, line: &mut Line, column: usize, k: usize);
    /// Puts the weights of one output, the first of which begins a line, into lines that are zero there.
    fn put_row(values: &[Self], column: usize, out: &mut [Line]) {
        for (line, values) in out.iter_mut().zip(values.chunks(Self::LINE_K)) {
            values.iter().enumerate().for_each(|(k, &value)| value.put(line, column, k));
        }
    }
}

impl Weight for f32 {
    const LINE_K: usize = 1;
    #[inline]
    fn put(self, line: &mut Line, column: usize, _k: usize) {
        line.0[column] = self.to_bits();
    }
}

impl Weight for u16 {
    const LINE_K: usize = 2;
    #[inline]
    fn put(self, line: &mut Line, column: usize, k: usize) {
        line.0[column] |= u32::from(self) << (16 * k);
    }
    fn put_row(values: &[Self], column: usize, out: &mut [Line]) {
        put_pairs(values, column, out, |value| value);
    }
}

impl Weight for [u8; 2] {
    const LINE_K: usize = 2;
    #[inline]
    fn put(self, line: &mut Line, column: usize, k: usize) {
        u16::from_le_bytes(self).put(line, column, k);
    }
    fn put_row(values: &[Self], column: usize, out: &mut [Line]) {
        put_pairs(values, column, out, u16::from_le_bytes);
    }
}

/// Writes two of an output's weights at once: a word of a line is just these, and loading does little else.
#[inline]
fn put_pairs<T: Copy>(values: &[T], column: usize, out: &mut [Line], bits: impl Fn(T) -> u16) {
    let (pairs, last) = values.as_chunks::<2>();
    let bits = |value: T| u32::from(bits(value));
    for (line, [even, odd]) in out.iter_mut().zip(pairs) {
        line.0[column] = bits(*even) | bits(*odd) << 16;
    }
    if let ([last], Some(line)) = (last, out.get_mut(pairs.len())) {
        line.0[column] = bits(*last);
    }
}

impl Weight for u8 {
    const LINE_K: usize = 4;
    #[inline]
    fn put(self, line: &mut Line, column: usize, k: usize) {
        line.put_e4m3(column, k, self);
    }
}

/// Weights of one product, packed; see the head of the parent module.
#[derive(Clone)]
pub struct Linear {
    n: usize,
    encoding: Encoding,
    depth: Depth,
    k: usize,
    lines: Vec<Line>,
    /// [panels][blocks][16]; empty unless the weights are fp8.
    scales: Vec<f32>,
}

impl std::fmt::Debug for Linear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Linear").field("n", &self.n).field("k", &self.k).field("encoding", &self.encoding).finish()
    }
}

impl Linear {
    /// Packs [n, k] on the calling thread.
    ///
    /// # Errors
    /// The number of elements or of scales does not fit the shape, or an fp8 code is NaN.
    pub fn pack(weight: WeightRef<'_>, n: usize, k: usize) -> Result<Linear, PackError> {
        Self::pack_slice(&Ctx::serial(), &WeightSlice { weight, shape: [n, k], rows: 0..n, transposed: false })
    }

    /// Packs some rows of a tensor, perhaps transposed, on the threads of `ctx`.
    ///
    /// # Errors
    /// As [`Linear::pack`], or the rows are not all there.
    pub fn pack_slice(ctx: &Ctx, slice: &WeightSlice<'_>) -> Result<Linear, PackError> {
        let rows = slice.shape[0];
        slice.weight.check(slice.shape)?;
        let Range { start, end } = slice.rows;
        if end > rows || start > end {
            return Err(PackError::NoSuchRows { start, end, rows });
        }
        let (n, k) = slice.size();
        let (encoding, depth, lines, scales) = match slice.weight {
            WeightRef::F32(d) => {
                let depth = Depth::whole(Encoding::F32, k);
                (Encoding::F32, depth, slice.lines(ctx, d, depth), Vec::new())
            }
            WeightRef::Bf16(d) => {
                let depth = Depth::whole(Encoding::Bf16, k);
                (Encoding::Bf16, depth, slice.lines(ctx, d, depth), Vec::new())
            }
            WeightRef::Bf16Bytes(d) => {
                let depth = Depth::whole(Encoding::Bf16, k);
                (Encoding::Bf16, depth, slice.lines(ctx, d, depth), Vec::new())
            }
            WeightRef::Fp8 { data, scales, block } => {
                if let Some(element) = slice.nan(data) {
                    return Err(PackError::NanWeight { element });
                }
                let block = block.map(|b| b.max(1));
                let depth = slice.fp8_depth(block);
                (Encoding::E4m3, depth, slice.lines(ctx, data, depth), slice.fp8_scales(depth, scales, block))
            }
        };
        Ok(Linear { n, encoding, depth, k, lines, scales })
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
        size_of_val(&*self.lines) + size_of_val(&*self.scales)
    }

    /// The weights of one output as f32, [k]. Empty if there is no such output.
    pub fn row_f32(&self, output: usize) -> Vec<f32> {
        if output >= self.n {
            return Vec::new();
        }
        let (panel, column) = (output / PANEL, output % PANEL);
        let weight = |k: usize| {
            let (block, line) = self.depth.place(k);
            let line_k = (k - self.depth.block_k(block).start) % self.depth.line_k();
            let value = self.encoding.value(&self.lines[panel * self.depth.lines() + line], column, line_k);
            match self.encoding {
                Encoding::E4m3 => value * self.scales[(panel * self.depth.blocks() + block) * PANEL + column],
                Encoding::F32 | Encoding::Bf16 => value,
            }
        };
        (0..self.k).map(weight).collect()
    }

    pub(super) fn encoding(&self) -> Encoding {
        self.encoding
    }

    pub(super) fn depth(&self) -> Depth {
        self.depth
    }

    /// Lines from a panel's line `line` on.
    pub(super) fn lines_from(&self, panel: usize, line: usize) -> &[Line] {
        &self.lines[panel * self.depth.lines() + line..]
    }

    /// Scales from a panel's block `block` on; empty without scales.
    pub(super) fn scales_from(&self, panel: usize, block: usize) -> &[f32] {
        self.scales.get((panel * self.depth.blocks() + block) * PANEL..).unwrap_or_default()
    }
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
            WeightRef::Bf16Bytes(d) => Table::Bf16(d.iter().map(|&bits| u16::from_le_bytes(bits)).collect()),
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
