//! Few tokens and weights in strips with AVX2: lanes are eight rows, half of a strip, or all sixteen in two vectors.
//!
//! ```text
//! for strip: for group: for its halves, or both at once:
//!     for block: for four columns: decode; for token: add products in int32, or in int16 of codes of 8 bits
//!         v += sums * scales
//!     result += (v + offsets) * activation scale
//! ```

use core::arch::x86_64::*;
use std::ops::Range;

use crate::formats::strips::Avx2;
use crate::formats::{BLOCK, STRIP, Weights};
use crate::matmul::activations::{Activations, FEW};
use crate::matmul::codes::{Bytes, Group, Tokens};
use crate::matmul::x86::decode::{fits_pairs, offsets, quads_of_sum, steps, sum_of};
use crate::matmul::x86::gemm::{two_of, two_sums};
use crate::matmul::x86::lanes::{each8, store_f32, unrolled, widen};
use crate::matmul::x86::products::{Sums, add_bytes, add_scaled, add_words};
use crate::matmul::x86::repacked::Repacked;
use crate::matmul::x86::strip::{At, Strip, pair_of_eight as pair, twice};
use crate::matmul::{LANES, OutView};

use super::fetch;

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
        (1, true) => multiply::<D, 2, 1, true>(weights, rows, x, out),
        (2, true) => multiply::<D, 2, 2, true>(weights, rows, x, out),
        (3..=4, true) => multiply::<D, 2, 4, true>(weights, rows, x, out),
        (_, true) => multiply::<D, 1, FEW, true>(weights, rows, x, out),
        (1, false) => multiply::<D, 2, 1, false>(weights, rows, x, out),
        (2, false) => multiply::<D, 2, 2, false>(weights, rows, x, out),
        (3..=4, false) => multiply::<D, 2, 4, false>(weights, rows, x, out),
        (_, false) => multiply::<D, 1, FEW, false>(weights, rows, x, out),
    }
}

