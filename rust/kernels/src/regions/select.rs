//! What the sampler asks, row by row over the team.

use super::{Machine, ShapeError, check_len, rows_of};
use crate::select;
use crate::team::Disjoint;

/// The k largest of each row of `logits` [w, cols] in falling order, ties by smaller id: ids and values [w, k].
///
/// # Errors
/// When shapes do not fit or k exceeds cols.
pub fn top_k(
    machine: &Machine,
    logits: &[f32],
    cols: usize,
    k: usize,
    ids: &mut [i32],
    values: &mut [f32],
) -> Result<(), ShapeError> {
    let rows = rows_of("logits", logits, cols)?;
    check_len("k", k.min(cols), k)?;
    check_len("ids", ids.len(), rows * k)?;
    check_len("values", values.len(), rows * k)?;
    let (ids, values) = (Disjoint::new(ids), Disjoint::new(values));
    machine.team.run(|worker| {
        worker.share(0, rows, 1, |range| {
            for row in range {
                let (best, largest) = select::top_k(machine.isa, &logits[row * cols..][..cols], k);
                let at = row * k..(row + 1) * k;
                // SAFETY: the share hands every row to one member.
                let (ids, values) = unsafe { (ids.range(at.clone()), values.range(at)) };
                for (to, from) in ids.iter_mut().zip(best) {
                    *to = from as i32;
                }
                values.copy_from_slice(&largest);
            }
        });
    });
    Ok(())
}

/// log(sum(exp(row))) of each row of `logits` [w, cols].
///
/// # Errors
/// When shapes do not fit.
pub fn log_sum_exp(machine: &Machine, logits: &[f32], cols: usize, out: &mut [f64]) -> Result<(), ShapeError> {
    let rows = rows_of("logits", logits, cols)?;
    check_len("out", out.len(), rows)?;
    let out = Disjoint::new(out);
    machine.team.run(|worker| {
        worker.share(0, rows, 1, |range| {
            for row in range {
                let sum = select::log_sum_exp(machine.isa, &logits[row * cols..][..cols]);
                // SAFETY: the share hands every row to one member.
                unsafe { out.range(row..row + 1).fill(sum) };
            }
        });
    });
    Ok(())
}
