//! The gated feed-forward block.

use std::ops::Range;

use super::product::{Inputs, Member, RowNorm, add_branch, helping, lock, multiply, room};
use super::{Machine, Mode, Norm, ShapeError, check, check_len, rows_of};
use crate::formats::Weights;
use crate::gelu::gated_gelu;
use crate::isa::Isa;
use crate::matmul::{self, Activations, COLUMNS, Needs, OutView, TILE};
use crate::team::Disjoint;

/// Neurons that are computed together where their activations are quantised at once: the products of a long prompt stay in
/// the cache.
const NEURONS: usize = 64;

/// Groups of columns for each member that make it worth giving out whole ones.
const GROUPS: usize = 8;

/// x += `post_norm`(h @ down^T) with h = `gelu_tanh`(y @ gate^T) * (y @ up^T) and y = norm(x). x: [n, D].
///
/// hidden: where h [n, F] is left, if somebody wants to see it.
///
/// # Errors
/// When shapes do not fit.
pub fn feed_forward(
    machine: &Machine,
    x: &mut [f32],
    norm: Norm<'_>,
    gate_and_up: [Weights<'_>; 2],
    down: Weights<'_>,
    post_norm: Norm<'_>,
    hidden: Option<&mut [f32]>,
    mode: Mode,
) -> Result<(), ShapeError> {
    let [gate, up] = gate_and_up;
    let (width, cols) = (gate.rows(), gate.cols());
    let tokens = rows_of("x", x, cols)?;
    check(up.rows() == width && up.cols() == cols, || {
        format!("up is [{}, {}], gate is [{width}, {cols}]", up.rows(), up.cols())
    })?;
    check(down.rows() == cols && down.cols() == width, || {
        format!("down is [{}, {}], gate is [{width}, {cols}]", down.rows(), down.cols())
    })?;
    check_len("norm", norm.weight.len(), cols)?;
    check_len("post_norm", post_norm.weight.len(), cols)?;
    if let Some(hidden) = &hidden {
        check_len("hidden", hidden.len(), tokens * width)?;
    }
    let isa = machine.isa;
    let needs = Needs::of(isa, &gate_and_up, mode);
    let hidden_needs = Needs::of(isa, &[down], mode);
    let groups = width.div_ceil(COLUMNS);
    // A group of columns is quantised by who has computed it, while it is in the cache.
    let at_once = hidden.is_none() && !hidden_needs.f32 && tokens > TILE && groups >= GROUPS * machine.team.threads();
    let x = Disjoint::new(x);
    machine.with(|team, workspace| {
        // SAFETY: nobody writes to x before the barriers that all readers of these rows have passed.
        let values = unsafe { x.read() };
        let inputs = Inputs { values, cols, rows: None, norm: RowNorm::Rms(norm), needs };
        inputs.reset(&mut workspace.shared);
        let [product, rows] = &mut workspace.products;
        let product = Disjoint::new(room(product, tokens * cols));
        let rows = match hidden {
            Some(hidden) => Disjoint::new(hidden),
            None => Disjoint::new(room(rows, if at_once { 0 } else { tokens * width })),
        };
        if tokens > TILE {
            workspace.hidden.reset(tokens, width, hidden_needs);
        }
        let (shared, hidden, members) = (&workspace.shared, &workspace.hidden, &workspace.members);
        team.run(|worker| {
            let Member { own, scratch, row, products, .. } = &mut *lock(&members[worker.index]);
            let block = Block { isa, gate_and_up: &gate_and_up, mode };
            let acts = inputs.write(worker, 0, isa, shared, own, row);
            let acts = if at_once {
                let [results, values] = products;
                worker.stream(1, groups, 1, |range| {
                    for index in range {
                        let columns = index * COLUMNS..width.min((index + 1) * COLUMNS);
                        let count = columns.len();
                        let values = room(values, tokens * count);
                        for first in columns.clone().step_by(NEURONS) {
                            let rows = first..columns.end.min(first + NEURONS);
                            let at = first - columns.start;
                            block.compute(acts, rows.clone(), results, scratch, |token, gate, up| {
                                gated_gelu(isa, gate, up, &mut values[token * count + at..][..rows.len()]);
                            });
                        }
                        // SAFETY: the share hands every group to one member; readers wait at the barrier below.
                        unsafe { hidden.write_columns(index, values) };
                    }
                });
                worker.barrier();
                hidden
            } else {
                let [results, _] = products;
                worker.stream(1, width, helping(width, tokens, worker.count), |range| {
                    block.compute(acts, range.clone(), results, scratch, |token, gate, up| {
                        // SAFETY: the share hands every column to one member.
                        let out = unsafe { rows.range(token * width + range.start..token * width + range.end) };
                        gated_gelu(isa, gate, up, out);
                    });
                });
                worker.barrier();
                // SAFETY: all of them are written, and only read from here on.
                let values = unsafe { rows.read() };
                let inputs = Inputs { values, cols: width, rows: None, norm: RowNorm::None, needs: hidden_needs };
                inputs.write(worker, 2, isa, hidden, own, row)
            };
            multiply(worker, 3, isa, &down, acts, mode, &product, scratch);
            worker.barrier();
            add_branch(worker, 4, isa, &x, &product, post_norm);
        });
    });
    Ok(())
}

/// The gated half of the block.
struct Block<'a> {
    isa: Isa,
    gate_and_up: &'a [Weights<'a>; 2],
    mode: Mode,
}

impl Block<'_> {
    /// Hands the products of `rows` of gate and up to `finish`, token by token.
    fn compute(
        &self,
        x: &Activations,
        rows: Range<usize>,
        results: &mut Vec<f32>,
        scratch: &mut matmul::Scratch,
        mut finish: impl FnMut(usize, &[f32], &[f32]),
    ) {
        // Rows of results as short as this stay in the cache until they are gated.
        let size = x.tokens() * rows.len();
        let (gates, ups) = room(results, 2 * size).split_at_mut(size);
        for (weights, product) in self.gate_and_up.iter().zip([&mut *gates, &mut *ups]) {
            let view = OutView::new(product, rows.len(), 0).from_row(rows.start);
            matmul::multiply(self.isa, weights, rows.clone(), x, self.mode, view, scratch);
        }
        let results = gates.chunks_exact(rows.len()).zip(ups.chunks_exact(rows.len()));
        for (token, (gate, up)) in results.enumerate() {
            finish(token, gate, up);
        }
    }
}
