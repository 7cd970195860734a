//! What reads the cache: the indexer's scan, and attention over chosen rows and over all.

use std::hint::black_box;
use std::sync::Arc;

use hadal_types::KvEncoding;

use super::{Noise, Shapes, unit_of};
use crate::attention::{AttentionRows, AttentionShape, Keys, mla_attention};
use crate::bench::{Case, Unit, Work};
use crate::cache::{IndexCodec, LatentCodec, PAGE_ROWS, Paged};
use crate::context::Ctx;
use crate::index::{Choice, IndexQueries, IndexRows, IndexShape, Margin, index_select};

/// Queries of one sequence that are scanned for together.
const QUERIES: usize = 8;
/// Choices that runs of sparse attention take in turn, so that its rows come from memory.
const CHOICES: usize = 64;

pub(super) fn cases(ctx: &Ctx, s: &Shapes) -> Vec<Case> {
    let mut cases = Vec::new();
    for encoding in [KvEncoding::Bf16, KvEncoding::Fp8, KvEncoding::Int8Index] {
        let pool = Arc::new(IndexPool::new(s, encoding));
        cases.extend([1, QUERIES].map(|rows| index(ctx, s, &pool, rows)));
    }
    for encoding in [KvEncoding::Bf16, KvEncoding::Fp8] {
        let pool = Arc::new(LatentPool::new(s, encoding));
        cases.push(sparse(ctx, s, &pool));
        cases.push(dense(ctx, s, &pool));
    }
    cases
}

/// Index keys of one sequence.
struct IndexPool {
    codec: IndexCodec,
    bytes: Vec<u8>,
    pages: Vec<u32>,
}

impl IndexPool {
    fn new(s: &Shapes, encoding: KvEncoding) -> Self {
        let codec = IndexCodec::new(encoding, s.index_dim);
        let blocks = s.tokens.div_ceil(PAGE_ROWS);
        let mut bytes = vec![0; blocks * codec.page_bytes()];
        let mut noise = Noise(11);
        for position in 0..s.tokens {
            let page = &mut bytes[position / PAGE_ROWS * codec.page_bytes()..];
            codec.encode(page, position % PAGE_ROWS, &noise.numbers(codec.dim()));
        }
        Self { codec, bytes, pages: (0..blocks as u32).collect() }
    }
}

/// The choice for the last `rows` positions.
fn index(ctx: &Ctx, s: &Shapes, pool: &Arc<IndexPool>, rows: usize) -> Case {
    let shape = IndexShape { codec: pool.codec, heads: s.index_heads, k: s.topk };
    let (q, w) = (Noise(12).numbers(rows * s.index_heads * s.index_dim), Noise(13).numbers(rows * s.index_heads));
    let name = match pool.codec.encoding() {
        KvEncoding::Bf16 => "bf16",
        KvEncoding::Fp8 => "fp8",
        _ => "int8",
    };
    let work = Work {
        bytes: (s.tokens * pool.codec.row_bytes()) as f64,
        working_set: pool.bytes.len(),
        operations: 2.0 * (rows * s.tokens * s.index_heads * s.index_dim) as f64,
        unit: if name == "int8" { Unit::Int8 } else { unit_of(ctx) },
    };
    let text = format!("{rows} × {} × {}, {} keys", s.index_heads, s.index_dim, s.tokens);
    let (ctx, pool, start, mut choice) = (ctx.clone(), pool.clone(), (s.tokens - rows) as u32, Choice::default());
    Case::new(format!("index_{name}_{rows}"), text, work, move || {
        let Ok(keys) = Paged::new(&pool.bytes, pool.codec.page_bytes(), &pool.pages) else { return };
        // These numbers are finite, and so are their scores.
        let _ = index_select(
            &ctx,
            &shape,
            &[IndexRows { keys, start, rows, from: 0 }],
            IndexQueries { q: &q, w: &w },
            &mut choice,
        );
        black_box(&mut choice);
    })
}

/// Latent rows of one sequence.
struct LatentPool {
    codec: LatentCodec,
    name: KvEncoding,
    bytes: Vec<u8>,
    pages: Vec<u32>,
}

impl LatentPool {
    fn new(s: &Shapes, encoding: KvEncoding) -> Self {
        let codec = LatentCodec::new(encoding, s.rank, s.rope);
        let blocks = s.tokens.div_ceil(PAGE_ROWS);
        let mut bytes = vec![0; blocks * codec.page_bytes()];
        let mut noise = Noise(14);
        for position in 0..s.tokens {
            let page = &mut bytes[position / PAGE_ROWS * codec.page_bytes()..];
            codec.encode(page, position % PAGE_ROWS, &noise.numbers(s.rank), &noise.numbers(s.rope));
        }
        Self { codec, name: encoding, bytes, pages: (0..blocks as u32).collect() }
    }
}

/// One query over the rows chosen for it, of which every run has others.
fn sparse(ctx: &Ctx, s: &Shapes, pool: &Arc<LatentPool>) -> Case {
    let mut choice = Choice::default();
    let step = (s.tokens / s.topk).max(1);
    for turn in 0..CHOICES {
        choice.push((0..s.topk.min(s.tokens)).map(|i| (i * step + (i * 7 + turn) % step) as u32), Margin::ALL);
    }
    attention(ctx, s, pool, Some(choice))
}

/// One query over all rows.
fn dense(ctx: &Ctx, s: &Shapes, pool: &Arc<LatentPool>) -> Case {
    attention(ctx, s, pool, None)
}

/// Runs take the rows of the choice in turn; all positions where there is none.
fn attention(ctx: &Ctx, s: &Shapes, pool: &Arc<LatentPool>, choice: Option<Choice>) -> Case {
    let width = pool.codec.width();
    let (kind, read) = choice.as_ref().map_or(("dense", s.tokens), |c| ("sparse", c.row(0).len()));
    let shape = AttentionShape { codec: pool.codec, heads: s.heads, scale: 1.0 / (width as f32).sqrt() };
    let (q, mut out) = (Noise(15).numbers(s.heads * width), vec![0.0; s.heads * s.rank]);
    let work = Work {
        bytes: (read * pool.codec.row_bytes()) as f64,
        working_set: pool.bytes.len(),
        operations: 2.0 * (read * s.heads * (width + s.rank)) as f64,
        unit: unit_of(ctx),
    };
    let (name, text) = (pool.name, format!("{} × {width}, {read} of {} rows", s.heads, s.tokens));
    let (ctx, pool, start, mut turn) = (ctx.clone(), pool.clone(), s.tokens as u32 - 1, 0);
    Case::new(format!("mla_{kind}_{name}"), text, work, move || {
        let Ok(cache) = Paged::new(&pool.bytes, pool.codec.page_bytes(), &pool.pages) else { return };
        let keys = match &choice {
            Some(choice) => Keys::Chosen { choice, first: turn % choice.rows() },
            None => Keys::All,
        };
        let rows = AttentionRows { cache, start, rows: 1, from: 0, keys };
        mla_attention(&ctx, &shape, &[rows], &q, &mut out);
        black_box(&mut out);
        turn += 1;
    })
}
