//! AVX2 kernels: native layout for few tokens, unpacked panels for many, f32 rows for the rest.
//!
//! Loops over arrays of registers index them by constants or by loops that are unrolled completely.

#![allow(clippy::wildcard_imports, reason = "intrinsics: dozens of names that carry their own prefix")]
#![allow(clippy::needless_range_loop, reason = "arrays of registers are indexed in step: t is a token everywhere")]

mod exact;
mod gemm;
mod gemv;
mod kquants;
mod lanes;
mod legacy;
mod octet;
mod panel;

use std::ops::Range;

use crate::formats::{Format, Weights};

use super::activations::{Activations, Precision};
use super::{LANES, OutView};

/// Unpacked weights.
#[derive(Default)]
pub(super) struct Scratch {
    panel: panel::Panel,
    rows: Vec<[f32; LANES]>,
}

/// # Panics
/// When the CPU lacks AVX2, FMA or F16C.
pub(super) fn multiply(
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    precision: Option<Precision>,
    out: &mut OutView<'_>,
    scratch: &mut Scratch,
) {
    assert!(
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c"),
        "this CPU has no AVX2"
    );
    // SAFETY: the features were just checked.
    unsafe {
        match weights.format() {
            Format::F32 | Format::F16 | Format::BF16 => {
                exact::multiply(weights, rows, x, out, exact::dense, &mut scratch.rows);
            }
            Format::Q4_0 => quantized::<legacy::Q4_0>(weights, rows, x, precision, out, scratch),
            Format::Q4_1 => quantized::<legacy::Q4_1>(weights, rows, x, precision, out, scratch),
            Format::Q5_0 => quantized::<legacy::Q5_0>(weights, rows, x, precision, out, scratch),
            Format::Q5_1 => quantized::<legacy::Q5_1>(weights, rows, x, precision, out, scratch),
            Format::Q8_0 => quantized::<legacy::Q8_0>(weights, rows, x, precision, out, scratch),
            Format::Q2_K => quantized::<kquants::Q2K>(weights, rows, x, precision, out, scratch),
            Format::Q3_K => quantized::<kquants::Q3K>(weights, rows, x, precision, out, scratch),
            Format::Q4_K => quantized::<kquants::Q4K>(weights, rows, x, precision, out, scratch),
            Format::Q5_K => quantized::<kquants::Q5K>(weights, rows, x, precision, out, scratch),
            Format::Q6_K => quantized::<kquants::Q6K>(weights, rows, x, precision, out, scratch),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn quantized<D: octet::Decode>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    precision: Option<Precision>,
    out: &mut OutView<'_>,
    scratch: &mut Scratch,
) {
    match precision {
        None => exact::multiply(weights, rows, x, out, exact::quantized::<D>, &mut scratch.rows),
        Some(Precision::Int8) => blocks::<D, false>(weights, rows, x, out, scratch),
        Some(Precision::Int14) => blocks::<D, true>(weights, rows, x, out, scratch),
    }
}

/// FINE: the fine plane of the activations counts too.
#[target_feature(enable = "avx2,fma,f16c")]
fn blocks<D: octet::Decode, const FINE: bool>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    out: &mut OutView<'_>,
    scratch: &mut Scratch,
) {
    // From four tokens on, unpacking a panel pays (measured: even at four, and 1.4 times faster at eight).
    match x.tokens() {
        1 => gemv::multiply::<D, 1, FINE>(weights, rows, x, out),
        2 => gemv::multiply::<D, 2, FINE>(weights, rows, x, out),
        3 => gemv::multiply::<D, 3, FINE>(weights, rows, x, out),
        _ => gemm::multiply::<D, FINE>(weights, rows, x, out, &mut scratch.panel),
    }
}
