//! Operations on tensors, batch-invariant: a row's result has the same bits whatever the number of rows, threads,
//! chunks and pages. Shapes are row-major and in elements; every operation works on f32 slices of the caller.
//!
//! Unsafe code is in files named `avx512.rs` and `avx2.rs`, in `linear/lines.rs`, `linear/output.rs` and
//! `pool.rs` alone. To run its tests under the address
//! sanitizer with the stable toolchain:
//!
//! ```text
//! RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address \
//!     cargo test -p hadal-kernels --target x86_64-unknown-linux-gnu --lib
//! ```

mod attention;
pub mod bench;
mod cache;
mod context;
mod error;
mod experts;
mod gate;
mod gemm;
mod index;
mod linear;
pub mod math;
mod norm;
pub mod number;
mod panel;
pub mod philox;
mod pool;
mod rope;
mod sample;
mod scratch;
#[cfg(test)]
mod testing;
mod topk;

pub use attention::{AttentionRows, AttentionShape, Keys, mla_attention};
pub use cache::{IndexCodec, LatentCodec, PAGE_ROWS, Paged, PagedError};
pub use context::{Ctx, Path, PathError, PathUnavailable};
pub use error::{NotFinite, PackError, ShapeError, UnknownToken};
pub use experts::{Expert, moe_experts};
pub use gate::{Gate, GateScore, GroupScore, Routes, moe_gate};
pub use index::{Choice, IndexQueries, IndexRows, IndexShape, Margin, index_scores, index_select};
pub use linear::{Embedding, Linear, Product, WeightRef, WeightSlice, linear, linear_many};
pub use norm::{add, layer_norm, rms_norm, swiglu};
pub use pool::Pool;
pub use rope::{RopeLayout, rope, rope_angles};
pub use sample::{History, SampleScratch, Sampled, greedy, sample};

/// Raised with every change that alters the bits of any result; part of the numerics class.
pub const NUMERICS_VERSION: u32 = 4;
