//! Few tokens: eight weight rows at a time are decoded, straight from the stored bytes, and meet each token in registers.
//!
//! ```text
//! for eight rows: for group:
//!     for row: for run: decode; for token: one vector of int32 that adds up to the run's sum
//!     for run: for token: eight vectors -> one, lane = row; v += sums * scales
//!     result += (v + offsets) * activation scale
//! ```
//! NARROW: with activations of 8 bits, codes stay bytes where the products of pairs fit int16.

use core::arch::x86_64::*;
use std::ops::Range;

use crate::formats::{BLOCK, Weights};
use crate::matmul::activations::Activations;
use crate::matmul::codes::{Bytes, Group};
use crate::matmul::{LANES, OutView};

use super::decode::{Decode, codes, column_scales, fits_pairs, offsets, run_scale, steps, sum_of};
use super::lanes::{each8, prefetch, store_f32, sums8};

/// Rows that share a vector of results.
const ROWS: usize = 8;

/// Products with at most T tokens. Absent ones repeat the last one: their results are not written.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply<D: Decode, const T: usize, const NARROW: bool>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    activations: &Activations,
    out: &mut OutView<'_>,
) {
    let (blocks, tokens) = (weights.cols() / BLOCK, activations.tokens());
    // The same place eight rows further on: what the hardware would fetch behind each of eight short streams is of
    // little use, and only the next eight rows are.
    let ahead = ROWS * weights.row(rows.start).len();
    let mut sums = [[[_mm256_setzero_si256(); ROWS]; T]; LANES];
    for first in rows.clone().step_by(ROWS) {
        let count = ROWS.min(rows.end - first);
        // Absent rows repeat the last one, as absent tokens do.
        let starts = each8!(|J| weights.row(first + J.min(count - 1)).as_ptr());
        let mut results = [_mm256_setzero_ps(); T];
        for index in 0..blocks.div_ceil(LANES) {
            let tile = Tile {
                groups: each8!(|J| starts[J].wrapping_add(index * D::BYTES)),
                ahead,
                present: LANES.min(blocks - index * LANES),
            };
            let groups = activations.groups(index);
            let x: [&Group; T] = std::array::from_fn(|t| &groups[t.min(tokens - 1)]);
            let mut bytes = [&Bytes::ZERO; T];
            if bytes_of::<D, NARROW>() {
                let all = activations.bytes(index);
                for t in 0..T {
                    bytes[t] = &all[t.min(tokens - 1)];
                }
            }
            // SAFETY: the pointers are those of group `index` of rows of `weights`, of which `present` blocks exist.
            unsafe { accumulate::<D, T, NARROW>(&tile, &x, &bytes, &mut sums, &mut results) };
        }
        for (t, &result) in results[..tokens].iter().enumerate() {
            let mut values = [0.0; ROWS];
            store_f32(&mut values, result);
            out.set_rows(t, first, &values[..count]);
        }
    }
}

/// Whether codes stay bytes.
const fn bytes_of<D: Decode, const NARROW: bool>() -> bool {
    NARROW && fits_pairs::<D>()
}

/// One group of eight rows.
struct Tile {
    groups: [*const u8; ROWS],
    /// Bytes between a group and the one to fetch meanwhile.
    ahead: usize,
    /// Blocks in the group.
    present: usize,
}

