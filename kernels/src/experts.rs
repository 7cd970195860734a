//! Routed experts: rows sorted by expert, one answer for each (row, expert), and the answers added in ascending order
//! of the expert's id.

use crate::context::Ctx;
use crate::gate::Routes;
use crate::linear::{Linear, Product, linear_many};
use crate::norm::swiglu;
use crate::scratch;

/// Answers computed before they are added up; it bounds the memory of large batches.
const BATCH_ANSWERS: usize = 1024;

/// The three matrices of a SwiGLU expert.
#[derive(Clone, Copy, Debug)]
pub struct Expert<'a> {
    /// [intermediate, hidden].
    pub gate: &'a Linear,
    /// [intermediate, hidden].
    pub up: &'a Linear,
    /// [hidden, intermediate].
    pub down: &'a Linear,
}

impl Expert<'_> {
    /// The expert's answer for every row: `out = down · (silu(gate · x) × (up · x))`, `x` and `out` [rows, hidden]. The
    /// dense and the shared MLP are such experts too.
    pub fn forward(&self, ctx: &Ctx, x: &[f32], out: &mut [f32]) {
        forward(ctx, &[(*self, x.len() / self.gate.k().max(1))], x, out);
    }
}

/// Adds to `out` [rows, hidden], which holds the shared experts' answers, `weight × answer` of each row's experts,
/// in ascending order of id, in f32. `x` is [rows, hidden]; `experts` gives an expert by id.
pub fn moe_experts<'a>(
    ctx: &Ctx,
    x: &[f32],
    routes: &Routes,
    experts: &(dyn Fn(u32) -> Expert<'a> + Sync),
    out: &mut [f32],
) {
    let k = routes.k.max(1);
    let rows = routes.ids.len() / k;
    let hidden = x.len() / rows.max(1);
    // By expert, then by row: a row's answers are met in ascending order of expert.
    let mut visits: Vec<(u32, usize)> = routes.ids.iter().copied().zip(0..).collect();
    visits.sort_unstable();
    let groups: Vec<&[(u32, usize)]> = visits.chunk_by(|a, b| a.0 == b.0).collect();
    let mut rest = groups.as_slice();
    while !rest.is_empty() {
        let mut answers = 0;
        let fitting = rest.iter().take_while(|g| {
            answers += g.len();
            answers <= BATCH_ANSWERS
        });
        // One expert alone may exceed the bound; it has at most as many answers as there are rows.
        let (batch, later) = rest.split_at(fitting.count().max(1));
        rest = later;
        let visits = || batch.iter().copied().flatten();
        scratch::with(2 * visits().count() * hidden, |buffer| {
            let (gathered, answers) = buffer.split_at_mut(visits().count() * hidden);
            for (to, &(_, visit)) in gathered.chunks_exact_mut(hidden).zip(visits()) {
                to.copy_from_slice(&x[visit / k * hidden..][..hidden]);
            }
            let parts: Vec<_> = batch.iter().map(|g| (experts(g[0].0), g.len())).collect();
            forward(ctx, &parts, gathered, answers);
            for (answer, &(_, visit)) in answers.chunks_exact(hidden).zip(visits()) {
                let weight = routes.weights[visit];
                let out = &mut out[visit / k * hidden..][..hidden];
                out.iter_mut().zip(answer).for_each(|(o, &a)| *o += weight * a);
            }
        });
    }
}

/// Experts one after another, each with its number of rows, on the rows of `x`.
fn forward(ctx: &Ctx, parts: &[(Expert<'_>, usize)], x: &[f32], out: &mut [f32]) {
    let inner: usize = parts.iter().map(|(e, rows)| rows * e.gate.n()).sum();
    scratch::with(2 * inner, |buffer| {
        let (gates, ups) = buffer.split_at_mut(inner);
        let mut products = Vec::with_capacity(2 * parts.len());
        let (mut x, mut to_gate, mut to_up) = (x, &mut *gates, &mut *ups);
        for (e, rows) in parts {
            let (mine, others) = x.split_at(rows * e.gate.k());
            let (gate, gates_left) = std::mem::take(&mut to_gate).split_at_mut(rows * e.gate.n());
            let (up, ups_left) = std::mem::take(&mut to_up).split_at_mut(rows * e.gate.n());
            products.push(Product { w: e.gate, x: mine, out: gate });
            products.push(Product { w: e.up, x: mine, out: up });
            (x, to_gate, to_up) = (others, gates_left, ups_left);
        }
        linear_many(ctx, &mut products);
        scratch::with(inner, |joined| {
            swiglu(gates, ups, joined);
            let mut products = Vec::with_capacity(parts.len());
            let (mut x, mut to) = (&*joined, out);
            for (e, rows) in parts {
                let (mine, others) = x.split_at(rows * e.down.k());
                let (answer, left) = std::mem::take(&mut to).split_at_mut(rows * e.down.n());
                products.push(Product { w: e.down, x: mine, out: answer });
                (x, to) = (others, left);
            }
            linear_many(ctx, &mut products);
        });
    });
}

#[cfg(test)]
mod tests;
