//! x86 kernels: the stored bytes for few tokens, unpacked panels for many, f32 rows for the rest.
//!
//! Loops over arrays of registers index them by constants or by loops that are unrolled completely.

#![allow(clippy::wildcard_imports, reason = "intrinsics: dozens of names that carry their own prefix")]
#![allow(clippy::cast_ptr_alignment, reason = "codes are aligned like the structs that hold them, to 64 bytes")]
#![allow(clippy::unnecessary_min_or_max, reason = "`each8!` makes constants of indices")]
#![allow(clippy::needless_range_loop, reason = "arrays of registers are indexed in step: t is a token everywhere")]

mod affine;
pub(crate) mod amx;
mod decode;
mod exact;
mod few;
mod gemm;
mod kquants;
mod lanes;
mod legacy;
mod narrow;
mod offsets;
mod panel;
mod products;
mod repacked;
mod strip;
mod strips;

use core::arch::x86_64::__m256i;
use std::ops::Range;

use crate::formats::{Format, STRIP, Weights};
use crate::isa::Isa;

use decode::Decode;

pub(super) use amx::pack;
pub(super) use narrow::{narrow, sum};

use super::activations::{Activations, FEW, Precision};
use super::{LANES, OutView};

/// Unpacked weights.
#[derive(Default)]
pub(super) struct Scratch {
    gemm: gemm::Scratch,
    amx: amx::Scratch,
    rows: Vec<[f32; LANES]>,
}

/// # Panics
/// When the CPU lacks AVX2, FMA or F16C, or what `isa` names.
pub(super) fn multiply(
    isa: Isa,
    weights: &Weights<'_>,
    mut rows: Range<usize>,
    x: &Activations,
    precision: Option<Precision>,
    out: &mut OutView<'_>,
    scratch: &mut Scratch,
) {
    assert!(
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c"),
        "this CPU has no AVX2"
    );
    let vnni = matches!(isa, Isa::Avx512Vnni | Isa::Amx);
    assert!(!vnni || isa.is_available(), "this CPU has no {}", isa.name());
    if let Some(precision) = precision
        && weights.format().has_strips()
        && x.has_quads()
        && x.tokens() <= FEW
    {
        // What makes whole strips becomes strips on the way.
        let end = rows.start + rows.len() / STRIP * STRIP;
        multiply_strips(isa, weights, rows.start..end, x, precision, out, scratch);
        rows.start = end;
    }
    if rows.is_empty() {
        return;
    }
    // SAFETY: the features were just checked.
    unsafe {
        match weights.format() {
            Format::F32 | Format::F16 | Format::BF16 | Format::FP8 => {
                exact::multiply(weights, rows, x, out, exact::dense, &mut scratch.rows);
            }
            Format::Q4_0 => quantized::<legacy::Q4_0>(vnni, weights, rows, x, precision, out, scratch),
            Format::Q4_1 => quantized::<legacy::Q4_1>(vnni, weights, rows, x, precision, out, scratch),
            Format::Q5_0 => quantized::<legacy::Q5_0>(vnni, weights, rows, x, precision, out, scratch),
            Format::Q5_1 => quantized::<legacy::Q5_1>(vnni, weights, rows, x, precision, out, scratch),
            Format::Q8_0 => quantized::<legacy::Q8_0>(vnni, weights, rows, x, precision, out, scratch),
            Format::Q8_1 => quantized::<legacy::Q8_1>(vnni, weights, rows, x, precision, out, scratch),
            Format::F8Q8 => quantized::<legacy::F8Q8>(vnni, weights, rows, x, precision, out, scratch),
            Format::MXFP4 => quantized::<legacy::MXFP4>(vnni, weights, rows, x, precision, out, scratch),
            Format::Q2_K => quantized::<kquants::Q2K>(vnni, weights, rows, x, precision, out, scratch),
            Format::Q3_K => quantized::<kquants::Q3K>(vnni, weights, rows, x, precision, out, scratch),
            Format::Q4_K => quantized::<kquants::Q4K>(vnni, weights, rows, x, precision, out, scratch),
            Format::Q5_K => quantized::<kquants::Q5K>(vnni, weights, rows, x, precision, out, scratch),
            Format::Q6_K => quantized::<kquants::Q6K>(vnni, weights, rows, x, precision, out, scratch),
            Format::Q8_K => quantized::<kquants::Q8K>(vnni, weights, rows, x, precision, out, scratch),
            Format::AFQ2 => quantized::<affine::AFQ2>(vnni, weights, rows, x, precision, out, scratch),
            Format::AFQ3 => quantized::<affine::AFQ3>(vnni, weights, rows, x, precision, out, scratch),
            Format::AFQ4 => quantized::<affine::AFQ4>(vnni, weights, rows, x, precision, out, scratch),
            Format::AFQ6 => quantized::<affine::AFQ6>(vnni, weights, rows, x, precision, out, scratch),
            Format::AFQ8 => quantized::<affine::AFQ8>(vnni, weights, rows, x, precision, out, scratch),
            Format::HQQ4 => quantized::<affine::HQQ4>(vnni, weights, rows, x, precision, out, scratch),
            Format::HQQ8 => quantized::<affine::HQQ8>(vnni, weights, rows, x, precision, out, scratch),
        }
    }
}