/// Adds the products of one group of columns to the results; `sums` is scratch memory.
///
/// # Safety
/// Each group of the tile points to its blocks of a group of D.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn accumulate<D: Decode, const T: usize, const NARROW: bool>(
    tile: &Tile,
    x: &[&Group; T],
    bytes: &[&Bytes; T],
    sums: &mut [[[__m256i; ROWS]; T]; LANES],
    results: &mut [__m256; T],
) {
    let Tile { groups, ahead, present } = *tile;
    let run = D::FORMAT.run(NARROW);
    let mut scales = [_mm256_setzero_si256(); ROWS];
    for row in 0..ROWS {
        let group = groups[row];
        prefetch(group.wrapping_add(ahead), D::BYTES);
        // SAFETY: the caller's promise, here and below.
        scales[row] = unsafe { D::scales(group) };
        let mut partial = [_mm256_setzero_si256(); T];
        if bytes_of::<D, NARROW>() && D::FORMAT.has_integer_scales() && D::BIAS != 0 {
            // The bias of a whole group, which is one run.
            let bias = _mm256_mullo_epi16(scales[row], _mm256_set1_epi16(-D::BIAS as i16));
            for t in 0..T {
                partial[t] = _mm256_madd_epi16(bias, load_halves(bytes[t]));
            }
        }
        each8!(|B| {
            if B < present {
                // SAFETY: see above.
                let products: [__m256i; T] = unsafe {
                    if bytes_of::<D, NARROW>() {
                        byte_products::<D, T>(group, &scales[row], B, bytes)
                    } else {
                        products::<D, T>(group, &scales[row], B, x)
                    }
                };
                for t in 0..T {
                    let start = B.is_multiple_of(run) && (D::BIAS == 0 || run == 1 || !bytes_of::<D, NARROW>());
                    partial[t] = if start { products[t] } else { _mm256_add_epi32(partial[t], products[t]) };
                    if B % run == run - 1 {
                        sums[B / run][t][row] = partial[t];
                    }
                }
            }
        });
    }
    let mut v = [_mm256_setzero_ps(); T];
    for index in 0..present / run {
        // SAFETY: see above.
        let scale = unsafe { run_scale::<D>(&groups, index) };
        for t in 0..T {
            let mut isum = sums8(&sums[index][t]);
            if bytes_of::<D, NARROW>() && !D::FORMAT.has_integer_scales() && D::BIAS != 0 {
                isum = _mm256_sub_epi32(isum, _mm256_set1_epi32(D::BIAS * i32::from(bytes[t].blocks[index])));
            }
            v[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum), scale, v[t]);
        }
    }
    let mut parts = [_mm256_setzero_ps(); 8];
    // SAFETY: see above.
    unsafe { D::offsets(&groups, present, &mut parts) };
    for part in 0..offsets::<D>(present) {
        for t in 0..T {
            v[t] = _mm256_fmadd_ps(parts[part], _mm256_set1_ps(x[t].blocks[part]), v[t]);
        }
    }
    if D::FORMAT.has_steps() {
        let mut all = [_mm256_setzero_si256(); 16];
        // SAFETY: see above.
        unsafe { D::steps(&groups, &scales, &mut all) };
        let mut m = [_mm256_setzero_ps(); T];
        for part in 0..steps::<D>() {
            let step = _mm256_cvtepi32_ps(all[part]);
            for t in 0..T {
                m[t] = _mm256_fmadd_ps(step, _mm256_set1_ps(sum_of::<D>(x[t], part)), m[t]);
            }
        }
        for t in 0..T {
            v[t] = _mm256_fmadd_ps(m[t], parts[0], v[t]);
        }
    }
    for t in 0..T {
        results[t] = _mm256_fmadd_ps(v[t], _mm256_set1_ps(x[t].scale), results[t]);
    }
}

/// Products of block `block` with each token: eight int32 that add up to its sum.
///
/// # Safety
/// As [`Decode::block`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn products<D: Decode, const T: usize>(
    group: *const u8,
    scales: &__m256i,
    block: usize,
    x: &[&Group; T],
) -> [__m256i; T] {
    // SAFETY: the caller's promise.
    let w = unsafe { codes::<D>(group, *scales, block) };
    let mut products = [_mm256_setzero_si256(); T];
    for t in 0..T {
        let codes = x[t].codes.as_chunks::<BLOCK>().0[block].as_ptr().cast::<__m256i>();
        // SAFETY: a block of codes has 64 bytes, aligned like its group.
        let codes = unsafe { [_mm256_load_si256(codes), _mm256_load_si256(codes.add(1))] };
        products[t] = _mm256_add_epi32(_mm256_madd_epi16(w[0], codes[0]), _mm256_madd_epi16(w[1], codes[1]));
    }
    products
}

/// As [`products`], of unsigned codes in bytes.
///
/// # Safety
/// As [`Decode::bytes`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn byte_products<D: Decode, const T: usize>(
    group: *const u8,
    scales: &__m256i,
    block: usize,
    x: &[&Bytes; T],
) -> [__m256i; T] {
    let one = _mm256_set1_epi16(1);
    // SAFETY: the caller's promise.
    let (w, scale) = unsafe {
        let w = D::bytes(group, block);
        (w, if D::FORMAT.has_integer_scales() { column_scales::<D>(*scales, block) } else { one })
    };
    let mut products = [_mm256_setzero_si256(); T];
    for t in 0..T {
        // SAFETY: a block of codes has 32 bytes, aligned like the whole.
        let codes = unsafe { _mm256_load_si256(x[t].codes.as_chunks::<BLOCK>().0[block].as_ptr().cast()) };
        products[t] = _mm256_madd_epi16(_mm256_maddubs_epi16(w, codes), scale);
    }
    products
}

/// Sums of the sixteen half blocks.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_halves(x: &Bytes) -> __m256i {
    // SAFETY: sixteen int16.
    unsafe { _mm256_loadu_si256(x.halves.as_ptr().cast()) }
}
