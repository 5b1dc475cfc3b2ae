//! Projections of attended values back into the residual stream, and the head.

use super::product::{Inputs, RowNorm, add_branch, lock, multiply, room};
use super::{Machine, Mode, Norm, ShapeError, check, check_len, rows_of};
use crate::formats::Weights;
use crate::matmul::Needs;
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
            add_branch(worker, 2, isa, &x, &product, norm);
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
    check_head(x, rows, norm, proj, out)?;
    if rows.is_empty() {
        return Ok(());
    }
    let needs = Needs::of(machine.isa, &[proj], mode);
    let inputs = Inputs { values: x, cols: proj.cols(), rows: Some(rows), norm: RowNorm::Rms(norm), needs };
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

/// Whether the shapes of [`head`] fit.
pub(super) fn check_head(
    x: &[f32],
    rows: &[i32],
    norm: Norm<'_>,
    proj: Weights<'_>,
    out: &[f32],
) -> Result<(), ShapeError> {
    let tokens = rows_of("x", x, proj.cols())?;
    check(rows.iter().all(|&row| usize::try_from(row).is_ok_and(|row| row < tokens)), || {
        format!("wanted rows must be in 0..{tokens}")
    })?;
    check_len("norm", norm.weight.len(), proj.cols())?;
    check_len("out", out.len(), rows.len() * proj.rows())
}