/// Products with at most T tokens, R halves of a strip at a time. Absent tokens are anything: their results are not written.
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply<D: Strip<__m256i>, const R: usize, const T: usize, const NARROW: bool>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    activations: &Activations,
    out: &mut OutView<'_>,
) {
    let (blocks, tokens) = (weights.cols() / BLOCK, activations.tokens());
    let in_strips = rows.start < weights.packed_rows();
    assert!(in_strips || rows.len().is_multiple_of(STRIP), "rows {rows:?} are no strips");
    let mut repacked = Repacked::EMPTY;
    for first in (weights.first_with(rows.start)..rows.end).step_by(STRIP) {
        let bytes = if in_strips { weights.strip(first / STRIP) } else { weights.rows_bytes(first..first + STRIP) };
        let mut results = [[[_mm256_setzero_ps(); R]; T]; 2];
        for index in 0..blocks.div_ceil(LANES) {
            let present = LANES.min(blocks - index * LANES);
            // SAFETY: a strip and its rows have all groups, `present` blocks in this one.
            unsafe {
                let at = if in_strips {
                    At::group::<D>(bytes.as_ptr(), index, present)
                } else {
                    repacked.group::<D, Avx2>(bytes, index, present)
                };
                let x = activations.first_tokens(index);
                accumulate::<D, R, T, NARROW>(at, present, x, &mut results[0]);
                if R == 1 {
                    accumulate::<D, R, T, NARROW>(at.half(1), present, x, &mut results[1]);
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
/// `at` is a group of D of `present` blocks, or its second half if R is one.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn accumulate<D: Strip<__m256i>, const R: usize, const T: usize, const NARROW: bool>(
    at: At,
    present: usize,
    x: Tokens<'_, T>,
    results: &mut Values<R, T>,
) {
    // SAFETY: the caller's promise.
    let mut v = unsafe {
        match x.bytes {
            Some(bytes) if NARROW && fits_pairs::<D>() => byte_products::<D, R, T>(at, present, bytes),
            _ => products::<D, R, T>(at, present, x.groups, D::FORMAT.run(NARROW)),
        }
    };
    // SAFETY: as above.
    unsafe { add_offsets::<D, R, T>(at, present, x, &mut v) };
    for t in 0..T {
        let scale = _mm256_set1_ps(x.groups[t].scale);
        for r in 0..R {
            results[t][r] = _mm256_fmadd_ps(v[t][r], scale, results[t][r]);
        }
    }
}

/// Sums of the runs times their scales.
///
/// # Safety
/// As for [`accumulate`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn products<D: Strip<__m256i>, const R: usize, const T: usize>(
    at: At,
    present: usize,
    x: &[Group; T],
    run: usize,
) -> Values<R, T> {
    let mut v = [[_mm256_setzero_ps(); R]; T];
    let mut sums: Sums<R, T> = [[_mm256_setzero_si256(); R]; T];
    for base in (0..present).step_by(D::PERIOD) {
        each8!(|PHASE| {
            if PHASE < D::PERIOD {
                let block = base + PHASE;
                let mut words: Sums<R, T> = [[_mm256_setzero_si256(); R]; T];
                each8!(|QUAD| {
                    if D::BIAS != 0 && (QUAD == 0 || D::FORMAT.has_half_scales() && QUAD == 4) {
                        // The products start at what the bias adds to them, taken off.
                        for t in 0..T {
                            let sum = if D::FORMAT.has_half_scales() {
                                &x[t].halves[2 * block + QUAD / 4]
                            } else {
                                &x[t].blocks[block]
                            };
                            let sum = _mm256_cvtps_epi32(_mm256_broadcast_ss(sum));
                            words[t] = [_mm256_mullo_epi32(sum, _mm256_set1_epi32(-D::BIAS)); R];
                        }
                    }
                    fetch::<D>(at, block, QUAD);
                    let mut w = [[_mm256_setzero_si256(); R]; 2];
                    for r in 0..R {
                        // SAFETY: the caller's promise, here and below.
                        let codes = unsafe { D::codes(at.half(r), base, PHASE, QUAD) };
                        [w[0][r], w[1][r]] = widen(codes);
                    }
                    let codes = x.as_ptr().cast::<i8>().wrapping_add(2 * BLOCK * base);
                    // SAFETY: see above; the codes of a group are its first bytes, in each block those of even columns first.
                    unsafe {
                        let [even, odd] = w;
                        add_words::<R, T, { size_of::<Group>() }, { 2 * BLOCK * PHASE + 4 * QUAD }>(
                            &mut words, even, codes, false,
                        );
                        add_words::<R, T, { size_of::<Group>() }, { 2 * BLOCK * PHASE + BLOCK + 4 * QUAD }>(
                            &mut words, odd, codes, false,
                        );
                    }
                    let part_ends = QUAD == 7 || D::FORMAT.has_half_scales() && QUAD == 3;
                    if part_ends && D::FORMAT.has_integer_scales() {
                        let part = if D::FORMAT.has_half_scales() { 2 * block + QUAD / 4 } else { block };
                        for r in 0..R {
                            // SAFETY: see above.
                            let integer = unsafe { D::integer(at.half(r), part) };
                            for t in 0..T {
                                let scaled = _mm256_mullo_epi32(words[t][r], integer);
                                sums[t][r] = _mm256_add_epi32(sums[t][r], scaled);
                                words[t][r] = _mm256_setzero_si256();
                            }
                        }
                    }
                });
                if !D::FORMAT.has_integer_scales() {
                    sums = words;
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

/// As [`products`], of codes of 8 bits: a group of a K-quant is one run, and so is a block of the other formats.
///
/// # Safety
/// As for [`accumulate`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn byte_products<D: Strip<__m256i>, const R: usize, const T: usize>(
    at: At,
    present: usize,
    x: &[Bytes; T],
) -> Values<R, T> {
    let mut v = [[_mm256_setzero_ps(); R]; T];
    let mut sums: Sums<R, T> = [[_mm256_setzero_si256(); R]; T];
    if D::BIAS != 0 && D::FORMAT.has_integer_scales() {
        // SAFETY: the caller's promise, here and below.
        sums = unsafe { bias_of_group::<D, R, T>(at, x) };
    }
    for base in (0..present).step_by(D::PERIOD) {
        each8!(|PHASE| {
            if PHASE < D::PERIOD {
                let block = base + PHASE;
                let mut short: Sums<R, T> = [[_mm256_setzero_si256(); R]; T];
                each8!(|QUAD| {
                    fetch::<D>(at, block, QUAD);
                    let mut w = [_mm256_setzero_si256(); R];
                    for r in 0..R {
                        // SAFETY: see above.
                        w[r] = unsafe { D::codes(at.half(r), base, PHASE, QUAD) };
                    }
                    let codes = x.as_ptr().cast::<i8>().wrapping_add(BLOCK * base);
                    // SAFETY: see above; the codes of a group are its first bytes.
                    unsafe {
                        let first = QUAD % quads_of_sum::<D>() == 0;
                        add_bytes::<R, T, { size_of::<Bytes>() }, { BLOCK * PHASE + 4 * QUAD }>(
                            &mut short, w, codes, first,
                        );
                    }
                    if (QUAD + 1) % quads_of_sum::<D>() == 0 {
                        let mut scales = [_mm256_set1_epi16(1); R];
                        if D::FORMAT.has_integer_scales() {
                            let part = if D::FORMAT.has_half_scales() { 2 * block + QUAD / 4 } else { block };
                            for r in 0..R {
                                // SAFETY: see above.
                                scales[r] = twice(unsafe { D::integer(at.half(r), part) });
                            }
                        }
                        // SAFETY: see above.
                        unsafe { add_scaled(&mut sums, &short, scales) };
                    }
                });
                if !D::FORMAT.has_integer_scales() {
                    if D::BIAS != 0 {
                        for t in 0..T {
                            let bias = _mm256_set1_epi32(D::BIAS * i32::from(x[t].blocks[block]));
                            for r in 0..R {
                                sums[t][r] = _mm256_sub_epi32(sums[t][r], bias);
                            }
                        }
                    }
                    // SAFETY: see above.
                    unsafe { add_run::<D, R, T>(at, block, &sums, &mut v) };
                    sums = [[_mm256_setzero_si256(); R]; T];
                }
            }
        });
    }
    if D::FORMAT.has_integer_scales() {
        // SAFETY: see above.
        unsafe { add_run::<D, R, T>(at, 0, &sums, &mut v) };
    }
    v
}

/// What the bias adds to the products of a group with each token, taken off; of formats with a scale for half a block.
///
/// # Safety
/// As for [`accumulate`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn bias_of_group<D: Strip<__m256i>, const R: usize, const T: usize>(at: At, x: &[Bytes; T]) -> Sums<R, T> {
    let mut sums: Sums<R, T> = [[_mm256_setzero_si256(); R]; T];
    each8!(|BLOCK| {
        for r in 0..R {
            // SAFETY: the caller's promise.
            let scales = unsafe { pair(D::integer(at.half(r), 2 * BLOCK), D::integer(at.half(r), 2 * BLOCK + 1)) };
            for t in 0..T {
                let two = _mm256_set1_epi32(two_of(&x[t].halves, BLOCK));
                sums[t][r] = _mm256_add_epi32(sums[t][r], _mm256_madd_epi16(scales, two));
            }
        }
    });
    for t in 0..T {
        for r in 0..R {
            sums[t][r] = _mm256_mullo_epi32(sums[t][r], _mm256_set1_epi32(-D::BIAS));
        }
    }
    sums
}

/// v += offsets * sums of codes, of one group.
///
/// # Safety
/// As for [`accumulate`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_offsets<D: Strip<__m256i>, const R: usize, const T: usize>(
    at: At,
    present: usize,
    x: Tokens<'_, T>,
    v: &mut Values<R, T>,
) {
    each8!(|BLOCK| if BLOCK < offsets::<D>(present) {
        for r in 0..R {
            // SAFETY: the caller's promise, here and below.
            let offset = unsafe { D::offset(at.half(r), BLOCK) };
            for t in 0..T {
                v[t][r] = _mm256_fmadd_ps(offset, _mm256_set1_ps(x.groups[t].blocks[BLOCK]), v[t][r]);
            }
        }
    });
    if !D::FORMAT.has_steps() {
        return;
    }
    let mut m = [[_mm256_setzero_ps(); R]; T];
    match x.bytes {
        Some(bytes) => {
            let mut sums: Sums<R, T> = [[_mm256_setzero_si256(); R]; T];
            each8!(|TWO| if TWO < steps::<D>() / 2 {
                for r in 0..R {
                    // SAFETY: see above.
                    let steps = unsafe { pair(D::step(at.half(r), 2 * TWO), D::step(at.half(r), 2 * TWO + 1)) };
                    for t in 0..T {
                        let two = _mm256_set1_epi32(two_sums::<D>(&bytes[t], TWO));
                        sums[t][r] = _mm256_add_epi32(sums[t][r], _mm256_madd_epi16(steps, two));
                    }
                }
            });
            for t in 0..T {
                for r in 0..R {
                    m[t][r] = _mm256_cvtepi32_ps(sums[t][r]);
                }
            }
        }
        None => {
            unrolled!(|J| steps::<D>() => {
                for r in 0..R {
                    // SAFETY: see above.
                    let step = _mm256_cvtepi32_ps(unsafe { D::step(at.half(r), J) });
                    for t in 0..T {
                        m[t][r] = _mm256_fmadd_ps(step, _mm256_set1_ps(sum_of::<D>(&x.groups[t], J)), m[t][r]);
                    }
                }
            });
        }
    }
    for r in 0..R {
        // SAFETY: see above.
        let offset = unsafe { D::offset(at.half(r), 0) };
        for t in 0..T {
            v[t][r] = _mm256_fmadd_ps(m[t][r], offset, v[t][r]);
        }
    }
}
