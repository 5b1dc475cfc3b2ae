//! From sums of a (tile, panel) to results: offsets, the scale of the activations, and where results go.

use core::arch::x86_64::*;
use std::ops::Range;

use crate::matmul::OutView;
use crate::matmul::tiled::{STEPS, Sums, TOKENS};
use crate::matmul::x86::decode::{Decode, offsets, steps};

use super::panel::{Panel, ROWS};
use super::transpose::transpose;

/// Results of a panel: [row][token].
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Results([[f32; TOKENS]; ROWS]);

impl Results {
    pub(super) const ZERO: Self = Self([[0.0; TOKENS]; ROWS]);
}

/// Rows whose sums are put together side by side: enough to hide the latency of their chains.
pub(super) const SIDE: usize = 8;

/// Writes those results of a panel that belong to `rows`, for a tile whose first token and row are `place`.
#[target_feature(enable = "avx512f")]
pub(super) fn write(
    results: &Results,
    place: (usize, usize),
    tokens: usize,
    rows: &Range<usize>,
    out: &mut OutView<'_>,
) {
    let mut v = [_mm512_setzero_si512(); ROWS];
    for (v, row) in v.iter_mut().zip(&results.0) {
        *v = load(row);
    }
    for (token, v) in (place.0..tokens).zip(transpose(&v)) {
        let mut values = [0.0_f32; ROWS];
        // SAFETY: sixteen floats.
        unsafe { _mm512_storeu_si512(values.as_mut_ptr().cast(), v) };
        out.set_sixteen(token, place.1, &values, rows);
    }
}

/// 64 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load<T>(from: &[T; 16]) -> __m512i {
    const { assert!(size_of::<T>() == 4) };
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_f32(from: &[f32; 16]) -> __m512 {
    _mm512_castsi512_ps(load(from))
}

/// v + offsets * sums of the rows from `first` on, then to the results.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) fn add<D: Decode, const P: usize>(
    v: &mut [__m512; SIDE],
    panel: &Panel,
    first: usize,
    present: usize,
    sums: &Sums,
    results: &mut Results,
) {
    for part in 0..offsets::<D>(present) {
        let sum = load_f32(&sums.blocks[part]);
        for row in 0..SIDE {
            v[row] = _mm512_fmadd_ps(_mm512_set1_ps(panel.offsets[part][first + row]), sum, v[row]);
        }
    }
    if D::FORMAT.has_steps() {
        let m = if P > STEPS { wide_steps::<D>(panel, first, sums) } else { narrow_steps::<D>(panel, first, sums) };
        for row in 0..SIDE {
            v[row] = _mm512_fmadd_ps(m[row], _mm512_set1_ps(panel.offsets[0][first + row]), v[row]);
        }
    }
    let scale = load_f32(&sums.scale);
    for row in 0..SIDE {
        let result = &mut results.0[first + row];
        let sum = _mm512_fmadd_ps(v[row], scale, load_f32(result));
        // SAFETY: sixteen floats.
        unsafe { _mm512_storeu_ps(result.as_mut_ptr(), sum) };
    }
}

/// Steps of the rows from `first` on times sums of codes.
#[inline]
#[target_feature(enable = "avx512f")]
fn wide_steps<D: Decode>(panel: &Panel, first: usize, sums: &Sums) -> [__m512; SIDE] {
    let mut m = [_mm512_setzero_ps(); SIDE];
    for part in 0..steps::<D>() {
        let sum = load_f32(if D::FORMAT.has_half_offsets() { &sums.halves[part] } else { &sums.blocks[part] });
        for row in 0..SIDE {
            m[row] = _mm512_fmadd_ps(_mm512_set1_ps(panel.steps[part][first + row]), sum, m[row]);
        }
    }
    m
}

/// As [`wide_steps`], in integers, of codes of 8 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn narrow_steps<D: Decode>(panel: &Panel, first: usize, sums: &Sums) -> [__m512; SIDE] {
    let mut m = [_mm512_setzero_si512(); SIDE];
    for two in 0..steps::<D>() / 2 {
        let sum = load(if D::FORMAT.has_half_offsets() { &sums.halves16[two] } else { &sums.blocks16[two] });
        for row in 0..SIDE {
            m[row] = _mm512_dpwssd_epi32(m[row], _mm512_set1_epi32(panel.steps16[two][first + row]), sum);
        }
    }
    let mut values = [_mm512_setzero_ps(); SIDE];
    for row in 0..SIDE {
        values[row] = _mm512_cvtepi32_ps(m[row]);
    }
    values
}