/// Products of weights in strips; or of sixteen rows at a time as they are stored, with few tokens.
///
/// # Panics
/// When the CPU lacks what `isa` names, or the weights are in no format that has strips.
pub(super) fn multiply_strips(
    isa: Isa,
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    precision: Precision,
    out: &mut OutView<'_>,
    scratch: &mut Scratch,
) {
    assert!(isa.reads_strips() && isa.is_available(), "this CPU has no {}", isa.name());
    if rows.is_empty() {
        return;
    }
    match weights.format() {
        Format::Q4_0 => strips_of::<legacy::Q4_0>(isa, weights, rows, x, precision, out, scratch),
        Format::Q4_1 => strips_of::<legacy::Q4_1>(isa, weights, rows, x, precision, out, scratch),
        Format::Q5_0 => strips_of::<legacy::Q5_0>(isa, weights, rows, x, precision, out, scratch),
        Format::Q5_1 => strips_of::<legacy::Q5_1>(isa, weights, rows, x, precision, out, scratch),
        Format::Q8_0 => strips_of::<legacy::Q8_0>(isa, weights, rows, x, precision, out, scratch),
        Format::Q2_K => strips_of::<kquants::Q2K>(isa, weights, rows, x, precision, out, scratch),
        Format::Q3_K => strips_of::<kquants::Q3K>(isa, weights, rows, x, precision, out, scratch),
        Format::Q4_K => strips_of::<kquants::Q4K>(isa, weights, rows, x, precision, out, scratch),
        Format::Q5_K => strips_of::<kquants::Q5K>(isa, weights, rows, x, precision, out, scratch),
        Format::Q6_K => strips_of::<kquants::Q6K>(isa, weights, rows, x, precision, out, scratch),
        format => panic!("{} has no strips", format.name()),
    }
}

