//! Few tokens: eight weight rows at a time are decoded, straight from the stored bytes, and meet each token in registers.
//!
//! ```text
//! for eight rows: for group:
//!     for row: for run: decode; for token: one vector of int32 that adds up to the run's sum
//!     for run: for token: eight vectors -> one, lane = row; v += sums * scales
//!     result += (v + offsets) * activation scale
//! ```

use core::arch::x86_64::*;
use std::ops::Range;

use crate::formats::{BLOCK, Weights};
use crate::matmul::activations::{Activations, Group};
use crate::matmul::{LANES, OutView};

use super::decode::{Decode, parts};
use super::lanes::{each8, store_f32, sums8};

/// Rows that share a vector of results.
const ROWS: usize = 8;

/// Tokens `tokens` (at most T) of `x`. Absent tokens repeat the last one: their results are not written.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply<D: Decode, const T: usize>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    tokens: Range<usize>,
    out: &mut OutView<'_>,
) {
    let blocks = weights.cols() / BLOCK;
    let mut sums = [[[_mm256_setzero_si256(); ROWS]; T]; LANES];
    for first in rows.clone().step_by(ROWS) {
        let count = ROWS.min(rows.end - first);
        // Absent rows repeat the last one, as absent tokens do.
        let starts = each8!(|J| weights.row(first + J.min(count - 1)).as_ptr());
        let mut results = [_mm256_setzero_ps(); T];
        for index in 0..blocks.div_ceil(LANES) {
            let present = LANES.min(blocks - index * LANES);
            let groups = each8!(|J| starts[J].wrapping_add(index * D::BYTES));
            let all = x.groups(index);
            let x: [&Group; T] = std::array::from_fn(|t| &all[(tokens.start + t).min(tokens.end - 1)]);
            // SAFETY: the pointers are those of group `index` of rows of `weights`, of which `present` blocks exist.
            unsafe { accumulate::<D, T>(&groups, present, &x, &mut sums, &mut results) };
        }
        for (t, &result) in results[..tokens.len()].iter().enumerate() {
            let mut values = [0.0; ROWS];
            store_f32(&mut values, result);
            out.set_rows(tokens.start + t, first, &values[..count]);
        }
    }
}

/// Adds the products of one group of columns to the results; `sums` is scratch memory.
///
/// # Safety
/// Each of `groups` points to `present` blocks of a group of D.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn accumulate<D: Decode, const T: usize>(
    groups: &[*const u8; ROWS],
    present: usize,
    x: &[&Group; T],
    sums: &mut [[[__m256i; ROWS]; T]; LANES],
    results: &mut [__m256; T],
) {
    let run = D::FORMAT.run();
    let mut scales = [_mm256_setzero_si256(); ROWS];
    for row in 0..ROWS {
        let group = groups[row];
        // SAFETY: the caller's promise, here and below.
        scales[row] = unsafe { D::scales(group) };
        let mut partial = [_mm256_setzero_si256(); T];
        each8!(|B| {
            if B < present {
                // SAFETY: see above.
                let w = unsafe { D::block(group, &scales[row], B) };
                for t in 0..T {
                    let codes = x[t].codes.as_chunks::<BLOCK>().0[B].as_ptr().cast::<__m256i>();
                    // SAFETY: a block of codes has 64 bytes, aligned like its group.
                    let codes = unsafe { [_mm256_load_si256(codes), _mm256_load_si256(codes.add(1))] };
                    let sum =
                        _mm256_add_epi32(_mm256_madd_epi16(w[0], codes[0]), _mm256_madd_epi16(w[1], codes[1]));
                    partial[t] = if B % run == 0 { sum } else { _mm256_add_epi32(partial[t], sum) };
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
        let scale = unsafe { D::run_scale(groups, index) };
        for t in 0..T {
            v[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums8(&sums[index][t])), scale, v[t]);
        }
    }
    if D::FORMAT.has_offset() {
        let mut offsets = [_mm256_setzero_ps(); 16];
        // SAFETY: see above.
        unsafe { D::offsets(groups, &scales, present, &mut offsets) };
        for part in 0..parts::<D>(present) {
            for t in 0..T {
                let sum = if D::FORMAT.has_half_offsets() { x[t].halves[part] } else { x[t].blocks[part] };
                v[t] = _mm256_fmadd_ps(offsets[part], _mm256_set1_ps(sum), v[t]);
            }
        }
    }
    for t in 0..T {
        results[t] = _mm256_fmadd_ps(v[t], _mm256_set1_ps(x[t].scale), results[t]);
    }
}
