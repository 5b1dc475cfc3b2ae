//! The layers of an image encoder: `LayerNorm`, biases, full attention, GELU without a gate.

use std::ops::Range;

use super::product::{Inputs, RowNorm, helping, lock, multiply, room, view};
use super::{LayerNorm, Machine, Mode, ShapeError, check, check_len, rows_of};
use crate::formats::Weights;
use crate::gelu::bias_gelu;
use crate::kv::{KvStore, PAGE};
use crate::matmul::{self, Needs};
use crate::norm::layer_norm as norm_row;
use crate::team::Disjoint;

/// y @ weights^T + bias.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    /// [outputs, inputs].
    pub weights: Weights<'a>,
    /// [outputs].
    pub bias: &'a [f32],
}

impl Linear<'_> {
    fn check(&self, name: &str, cols: usize) -> Result<(), ShapeError> {
        check_len(name, self.bias.len(), self.weights.rows())?;
        check(self.weights.cols() == cols, || {
            format!("{name}: {} columns for rows of {cols} values", self.weights.cols())
        })
    }
}

/// out = x @ proj^T + bias. x: [n, D], out: [n, rows of proj].
///
/// # Errors
/// When shapes do not fit.
pub fn linear(machine: &Machine, x: &[f32], proj: Linear<'_>, out: &mut [f32], mode: Mode) -> Result<(), ShapeError> {
    let tokens = rows_of("x", x, proj.weights.cols())?;
    check_len("out", out.len(), tokens * proj.weights.rows())?;
    let out = Disjoint::new(out);
    product(machine, x, RowNorm::None, proj, Some(&out), mode, |product, bias, _| add(product, bias))
}

/// out = `gelu_tanh`(norm(x) @ proj^T + bias). x: [n, D], out: [n, F].
///
/// # Errors
/// When shapes do not fit.
pub fn norm_gelu(
    machine: &Machine,
    x: &[f32],
    norm: LayerNorm<'_>,
    proj: Linear<'_>,
    out: &mut [f32],
    mode: Mode,
) -> Result<(), ShapeError> {
    let tokens = rows_of("x", x, proj.weights.cols())?;
    check_len("out", out.len(), tokens * proj.weights.rows())?;
    norm.check(proj.weights.cols())?;
    let (isa, out) = (machine.isa, Disjoint::new(out));
    product(machine, x, RowNorm::Layer(norm), proj, Some(&out), mode, |product, bias, _| {
        bias_gelu(isa, product, bias);
    })
}

/// x += h @ proj^T + bias. x: [n, D], h: [n, columns of proj].
///
/// # Errors
/// When shapes do not fit.
pub fn linear_add(machine: &Machine, x: &mut [f32], h: &[f32], proj: Linear<'_>, mode: Mode) -> Result<(), ShapeError> {
    let tokens = rows_of("h", h, proj.weights.cols())?;
    check_len("x", x.len(), tokens * proj.weights.rows())?;
    let x = Disjoint::new(x);
    product(machine, h, RowNorm::None, proj, None, mode, |product, bias, at| {
        add(product, bias);
        // SAFETY: these columns of the product are this member's own, hence so are those of x.
        add(unsafe { x.range(at) }, product);
    })
}

/// out = norm(x). x, out: [n, D].
///
/// # Errors
/// When shapes do not fit.
pub fn layer_norm(machine: &Machine, x: &[f32], norm: LayerNorm<'_>, out: &mut [f32]) -> Result<(), ShapeError> {
    let width = norm.weight.len();
    let tokens = rows_of("x", x, width)?;
    norm.check(width)?;
    check_len("out", out.len(), x.len())?;
    let (isa, out) = (machine.isa, Disjoint::new(out));
    machine.with(|team, _| {
        team.run(|worker| {
            worker.share(0, tokens, 8, |range| {
                for token in range {
                    let at = token * width..(token + 1) * width;
                    // SAFETY: the share hands every token to one member.
                    let row = unsafe { out.range(at.clone()) };
                    norm_row(isa, &x[at], norm.weight, norm.bias, norm.eps, row);
                }
            });
        });
    });
    Ok(())
}

