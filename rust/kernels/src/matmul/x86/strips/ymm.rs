//! Few tokens and weights in strips with AVX2: lanes are eight rows, half of a strip, or all sixteen in two vectors.
//!
//! ```text
//! for strip: for group: for its halves, or both at once:
//!     for block: for four columns: decode; for token: add products in int32, or in int16 of codes of 8 bits
//!         v += sums * scales
//!     result += (v + offsets) * activation scale
//! ```

use core::arch::x86_64::*;
use std::mem::offset_of;
use std::ops::Range;

use crate::formats::strips::Avx2;
use crate::formats::{BLOCK, Weights};
use crate::matmul::activations::{Activations, FEW};
use crate::matmul::codes::{Few, Group, Quads};
use crate::matmul::x86::decode::{fits_pairs, quads_of_sum};
use crate::matmul::x86::lanes::{each8, store_f32, widen};
use crate::matmul::x86::products::{Sums, add_bytes, add_scaled, add_words};
use crate::matmul::x86::repacked::{Repacked, Sixteen, sixteens};
use crate::matmul::x86::strip::ymm::twice;
use crate::matmul::x86::strip::{At, Strip};
use crate::matmul::{LANES, OutView};

use super::fetch;

mod offsets;

use offsets::{add_bias_of_halves, add_offsets, bias_of_block, bias_of_group};

/// [token][half of the rows], with R halves.
type Values<const R: usize, const T: usize> = [[__m256; R]; T];

/// `narrow`: activations have 8 bits. `rows` are rows in strips, or rows behind them whose number is a multiple of 16.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn multiply_few<D: Strip<__m256i>>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    narrow: bool,
    out: &mut OutView<'_>,
) {
    match (x.tokens(), narrow) {
        (1, true) => multiply::<D, 2, 1, 1>(weights, rows, x, out),
        (2, true) => multiply::<D, 2, 2, 1>(weights, rows, x, out),
        (3..=4, true) => multiply::<D, 2, 4, 1>(weights, rows, x, out),
        (_, true) => multiply::<D, 1, FEW, 1>(weights, rows, x, out),
        (1, false) => multiply::<D, 2, 1, 2>(weights, rows, x, out),
        (2, false) => multiply::<D, 2, 2, 2>(weights, rows, x, out),
        (3..=4, false) => multiply::<D, 2, 4, 2>(weights, rows, x, out),
        (_, false) => multiply::<D, 1, FEW, 2>(weights, rows, x, out),
    }
}

/// Products with at most T tokens, whose codes have P planes, R halves of a strip at a time. Absent tokens are anything:
/// their results are not written.
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply<D: Strip<__m256i>, const R: usize, const T: usize, const P: usize>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    activations: &Activations,
    out: &mut OutView<'_>,
) {
    let (blocks, tokens) = (weights.cols() / BLOCK, activations.tokens());
    let mut repacked = Repacked::of(weights);
    for first in sixteens(weights, &rows) {
        let from = Sixteen::of(weights, first);
        let mut results = [[[_mm256_setzero_ps(); R]; T]; 2];
        for index in 0..blocks.div_ceil(LANES) {
            let present = LANES.min(blocks - index * LANES);
            let x = activations.few(index);
            // SAFETY: a strip and its rows have all groups, `present` blocks in this one.
            unsafe {
                let at = repacked.group::<D, Avx2>(&from, index, present);
                accumulate::<D, R, T, P>(at, present, x, &mut results[0]);
                if R == 1 {
                    accumulate::<D, R, T, P>(at.half(1), present, x, &mut results[1]);
                }
            }
        }
        for token in 0..tokens {
            let mut values = [[0.0_f32; 8]; 2];
            for half in 0..2 {
                store_f32(&mut values[half], results[half / R * R][token][half % R]);
            }
            let values = values.as_flattened().first_chunk().expect("sixteen rows");
            out.set_sixteen(token, first, values, &rows);
        }
    }
}

/// Adds the products of one group of columns to the results.
///
/// # Safety
/// `at` is a group of D of `present` blocks, or half of it if R is one.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn accumulate<D: Strip<__m256i>, const R: usize, const T: usize, const P: usize>(
    at: At,
    present: usize,
    x: Few<'_, T>,
    results: &mut Values<R, T>,
) {
    // SAFETY: the caller's promise.
    let mut v = unsafe {
        if fits_pairs::<D>() {
            products_of_planes::<D, R, T, P>(at, present, x)
        } else {
            products_of_words::<D, R, T>(at, present, x)
        }
    };
    // SAFETY: as above.
    unsafe { add_offsets::<D, R, T, P>(at, present, x, &mut v) };
    for t in 0..T {
        let scale = _mm256_set1_ps(x.groups[t].scale);
        for r in 0..R {
            results[t][r] = _mm256_fmadd_ps(v[t][r], scale, results[t][r]);
        }
    }
}

