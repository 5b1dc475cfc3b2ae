//! From f32 rows to a number format.
//!
//! The bytes depend on the rows and their importance alone: not on the instruction set, nor on who else is quantised.

#![allow(clippy::inline_always, reason = "only what is inlined into `dispatch` is compiled for its instruction set")]

use half::{bf16, f16};

use crate::formats::Format;
use crate::isa::Isa;
use crate::simd::dispatch;

mod affine;
mod block;
mod bytes;
mod centred;
mod finite;
mod floats;
mod group;
mod offset;
mod pack;
mod plan;
mod rows;
mod search;
mod units;

use finite::NotFinite;
use plan::Plan;
use rows::Rows;

/// Why rows cannot be quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantizeError {
    /// A weight is infinite or not a number.
    #[error("a weight is not a finite number (row {row} of these)")]
    NotFinite {
        /// The first such row of those that were given.
        row: usize,
    },
    /// No quantiser for the format.
    #[error("there is no quantizer for {}", .0.name())]
    Unsupported(Format),
}

/// Stores `rows` [n, cols] as `format`.
///
/// importance: how much a squared error counts, one number for each column, finite and at least 0; None: all alike, apart
/// from what a format's own rule says.
/// out: n rows of `format.row_bytes(cols)` bytes.
///
/// # Errors
/// `NotFinite` for rows with infinities or NaN, whose format has no place for them.
///
/// # Panics
/// When shapes do not fit.
pub fn quantize_rows(
    isa: Isa,
    format: Format,
    rows: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), QuantizeError> {
    quantize_and_fetch(isa, format, rows, cols, importance, out, &[])
}

/// As [`quantize_rows`], and has the bytes of `next` fetched into the nearest cache meanwhile.
pub(crate) fn quantize_and_fetch(
    isa: Isa,
    format: Format,
    rows: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
    next: &[u8],
) -> Result<(), QuantizeError> {
    let row_bytes = format.row_bytes(cols).expect("rows of whole blocks");
    assert!(cols > 0 && rows.len().is_multiple_of(cols), "whole rows");
    assert_eq!(out.len(), rows.len() / cols * row_bytes, "the output must hold the rows");
    assert!(importance.is_none_or(|importance| importance.len() == cols), "one importance for each column");
    if format.block() > 1
        && let Some(row) = dispatch(isa, NotFinite { rows, cols })
    {
        return Err(QuantizeError::NotFinite { row });
    }
    match format {
        Format::F32 => store(rows, out, f32::to_le_bytes),
        Format::F16 => store(rows, out, |x| f16::from_f32(x).to_le_bytes()),
        Format::BF16 => store(rows, out, |x| bf16::from_f32(x).to_le_bytes()),
        Format::Q8_1 => block::store::<bytes::Q8_1>(isa, rows, cols, importance, out),
        Format::Q8_K => block::store::<bytes::Q8K>(isa, rows, cols, importance, out),
        Format::F8Q8 => block::store::<bytes::F8Q8>(isa, rows, cols, importance, out),
        Format::MXFP4 => block::store::<floats::Mxfp4>(isa, rows, cols, importance, out),
        Format::FP8 => block::store::<floats::Fp8>(isa, rows, cols, importance, out),
        Format::AFQ2 => block::store::<affine::Afq<2>>(isa, rows, cols, importance, out),
        Format::AFQ3 => block::store::<affine::Afq<3>>(isa, rows, cols, importance, out),
        Format::AFQ4 => block::store::<affine::Afq<4>>(isa, rows, cols, importance, out),
        Format::AFQ6 => block::store::<affine::Afq<6>>(isa, rows, cols, importance, out),
        Format::AFQ8 => block::store::<affine::Afq<8>>(isa, rows, cols, importance, out),
        Format::HQQ4 => block::store::<affine::Hqq<4>>(isa, rows, cols, importance, out),
        Format::HQQ8 => block::store::<affine::Hqq<8>>(isa, rows, cols, importance, out),
        _ => {
            let plan = Plan::of(format).ok_or(QuantizeError::Unsupported(format))?;
            dispatch(isa, Rows { format, plan, values: rows, cols, importance, out, next });
        }
    }
    Ok(())
}

fn store<const N: usize>(values: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    for (place, &value) in out.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *place = bytes(value);
    }
}