/// [`multiply_strips`] of a format.
fn strips_of<D: strip::Strip + strip::Strip<__m256i>>(
    isa: Isa,
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    precision: Precision,
    out: &mut OutView<'_>,
    scratch: &mut Scratch,
) {
    // SAFETY: the caller has seen that the CPU has the features.
    unsafe {
        if isa == Isa::Avx2 {
            in_narrow_strips::<D>(weights, rows, x, precision, out, scratch);
        } else {
            in_strips::<D>(isa, weights, rows, x, precision, out, scratch);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn in_narrow_strips<D: strip::Strip<__m256i>>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    precision: Precision,
    out: &mut OutView<'_>,
    scratch: &mut Scratch,
) {
    let narrow = precision == Precision::Int8;
    // SAFETY: this function has the features.
    unsafe {
        if x.has_quads() {
            strips::ymm::multiply_few::<D>(weights, rows, x, narrow, out);
        } else if narrow {
            gemm::multiply::<D, gemm::ymm::Avx2<true>, gemm::NarrowStrips>(weights, rows, x, out, &mut scratch.gemm);
        } else {
            gemm::multiply::<D, gemm::ymm::Avx2<false>, gemm::NarrowStrips>(weights, rows, x, out, &mut scratch.gemm);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn in_strips<D: strip::Strip>(
    isa: Isa,
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    precision: Precision,
    out: &mut OutView<'_>,
    scratch: &mut Scratch,
) {
    let narrow = precision == Precision::Int8;
    // SAFETY: this function has the features, and only products of `Isa::Amx` take tiled activations.
    unsafe {
        if x.is_tiled() {
            amx::multiply::<D, amx::Strips>(weights, rows, x, precision, out, &mut scratch.amx);
        } else if x.has_quads() && isa == Isa::Amx && x.tokens() > FEW {
            if narrow {
                amx::few::multiply::<D, 1>(weights, rows, x, out);
            } else {
                amx::few::multiply::<D, 2>(weights, rows, x, out);
            }
        } else if x.has_quads() && weights.has_planes() && rows.start < weights.packed_rows() {
            strips::multiply_few::<strip::planes::Planes>(weights, rows, x, narrow, out);
        } else if x.has_quads() {
            strips::multiply_few::<D>(weights, rows, x, narrow, out);
        } else if narrow {
            gemm::multiply::<D, gemm::zmm::Vnni<true>, gemm::Strips>(weights, rows, x, out, &mut scratch.gemm);
        } else {
            gemm::multiply::<D, gemm::zmm::Vnni<false>, gemm::Strips>(weights, rows, x, out, &mut scratch.gemm);
        }
    }
}

/// # Safety
/// The CPU has AVX-512 VNNI where `vnni` says so.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantized<D: Decode>(
    vnni: bool,
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    precision: Option<Precision>,
    out: &mut OutView<'_>,
    scratch: &mut Scratch,
) {
    match precision {
        None => exact::multiply(weights, rows, x, out, exact::quantized::<D>, &mut scratch.rows),
        // SAFETY: only products of `Isa::Amx` take tiled activations.
        Some(precision) if x.is_tiled() => unsafe {
            amx::multiply::<D, amx::Rows>(weights, rows, x, precision, out, &mut scratch.amx);
        },
        // SAFETY: the caller's promise.
        Some(Precision::Int8) => unsafe { blocks::<D, true>(vnni, weights, rows, x, out, scratch) },
        // SAFETY: the caller's promise.
        Some(Precision::Int14) => unsafe { blocks::<D, false>(vnni, weights, rows, x, out, scratch) },
    }
}

/// NARROW: activations have 8 bits.
///
/// # Safety
/// The CPU has AVX-512 VNNI where `vnni` says so.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn blocks<D: Decode, const NARROW: bool>(
    vnni: bool,
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    out: &mut OutView<'_>,
    scratch: &mut Scratch,
) {
    match x.tokens() {
        1 => few::multiply::<D, 1, NARROW>(weights, rows, x, out),
        2 => few::multiply::<D, 2, NARROW>(weights, rows, x, out),
        3..=4 => few::multiply::<D, 4, NARROW>(weights, rows, x, out),
        tokens if tokens <= FEW => few::multiply::<D, FEW, NARROW>(weights, rows, x, out),
        // SAFETY: the caller's promise.
        _ if vnni => unsafe {
            gemm::multiply::<D, gemm::zmm::Vnni<NARROW>, gemm::Rows>(weights, rows, x, out, &mut scratch.gemm);
        },
        // SAFETY: this function has the features.
        _ => unsafe {
            gemm::multiply::<D, gemm::ymm::Avx2<NARROW>, gemm::Rows>(weights, rows, x, out, &mut scratch.gemm);
        },
    }
}
