//! Projections back into the residual stream, the gated feed-forward input, and the head.

use super::product::{Inputs, Member, RowNorm, helping, lock, multiply, room};
use super::{Machine, Mode, Norm, ShapeError, check, check_len, rows_of};
use crate::formats::Weights;
use crate::gelu::gated_gelu as gate_row;
use crate::matmul::{self, Needs, OutView};
use crate::norm::add_norm;
use crate::team::Disjoint;

/// x += norm(h @ proj^T). x: [n, D], h: [n, cols of proj].
///
/// # Errors
/// When shapes do not fit.
pub fn project_add(
    machine: &Machine,
    x: &mut [f32],
    h: &[f32],
    proj: Weights<'_>,
    norm: Norm<'_>,
    mode: Mode,
) -> Result<(), ShapeError> {
    let (width, cols) = (proj.rows(), proj.cols());
    let tokens = rows_of("h", h, cols)?;
    check_len("x", x.len(), tokens * width)?;
    check_len("norm", norm.weight.len(), width)?;
    let inputs =
        Inputs { values: h, cols, rows: None, norm: RowNorm::None, needs: Needs::of(machine.isa, &[proj], mode) };
    let isa = machine.isa;
    let x = Disjoint::new(x);
    machine.with(|team, workspace| {
        inputs.reset(&mut workspace.shared);
        let (shared, members) = (&workspace.shared, &workspace.members);
        let product = Disjoint::new(room(&mut workspace.products[0], tokens * width));
        team.run(|worker| {
            let member = &mut *lock(&members[worker.index]);
            let acts = inputs.write(worker, 0, isa, shared, &mut member.own, &mut member.row);
            multiply(worker, 1, isa, &proj, acts, mode, &product, &mut member.scratch);
            worker.barrier();
            worker.share(2, tokens, 8, |range| {
                for token in range {
                    let at = token * width..(token + 1) * width;
                    // SAFETY: the share hands every token to one member; the product is complete and only read.
                    let (row, branch) = unsafe { (x.range(at.clone()), product.range(at)) };
                    add_norm(isa, row, branch, norm.weight, norm.eps);
                }
            });
        });
    });
    Ok(())
}

/// out = `gelu_tanh`(y @ gate^T) * (y @ up^T) with y = norm(x). x: [n, D], out: [n, F].
///
/// # Errors
/// When shapes do not fit.
pub fn gated_gelu(
    machine: &Machine,
    x: &[f32],
    norm: Norm<'_>,
    gate: Weights<'_>,
    up: Weights<'_>,
    out: &mut [f32],
    mode: Mode,
) -> Result<(), ShapeError> {
    let (width, cols) = (gate.rows(), gate.cols());
    let tokens = rows_of("x", x, cols)?;
    check(up.rows() == width && up.cols() == cols, || {
        format!("up is [{}, {}], gate is [{width}, {cols}]", up.rows(), up.cols())
    })?;
    check_len("norm", norm.weight.len(), cols)?;
    check_len("out", out.len(), tokens * width)?;
    let needs = Needs::of(machine.isa, &[gate, up], mode);
    let inputs = Inputs { values: x, cols, rows: None, norm: RowNorm::Rms(norm), needs };
    let isa = machine.isa;
    let out = Disjoint::new(out);
    machine.with(|team, workspace| {
        inputs.reset(&mut workspace.shared);
        let (shared, members) = (&workspace.shared, &workspace.members);
        team.run(|worker| {
            let Member { own, scratch, row, products } = &mut *lock(&members[worker.index]);
            let acts = inputs.write(worker, 0, isa, shared, own, row);
            let [gates, ups] = products;
            worker.stream(1, width, helping(width, tokens, worker.count), |rows| {
                // Rows of results as short as the helping stay in the cache until they are gated.
                let (gates, ups) = (room(gates, tokens * rows.len()), room(ups, tokens * rows.len()));
                for (weights, product) in [(&gate, &mut *gates), (&up, &mut *ups)] {
                    let view = OutView::new(product, rows.len(), 0).from_row(rows.start);
                    matmul::multiply(isa, weights, rows.clone(), acts, mode, view, scratch);
                }
                let results = gates.chunks_exact(rows.len()).zip(ups.chunks_exact(rows.len()));
                for (token, (gate, up)) in results.enumerate() {
                    // SAFETY: the share hands every column to one member.
                    let out = unsafe { out.range(token * width + rows.start..token * width + rows.end) };
                    gate_row(isa, gate, up, out);
                }
            });
        });
    });
    Ok(())
}

/// logits = norm(x[rows]) @ proj^T. x: [n, D], rows: [w], out: [w, V].
///
/// # Errors
/// When shapes do not fit or a row does not exist.
pub fn head(
    machine: &Machine,
    x: &[f32],
    rows: &[i32],
    norm: Norm<'_>,
    proj: Weights<'_>,
    out: &mut [f32],
    mode: Mode,
) -> Result<(), ShapeError> {
    let (width, cols) = (proj.rows(), proj.cols());
    let tokens = rows_of("x", x, cols)?;
    check(rows.iter().all(|&row| usize::try_from(row).is_ok_and(|row| row < tokens)), || {
        format!("wanted rows must be in 0..{tokens}")
    })?;
    check_len("norm", norm.weight.len(), cols)?;
    check_len("out", out.len(), rows.len() * width)?;
    if rows.is_empty() {
        return Ok(());
    }
    let needs = Needs::of(machine.isa, &[proj], mode);
    let inputs = Inputs { values: x, cols, rows: Some(rows), norm: RowNorm::Rms(norm), needs };
    let isa = machine.isa;
    let out = Disjoint::new(out);
    machine.with(|team, workspace| {
        inputs.reset(&mut workspace.shared);
        let (shared, members) = (&workspace.shared, &workspace.members);
        team.run(|worker| {
            let member = &mut *lock(&members[worker.index]);
            let acts = inputs.write(worker, 0, isa, shared, &mut member.own, &mut member.row);
            multiply(worker, 1, isa, &proj, acts, mode, &out, &mut member.scratch);
        });
    });
    Ok(())
}
