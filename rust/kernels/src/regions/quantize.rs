//! Weights from one number format to another.

use std::sync::{Mutex, PoisonError};

use super::{Machine, ShapeError, check, check_len};
use crate::formats::{Format, Weights};
use crate::quantize::quantize_rows;
use crate::team::Disjoint;

/// Weights that one member takes at a time: long enough to be worth asking for, short enough that all end together.
const PIECE: usize = 1 << 15;

/// Stores `source` [rows, cols] as `format`. out: `rows * format.row_bytes(cols)` bytes.
///
/// importance: see [`quantize_rows`]; one number for each column.
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
    let at_once = (PIECE / cols).clamp(1, rows);
    let failure = Mutex::new(None::<String>);
    let out = Disjoint::new(out);
    machine.team.run(|worker| {
        let mut values = vec![0.0; at_once * cols];
        worker.share(0, rows, at_once, |range| {
            let values = &mut values[..range.len() * cols];
            for (row, values) in range.clone().zip(values.chunks_exact_mut(cols)) {
                source.dequantize_row(row, values);
            }
            // SAFETY: the share hands every row to one member.
            let bytes = unsafe { out.range(range.start * row_bytes..range.end * row_bytes) };
            if let Err(error) = quantize_rows(machine.isa, format, values, cols, importance, bytes) {
                let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert_with(|| format!("in rows from {} on: {error}", range.start));
            }
        });
    });
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.map_or(Ok(()), |message| Err(ShapeError(message)))
}
