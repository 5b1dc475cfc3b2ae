//! Many tokens: a group of columns of up to 64 unpacked rows meets all tokens, tile by tile, then the next group.
//!
//! ```text
//! for 64 rows: for group: unpack four panels of 16 rows
//!     for tile of 6 tokens: for panel: for run:
//!         2 x 6 int accumulators; for each two columns: 2 weight vectors x 6 broadcast activations
//!         v += accumulators * scales                                                  lanes = rows
//!     results += (v + offsets) * activation scales
//! ```
//! The panels (9 KiB each) stay in the L2 cache, a tile of activations (4 KiB) in L1; all activations of a group stream
//! past once for 64 rows.

use core::arch::x86_64::*;
use std::ops::Range;

use crate::formats::{BLOCK, Weights};
use crate::matmul::activations::{Activations, Group};
use crate::matmul::{LANES, OutView};

use super::decode::{Decode, parts};
use super::lanes::{each8, load_f32, store_f32};
use super::panel::{Panel, ROWS};

/// Tokens of a tile: 2 x 6 accumulators, two weight vectors, an activation and a product make 16 registers.
const TILE: usize = 6;

/// Panels that are unpacked together.
const PANELS: usize = 4;

/// What the products of a thread keep: panels, and the results of their rows, [token][panel].
#[derive(Default)]
pub(super) struct Scratch {
    panels: Vec<Panel>,
    results: Vec<Results>,
}

/// Results of the rows of a panel for one token.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
pub(super) struct Results(pub(super) [[f32; 8]; 2]);

/// The inner loops of an instruction set.
pub(super) trait Kernel {
    /// Adds the products of one group of columns to the results of T tokens.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    unsafe fn tile<D: Decode, const T: usize>(panels: &[Panel], present: usize, x: &[Group; T], results: &mut [Results]);
}

/// # Safety
/// The CPU has the instruction set of K.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply<D: Decode, K: Kernel>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    out: &mut OutView<'_>,
    scratch: &mut Scratch,
) {
    let blocks = weights.cols() / BLOCK;
    let Scratch { panels, results } = scratch;
    panels.resize_with(PANELS, Panel::default);
    for first in rows.clone().step_by(PANELS * ROWS) {
        let count = (PANELS * ROWS).min(rows.end - first);
        let panels = &mut panels[..count.div_ceil(ROWS)];
        results.clear();
        results.resize(x.tokens() * panels.len(), Results::default());
        for index in 0..blocks.div_ceil(LANES) {
            let present = LANES.min(blocks - index * LANES);
            for half in 0..count.div_ceil(8) {
                // Absent rows repeat the last one: their results are never written.
                let groups = each8!(|J| {
                    let row = first + (8 * half + J).min(count - 1);
                    weights.row(row).as_ptr().wrapping_add(index * D::BYTES)
                });
                // SAFETY: the pointers are those of group `index` of rows of `weights`, of which `present` blocks
                // exist.
                unsafe { panels[half / 2].unpack::<D>(&groups, present, half % 2) };
            }
            let tiles = x.groups(index).chunks(TILE).zip(results.chunks_mut(TILE * panels.len()));
            for (x, results) in tiles {
                // SAFETY: the caller's promise.
                unsafe {
                    match x.len() {
                        1 => tile::<D, K, 1>(panels, present, x, results),
                        2 => tile::<D, K, 2>(panels, present, x, results),
                        3 => tile::<D, K, 3>(panels, present, x, results),
                        4 => tile::<D, K, 4>(panels, present, x, results),
                        5 => tile::<D, K, 5>(panels, present, x, results),
                        _ => tile::<D, K, TILE>(panels, present, x, results),
                    }
                }
            }
        }
        for (token, values) in results.chunks(panels.len()).enumerate() {
            for (panel, values) in values.iter().enumerate() {
                let rows = ROWS.min(count - panel * ROWS);
                out.set_rows(token, first + panel * ROWS, &values.0.as_flattened()[..rows]);
            }
        }
    }
}

/// # Safety
/// The CPU has the instruction set of K.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<D: Decode, K: Kernel, const T: usize>(
    panels: &[Panel],
    present: usize,
    x: &[Group],
    results: &mut [Results],
) {
    let x = x.first_chunk::<T>().expect("a tile has T tokens");
    assert_eq!(results.len(), T * panels.len());
    // SAFETY: the caller's promise.
    unsafe { K::tile::<D, T>(panels, present, x, results) }
}

/// Two vectors of eight rows.
pub(super) struct Avx2;

impl Kernel for Avx2 {
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tile<D: Decode, const T: usize>(panels: &[Panel], present: usize, x: &[Group; T], results: &mut [Results]) {
        for (index, panel) in panels.iter().enumerate() {
            let v = products::<D, T>(panel, present, x);
            for t in 0..T {
                let scale = _mm256_set1_ps(x[t].scale);
                for half in 0..2 {
                    let result = &mut results[t * panels.len() + index].0[half];
                    let sum = _mm256_fmadd_ps(v[t][half], scale, load_f32(result));
                    store_f32(result, sum);
                }
            }
        }
    }
}

/// Products of one group of columns, before the scale of the activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn products<D: Decode, const T: usize>(panel: &Panel, present: usize, x: &[Group; T]) -> [[__m256; 2]; T] {
    let run = D::FORMAT.run();
    let mut v = [[_mm256_setzero_ps(); 2]; T];
    for (index, lines) in panel.codes.chunks(16 * run).take(present / run).enumerate() {
        let mut sums = [[_mm256_setzero_si256(); 2]; T];
        for (pair, lines) in lines.iter().enumerate() {
            let w = [lines.load(0), lines.load(1)];
            for t in 0..T {
                let a = broadcast_pair(&x[t], 16 * run * index + pair);
                for half in 0..2 {
                    sums[t][half] = _mm256_add_epi32(sums[t][half], _mm256_madd_epi16(w[half], a));
                }
            }
        }
        let scales = [panel.scales[index].load_f32(0), panel.scales[index].load_f32(1)];
        for t in 0..T {
            for half in 0..2 {
                v[t][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[t][half]), scales[half], v[t][half]);
            }
        }
    }
    for part in 0..parts::<D>(present) {
        let offsets = [panel.offsets[part].load_f32(0), panel.offsets[part].load_f32(1)];
        for t in 0..T {
            let sum = if D::FORMAT.has_half_offsets() { x[t].halves[part] } else { x[t].blocks[part] };
            for half in 0..2 {
                v[t][half] = _mm256_fmadd_ps(offsets[half], _mm256_set1_ps(sum), v[t][half]);
            }
        }
    }
    v
}

/// Codes 2 * pair and 2 * pair + 1 in every lane; `pair` is below 128.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn broadcast_pair(x: &Group, pair: usize) -> __m256i {
    debug_assert!(pair < 128);
    // SAFETY: a group has 128 pairs of codes, aligned to 64 bytes.
    _mm256_set1_epi32(unsafe { x.codes.as_ptr().cast::<i32>().add(pair).read() })
}
