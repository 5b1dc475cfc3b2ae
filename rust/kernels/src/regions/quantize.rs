//! Weights from one number format to another.

use std::sync::{Mutex, PoisonError};

use super::{Machine, ShapeError, check, check_len};
use crate::formats::{Format, Weights};
use crate::pages::{HUGE_PAGE, populate};
use crate::quantize::quantize_and_fetch;
use crate::team::Disjoint;

/// Weights that one member takes at a time: long enough to be worth asking for, short enough that all end together.
const PIECE: usize = 1 << 16;

/// Weights that are widened to f32 at a time: they stay in the nearest cache.
const WIDENED: usize = 1 << 12;

/// Weights that most quantizers take at a time; an incomplete group costs as much as a whole one.
const GROUP: usize = 512;

/// Stores `source` [rows, cols] as `format`. out: `rows * format.row_bytes(cols)` bytes.
///
/// importance: see [`quantize_rows`](crate::quantize::quantize_rows); one number for each column.
///
/// # Errors
/// When shapes do not fit, importance is negative or not finite, or weights are not finite.
pub fn quantize(
    machine: &Machine,
    source: Weights<'_>,
    format: Format,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), ShapeError> {
    let (rows, cols) = (source.rows(), source.cols());
    let row_bytes = format.row_bytes(cols).map_err(|error| ShapeError(error.to_string()))?;
    check(out.len() == rows * row_bytes, || format!("out: {} bytes, expected {}", out.len(), rows * row_bytes))?;
    if let Some(importance) = importance {
        check_len("importance", importance.len(), cols)?;
        check(importance.iter().all(|x| x.is_finite() && *x >= 0.0), || {
            "importance: every number must be finite and at least 0".into()
        })?;
    }
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    let whole = GROUP >> cols.trailing_zeros().min(GROUP.trailing_zeros());
    let at_once = (whole * (WIDENED / (whole * cols)).max(1)).min(rows);
    let piece = at_once * (PIECE / (at_once * cols)).max(1);
    let failure = Mutex::new(None::<String>);
    let out = Disjoint::new(out);
    machine.team.run(|worker| {
        // Two members that touch the same new page both clear one, and one of them in vain.
        worker.share(0, out.len().div_ceil(HUGE_PAGE), 1, |range| {
            // SAFETY: the memory of a slice that is written to, and changes no byte of it.
            unsafe { populate(out.as_mut_ptr().wrapping_add(range.start * HUGE_PAGE)) };
        });
        let mut values = vec![0.0; at_once * cols];
        worker.share(1, rows, piece, |range| {
            for first in range.clone().step_by(at_once) {
                let end = range.end.min(first + at_once);
                let values = &mut values[..(end - first) * cols];
                for (row, values) in (first..end).zip(values.chunks_exact_mut(cols)) {
                    source.dequantize_row(row, values);
                }
                let next = source.rows_bytes(end..range.end.min(end + at_once));
                // SAFETY: the share hands every row to one member.
                let bytes = unsafe { out.range(first * row_bytes..end * row_bytes) };
                if let Err(error) = quantize_and_fetch(machine.isa, format, values, cols, importance, bytes, next) {
                    let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    failure.get_or_insert_with(|| format!("in rows from {first} on: {error}"));
                }
            }
        });
    });
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.map_or(Ok(()), |message| Err(ShapeError(message)))
}
