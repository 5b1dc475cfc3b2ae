//! f32 activations: four rows are dequantised to f32 at a time and meet tiles of up to three tokens, lanes are columns.

use core::arch::x86_64::*;
use std::ops::Range;

use crate::formats::{BLOCK, Format, Weights};
use crate::matmul::activations::Activations;
use crate::matmul::{LANES, OutView};

use super::gemv::decode_cut;
use super::lanes::{each8, load_f32, reduce, store_f32, store_i32};
use super::octet::{Decode, Sum};

/// Rows and tokens of a tile: 12 accumulators hide the latency of fma and leave registers for the operands.
const ROWS: usize = 4;
const TILE: usize = 3;

/// Dequantises one row into groups of 8 columns, zeros after the last column.
type Dequantize = unsafe fn(&Weights<'_>, usize, &mut [[f32; LANES]]);

/// `dequantize` must be one of this module's functions.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply(
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    out: &mut OutView<'_>,
    dequantize: Dequantize,
    scratch: &mut Vec<[f32; LANES]>,
) {
    let groups = weights.cols().div_ceil(LANES);
    scratch.resize(ROWS * groups, [0.0; LANES]);
    for first in rows.clone().step_by(ROWS) {
        let count = ROWS.min(rows.end - first);
        for row in 0..count {
            // SAFETY: this function has the target features that every `Dequantize` needs.
            unsafe { dequantize(weights, first + row, &mut scratch[row * groups..][..groups]) };
        }
        let mut token = 0;
        while token < x.tokens() {
            match x.tokens() - token {
                1 => tile::<1>(scratch, groups, x, token, first, count, out),
                2 => tile::<2>(scratch, groups, x, token, first, count, out),
                _ => tile::<TILE>(scratch, groups, x, token, first, count, out),
            }
            token += TILE;
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn tile<const T: usize>(
    panel: &[[f32; LANES]],
    groups: usize,
    x: &Activations,
    token: usize,
    first: usize,
    count: usize,
    out: &mut OutView<'_>,
) {
    let rows: [&[[f32; LANES]]; ROWS] = std::array::from_fn(|r| &panel[r * groups..][..groups]);
    let values: [&[[f32; LANES]]; T] = std::array::from_fn(|t| &x.values(token + t).as_chunks::<LANES>().0[..groups]);
    let mut partial = [[_mm256_setzero_ps(); ROWS]; T];
    for g in 0..groups {
        let mut a = [_mm256_setzero_ps(); T];
        for t in 0..T {
            // SAFETY: every slice was cut to `groups` above; seven checks would cost as much as the products.
            a[t] = load_f32(unsafe { values[t].get_unchecked(g) });
        }
        // One weight register at a time: 12 partial sums, 3 activations and it make 16.
        for r in 0..ROWS {
            // SAFETY: as above.
            let w = load_f32(unsafe { rows[r].get_unchecked(g) });
            for t in 0..T {
                partial[t][r] = _mm256_fmadd_ps(w, a[t], partial[t][r]);
            }
        }
    }
    for t in 0..T {
        let p = &partial[t];
        // Indexed by constants only: the partial sums stay in registers.
        let results = [reduce(p[0]), reduce(p[1]), reduce(p[2]), reduce(p[3])];
        for (r, &value) in results[..count].iter().enumerate() {
            out.set(token + t, first + r, value);
        }
    }
}

/// A row of a dense format.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dense(weights: &Weights<'_>, row: usize, out: &mut [[f32; LANES]]) {
    let bytes = weights.row(row);
    let whole = weights.cols() / LANES;
    match weights.format() {
        Format::F16 => {
            for (group, b) in out.iter_mut().zip(bytes.as_chunks::<16>().0) {
                store_f32(group, _mm256_cvtph_ps(super::lanes::load16(b, 0)));
            }
        }
        Format::BF16 => {
            for (group, b) in out.iter_mut().zip(bytes.as_chunks::<16>().0) {
                let wide = _mm256_cvtepu16_epi32(super::lanes::load16(b, 0));
                store_f32(group, _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)));
            }
        }
        _ => {
            for (group, b) in out.iter_mut().zip(bytes.as_chunks::<32>().0) {
                store_f32(group, _mm256_castsi256_ps(super::lanes::load32(b, 0)));
            }
        }
    }
    if let [last] = &mut out[whole..] {
        *last = [0.0; LANES];
        weights.dense_tail(row, whole * LANES, &mut last[..weights.cols() - whole * LANES]);
    }
}

/// A row of a quantised format.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn quantized<D: Decode>(weights: &Weights<'_>, row: usize, out: &mut [[f32; LANES]]) {
    let mut bytes = weights.rows_from(row);
    for groups in out.chunks_mut(LANES * BLOCK / LANES) {
        let octet = decode_cut::<D>(bytes);
        bytes = &bytes[D::BYTES.min(bytes.len())..];
        let (mut scales, mut offsets) = ([0.0; LANES], [0.0; LANES]);
        store_f32(&mut scales, octet.scale);
        store_f32(&mut offsets, octet.offset);
        let pairs = lanes_of(octet.pairs);
        let steps = lanes_of(octet.steps);
        let codes = each8!(|J| octet.codes[J]);
        for (block, groups) in groups.chunks_exact_mut(BLOCK / LANES).enumerate() {
            let quarters = quarters::<D>(codes[block]);
            for (i, (group, &codes)) in groups.iter_mut().zip(&quarters).enumerate() {
                // As in the reference: the integer scale times the code is exact, then one rounding.
                let mut code = _mm256_sub_epi32(codes, _mm256_set1_epi32(i32::from(D::BIAS)));
                if D::SUM == Sum::Halves {
                    code = _mm256_mullo_epi32(code, _mm256_set1_epi32(half_of(pairs[block], i / 2)));
                }
                let mut value = _mm256_mul_ps(_mm256_set1_ps(scales[block]), _mm256_cvtepi32_ps(code));
                if D::OFFSET {
                    let step = half_of(steps[block], i / 2) as f32;
                    value = _mm256_add_ps(value, _mm256_set1_ps(offsets[block] * step));
                }
                store_f32(group, value);
            }
        }
    }
}

/// The low (0) or high (1) int16 of a pair.
fn half_of(pair: i32, half: usize) -> i32 {
    if half == 0 { i32::from(pair as i16) } else { pair >> 16 }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn lanes_of(v: __m256i) -> [i32; LANES] {
    let mut lanes = [0; LANES];
    store_i32(&mut lanes, v);
    lanes
}

/// The 32 codes of a block as int32, eight per vector.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn quarters<D: Decode>(codes: __m256i) -> [__m256i; 4] {
    let (low, high) = (_mm256_castsi256_si128(codes), _mm256_extracti128_si256::<1>(codes));
    let parts = [low, _mm_srli_si128::<8>(low), high, _mm_srli_si128::<8>(high)];
    if D::SUM == Sum::Signed {
        [
            _mm256_cvtepi8_epi32(parts[0]),
            _mm256_cvtepi8_epi32(parts[1]),
            _mm256_cvtepi8_epi32(parts[2]),
            _mm256_cvtepi8_epi32(parts[3]),
        ]
    } else {
        [
            _mm256_cvtepu8_epi32(parts[0]),
            _mm256_cvtepu8_epi32(parts[1]),
            _mm256_cvtepu8_epi32(parts[2]),
            _mm256_cvtepu8_epi32(parts[3]),
        ]
    }
}
