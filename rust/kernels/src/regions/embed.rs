//! Where a forward pass begins: token rows and rotation tables.

use super::{Machine, ShapeError, check, check_len};
use crate::formats::Weights;
use crate::rope::rope_row;
use crate::team::Disjoint;

/// out[t] = table[ids[t]] * scale. out: [n, D].
///
/// # Errors
/// When shapes do not fit or an id is outside the table.
pub fn embed(
    machine: &Machine,
    table: Weights<'_>,
    ids: &[i32],
    scale: f32,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    let (cols, vocab) = (table.cols(), table.rows());
    check(ids.iter().all(|&id| usize::try_from(id).is_ok_and(|id| id < vocab)), || {
        format!("token ids must be in 0..{vocab}")
    })?;
    check_len("out", out.len(), ids.len() * cols)?;
    let out = Disjoint::new(out);
    machine.team.run(|worker| {
        worker.share(0, ids.len(), 16, |range| {
            for token in range {
                // SAFETY: the share hands every token to one member.
                let row = unsafe { out.range(token * cols..(token + 1) * cols) };
                table.dequantize_row(ids[token] as usize, row);
                for value in row {
                    *value *= scale;
                }
            }
        });
    });
    Ok(())
}

/// Rotation table [n, `2 * inv_freq.len()`]: cos(position * `inv_freq`), then sin.
///
/// # Errors
/// When the table does not fit.
pub fn rope(machine: &Machine, positions: &[i32], inv_freq: &[f64], table: &mut [f32]) -> Result<(), ShapeError> {
    let width = 2 * inv_freq.len();
    check_len("table", table.len(), positions.len() * width)?;
    let table = Disjoint::new(table);
    machine.team.run(|worker| {
        worker.share(0, positions.len(), 16, |range| {
            for row in range {
                // SAFETY: the share hands every row to one member.
                rope_row(positions[row], inv_freq, unsafe { table.range(row * width..(row + 1) * width) });
            }
        });
    });
    Ok(())
}