/// Sums of the runs times their scales: codes as 16-bit numbers, of formats without integer scales.
///
/// # Safety
/// As for [`accumulate`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn products_of_words<D: Strip<__m256i>, const R: usize, const T: usize>(
    at: At,
    present: usize,
    x: Few<'_, T>,
) -> Values<R, T> {
    debug_assert!(D::PERIOD == 1 && !D::FORMAT.has_integer_scales(), "each block is a run");
    let mut v = [[_mm256_setzero_ps(); R]; T];
    for block in 0..present {
        let mut sums = bias_of_block::<D, R, T>(block, x);
        // The codes of a group are its first bytes, those of even columns of a block first.
        let codes = x.groups.as_ptr().cast::<i8>().wrapping_add(2 * BLOCK * block);
        each8!(|QUAD| {
            fetch::<D>(at, block, QUAD);
            let mut w = [[_mm256_setzero_si256(); R]; 2];
            for r in 0..R {
                // SAFETY: the caller's promise, here and below.
                [w[0][r], w[1][r]] = widen(unsafe { D::codes(at.half(r), block, 0, QUAD) });
            }
            // SAFETY: see above.
            unsafe {
                add_words::<R, T, { size_of::<Group>() }, { 4 * QUAD }>(&mut sums, w[0], codes, false);
                add_words::<R, T, { size_of::<Group>() }, { BLOCK + 4 * QUAD }>(&mut sums, w[1], codes, false);
            }
        });
        // SAFETY: see above.
        unsafe { add_run::<D, R, T>(at, block, &sums, &mut v) };
    }
    v
}

/// Adds the products of a block with some planes of the codes to the sums. A macro, since compilers do not inline functions
/// of this size.
macro_rules! add_planes {
    ($sums:ident, $at:ident, ($base:ident, $phase:ident), $x:ident, low $low:expr, high $high:expr) => {{
        const NEXT: usize = size_of::<Quads>();
        const HIGH: usize = offset_of!(Quads, high);
        let quads = quads_of_sum::<D>(if P == 1 { 127 } else { 64 });
        let block = $base + $phase;
        // The codes of a plane are its first bytes.
        let codes = $x.quads.as_ptr().cast::<i8>().wrapping_add(BLOCK * $base);
        let mut low: Sums<R, T> = [[_mm256_setzero_si256(); R]; T];
        let mut high = low;
        each8!(|QUAD| {
            if $low {
                fetch::<D>($at, block, QUAD);
            }
            let mut w = [_mm256_setzero_si256(); R];
            for r in 0..R {
                w[r] = D::codes($at.half(r), $base, $phase, QUAD);
            }
            let first = QUAD.is_multiple_of(quads);
            if $low {
                add_bytes::<R, T, NEXT, { BLOCK * $phase + 4 * QUAD }>(&mut low, w, codes, first);
            }
            if $high {
                add_bytes::<R, T, NEXT, { HIGH + BLOCK * $phase + 4 * QUAD }>(&mut high, w, codes, first);
            }
            if (QUAD + 1).is_multiple_of(quads) {
                let mut scales = [_mm256_set1_epi16(1); R];
                if D::FORMAT.has_integer_scales() {
                    let part = if D::FORMAT.has_half_scales() { 2 * block + QUAD / 4 } else { block };
                    for r in 0..R {
                        scales[r] = twice(D::integer($at.half(r), part));
                    }
                }
                if $low {
                    add_scaled(&mut $sums, &low, scales);
                }
                if $high {
                    for r in 0..R {
                        scales[r] = _mm256_slli_epi16::<7>(scales[r]);
                    }
                    add_scaled(&mut $sums, &high, scales);
                }
            }
        });
    }};
}

/// As [`products_of_words`], of codes in planes of bytes.
///
/// # Safety
/// As for [`accumulate`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn products_of_planes<D: Strip<__m256i>, const R: usize, const T: usize, const P: usize>(
    at: At,
    present: usize,
    x: Few<'_, T>,
) -> Values<R, T> {
    let run = D::FORMAT.run(P == 1);
    let bias_at_once = D::FORMAT.has_integer_scales() && P == 1;
    let mut v = [[_mm256_setzero_ps(); R]; T];
    let mut sums: Sums<R, T> = [[_mm256_setzero_si256(); R]; T];
    if D::BIAS != 0 && bias_at_once {
        // SAFETY: the caller's promise, here and below.
        sums = unsafe { bias_of_group::<D, R, T>(at, x) };
    }
    for base in (0..present).step_by(D::PERIOD) {
        each8!(|PHASE| {
            if PHASE < D::PERIOD {
                let block = base + PHASE;
                if D::BIAS != 0 && !D::FORMAT.has_integer_scales() {
                    sums = bias_of_block::<D, R, T>(block, x);
                } else if D::BIAS != 0 && !bias_at_once {
                    // SAFETY: see above.
                    unsafe { add_bias_of_halves::<D, R, T>(at, block, x, &mut sums) };
                }
                // SAFETY: see above.
                unsafe {
                    if R * T * P > 8 {
                        // More sums than registers.
                        add_planes!(sums, at, (base, PHASE), x, low true, high false);
                        if P > 1 {
                            add_planes!(sums, at, (base, PHASE), x, low false, high true);
                        }
                    } else {
                        add_planes!(sums, at, (base, PHASE), x, low true, high P > 1);
                    }
                }
                if block % run == run - 1 {
                    // SAFETY: see above.
                    unsafe { add_run::<D, R, T>(at, block / run, &sums, &mut v) };
                    sums = [[_mm256_setzero_si256(); R]; T];
                }
            }
        });
    }
    v
}

/// v += sums * scale of run `run`.
///
/// # Safety
/// As for [`accumulate`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_run<D: Strip<__m256i>, const R: usize, const T: usize>(
    at: At,
    run: usize,
    sums: &Sums<R, T>,
    v: &mut Values<R, T>,
) {
    for r in 0..R {
        // SAFETY: the caller's promise.
        let scale = unsafe { D::run_scale(at.half(r), run) };
        for t in 0..T {
            v[t][r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[t][r]), scale, v[t][r]);
        }
    }
}
