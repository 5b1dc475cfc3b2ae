//! f32 activations: four rows are dequantised to f32 at a time and meet tiles of up to three tokens, lanes are columns.

use core::arch::x86_64::*;
use std::ops::Range;

use crate::formats::{BLOCK, Format, Weights};
use crate::matmul::activations::Activations;
use crate::matmul::{LANES, OutView};

use super::decode::{Decode, Offsets, Steps, codes, run_scale};
use super::lanes::{e4m3, each8, load_f32, load16, load32, reduce, store_f32};

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
                // SAFETY: 16 bytes of an array of 16.
                store_f32(group, _mm256_cvtph_ps(unsafe { load16(b.as_ptr()) }));
            }
        }
        Format::BF16 => {
            for (group, b) in out.iter_mut().zip(bytes.as_chunks::<16>().0) {
                // SAFETY: as above.
                let wide = _mm256_cvtepu16_epi32(unsafe { load16(b.as_ptr()) });
                store_f32(group, _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)));
            }
        }
        Format::FP8 => {
            // A scale (f32) and 64 numbers of a byte each.
            for (groups, b) in out.chunks_exact_mut(64 / LANES).zip(bytes.as_chunks::<68>().0) {
                let scale = _mm256_set1_ps(f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                for (group, b) in groups.iter_mut().zip(b[4..].as_chunks::<LANES>().0) {
                    // SAFETY: eight bytes of an array of eight.
                    let bits = _mm_cvtepu8_epi16(unsafe { _mm_loadl_epi64(b.as_ptr().cast()) });
                    store_f32(group, _mm256_mul_ps(scale, e4m3(bits)));
                }
            }
        }
        _ => {
            for (group, b) in out.iter_mut().zip(bytes.as_chunks::<32>().0) {
                // SAFETY: 32 bytes of an array of 32.
                store_f32(group, _mm256_castsi256_ps(unsafe { load32(b.as_ptr()) }));
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
    let bytes = weights.row(row).as_ptr();
    for (index, groups) in out.chunks_mut(LANES * BLOCK / LANES).enumerate() {
        let group = bytes.wrapping_add(index * D::BYTES);
        let blocks = groups.len() * LANES / BLOCK;
        let mut offsets: Offsets = [_mm256_setzero_ps(); 8];
        let mut steps: Steps = [_mm256_setzero_si256(); 16];
        // SAFETY: `group` is group `index` of the row, and has as many blocks as the output; here and below.
        let scales = unsafe {
            // Eight times the same row: one lane counts.
            let scales = D::scales(group);
            D::offsets(&[group; 8], blocks, &mut offsets);
            D::steps(&[group; 8], &[scales; 8], &mut steps);
            scales
        };
        let codes = each8!(|B| if B < blocks {
            // SAFETY: see above.
            unsafe { codes::<D>(group, scales, B) }
        } else {
            [_mm256_setzero_si256(); 2]
        });
        for (block, groups) in groups.chunks_exact_mut(BLOCK / LANES).enumerate() {
            // SAFETY: see above.
            let scale = unsafe { run_scale::<D>(&[group; 8], block / D::FORMAT.run(false)) };
            let [even, odd] = codes[block];
            let ordered = [_mm256_unpacklo_epi16(even, odd), _mm256_unpackhi_epi16(even, odd)];
            for (eight, group) in groups.iter_mut().enumerate() {
                let (vector, half) = (ordered[eight % 2], eight / 2);
                let part = if D::FORMAT.has_half_offsets() { 2 * block + half } else { block };
                let codes =
                    if half == 0 { _mm256_castsi256_si128(vector) } else { _mm256_extracti128_si256::<1>(vector) };
                // As in the reference: products are exact, then one rounding.
                let mut value = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(codes)));
                if D::FORMAT.has_steps() {
                    value = _mm256_add_ps(value, _mm256_mul_ps(offsets[0], _mm256_cvtepi32_ps(steps[part])));
                } else if D::FORMAT.has_offset() {
                    value = _mm256_add_ps(value, offsets[block]);
                }
                store_f32(group, value);
            }
        }
    }
}