/// q = y @ q^T + bias with y = norm(x); keys and values likewise go to layer 0 of the store.
///
/// Token t has position `start` + t; page j of the store holds positions 64 j to 64 j + 63. x: [n, D], q: [n, heads *
/// `head_dim`].
///
/// # Errors
/// When shapes do not fit or a page is missing; nothing is written then.
pub fn encoder_qkv(
    machine: &Machine,
    x: &[f32],
    norm: LayerNorm<'_>,
    projections: [Linear<'_>; 3],
    start: usize,
    store: &mut KvStore,
    q: &mut [f32],
    mode: Mode,
) -> Result<(), ShapeError> {
    let [q_proj, k_proj, v_proj] = projections;
    let (cols, dim, kv_width) = (q_proj.weights.cols(), store.head_dim(), store.head_dim() * store.kv_heads());
    let tokens = rows_of("x", x, cols)?;
    for (name, linear) in [("q_proj", q_proj), ("k_proj", k_proj), ("v_proj", v_proj)] {
        linear.check(name, cols)?;
        check_len(name, linear.weights.rows(), kv_width)?;
    }
    norm.check(cols)?;
    check_len("q", q.len(), tokens * kv_width)?;
    check(store.pages() >= start.saturating_add(tokens).div_ceil(PAGE), || {
        format!("the store's {} pages do not hold positions up to {start} + {tokens}", store.pages())
    })?;
    let needs = Needs::of(machine.isa, &projections.map(|linear| linear.weights), mode);
    let inputs = Inputs { values: x, cols, rows: None, norm: RowNorm::Layer(norm), needs };
    let isa = machine.isa;
    let (q, writer) = (Disjoint::new(q), store.writer());
    machine.with(|team, workspace| {
        inputs.reset(&mut workspace.shared);
        let (shared, members) = (&workspace.shared, &workspace.members);
        let [keys, values] = &mut workspace.products;
        let keys = Disjoint::new(room(keys, tokens * kv_width));
        let values = Disjoint::new(room(values, tokens * kv_width));
        team.run(|worker| {
            let member = &mut *lock(&members[worker.index]);
            let acts = inputs.write(worker, 0, isa, shared, &mut member.own, &mut member.row);
            multiply(worker, 1, isa, &q_proj.weights, acts, mode, &q, &mut member.scratch);
            multiply(worker, 2, isa, &k_proj.weights, acts, mode, &keys, &mut member.scratch);
            multiply(worker, 3, isa, &v_proj.weights, acts, mode, &values, &mut member.scratch);
            worker.barrier();
            worker.share(4, tokens, 16, |range| {
                for token in range {
                    let at = token * kv_width..(token + 1) * kv_width;
                    // SAFETY: the share hands every token to one member, behind all writes of the products.
                    let (q, k, v) = unsafe { (q.range(at.clone()), keys.range(at.clone()), values.range(at)) };
                    add(q, q_proj.bias);
                    add(k, k_proj.bias);
                    add(v, v_proj.bias);
                    let (page, slot) = ((start + token) / PAGE, (start + token) % PAGE);
                    for (head, (k, v)) in k.chunks_exact(dim).zip(v.chunks_exact(dim)).enumerate() {
                        // SAFETY: every position is one token's; nobody reads during the region.
                        unsafe { writer.write(page, 0, head, slot, k, v) };
                    }
                }
            });
        });
    });
    Ok(())
}

/// Products of the rows of `values`, each stretch of columns passed to `finish` with its bias and its place.
///
/// They are written to `out`, or to scratch memory when there is none.
fn product(
    machine: &Machine,
    values: &[f32],
    norm: RowNorm<'_>,
    proj: Linear<'_>,
    out: Option<&Disjoint<'_, f32>>,
    mode: Mode,
    finish: impl Fn(&mut [f32], &[f32], Range<usize>) + Sync,
) -> Result<(), ShapeError> {
    let (width, cols) = (proj.weights.rows(), proj.weights.cols());
    proj.check("proj", cols)?;
    let needs = Needs::of(machine.isa, &[proj.weights], mode);
    let inputs = Inputs { values, cols, rows: None, norm, needs };
    let (isa, tokens) = (machine.isa, inputs.tokens());
    machine.with(|team, workspace| {
        inputs.reset(&mut workspace.shared);
        let (shared, members) = (&workspace.shared, &workspace.members);
        let own = out.is_none().then(|| Disjoint::new(room(&mut workspace.products[0], tokens * width)));
        let Some(product) = out.or(own.as_ref()) else { return };
        team.run(|worker| {
            let member = &mut *lock(&members[worker.index]);
            let acts = inputs.write(worker, 0, isa, shared, &mut member.own, &mut member.row);
            worker.stream(1, width, helping(width, tokens, worker.count), |rows| {
                // SAFETY: the share hands every row of the matrix, a column of the product, to one member.
                let view = unsafe { view(product, width) };
                matmul::multiply(isa, &proj.weights, rows.clone(), acts, mode, view, &mut member.scratch);
                for token in 0..tokens {
                    let at = token * width + rows.start..token * width + rows.end;
                    // SAFETY: as above: this member's own columns.
                    finish(unsafe { product.range(at.clone()) }, &proj.bias[rows.clone()], at);
                }
            });
        });
    });
    Ok(())
}

/// x += y, one rounding each.
fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}
