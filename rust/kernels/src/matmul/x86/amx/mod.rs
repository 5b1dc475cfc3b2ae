//! Several tokens, with the matrix unit AMX: a group of columns of up to 128 unpacked rows meets all tiles of tokens.
//!
//! ```text
//! for 128 rows: for group: unpack eight panels of 16 rows
//!     for tile of 16 tokens: for panel:
//!         sums of runs: the unit, exact in int32, to memory
//!         v = sums * scales + offsets, lanes = tokens
//!         results += v * activation scales
//! ```
//! Codes with their integer scales have up to 13 bits and activations 14: both are taken apart into int8 planes of seven
//! bits, and the products of planes are put together again. The panels (8 KiB of codes each) and results stay in the L2
//! cache; activations stream past once for 128 rows, which is what the L3 cache can deliver.

mod pack;
mod panel;
mod transpose;
mod unit;

use core::arch::x86_64::*;
use std::ops::Range;

use crate::formats::{BLOCK, Weights};
use crate::matmul::activations::{Activations, Precision};
use crate::matmul::tiled::{Step, Sums, TOKENS};
use crate::matmul::{LANES, OutView};

use super::decode::{Decode, parts};
use super::lanes::each8;
pub(in crate::matmul) use pack::pack;
use panel::{Panel, ROWS};
use transpose::transpose;
use unit::{Products, Unit};

/// Panels that are unpacked together.
const PANELS: usize = 8;

/// What the products of a thread keep: panels, and the results of their rows, [tile][panel].
#[derive(Default)]
pub(super) struct Scratch {
    panels: Vec<Panel>,
    results: Vec<Results>,
}

/// Results of a panel: [row][token].
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Results([[f32; TOKENS]; ROWS]);

/// A group of columns of a tile of tokens.
#[derive(Clone, Copy)]
struct Tile<'a> {
    sums: &'a Sums,
    steps: &'a [Step],
}

/// # Safety
/// The CPU has AMX, and the system lets us use it.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn multiply<D: Decode>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    precision: Precision,
    out: &mut OutView<'_>,
    scratch: &mut Scratch,
) {
    let narrow = precision == Precision::Int8;
    let blocks = weights.cols() / BLOCK;
    // SAFETY: the caller's promise, and the only one in this function.
    let unit = unsafe { Unit::new(!D::FORMAT.has_integer_scales()) };
    let Scratch { panels, results } = scratch;
    panels.resize_with(PANELS, Panel::default);
    for first in rows.clone().step_by(PANELS * ROWS) {
        let count = (PANELS * ROWS).min(rows.end - first);
        let panels = &mut panels[..count.div_ceil(ROWS)];
        results.clear();
        results.resize(x.tiles() * panels.len(), Results([[0.0; TOKENS]; ROWS]));
        for index in 0..blocks.div_ceil(LANES) {
            let present = LANES.min(blocks - index * LANES);
            for (number, panel) in panels.iter_mut().enumerate() {
                // Absent rows repeat the last one: their results are never written.
                let groups: [*const u8; ROWS] = std::array::from_fn(|row| {
                    let row = first + (ROWS * number + row).min(count - 1);
                    weights.row(row).as_ptr().wrapping_add(index * D::BYTES)
                });
                // SAFETY: the pointers are those of group `index` of rows of `weights`, of which `present` blocks exist.
                unsafe {
                    if narrow {
                        panel.unpack::<D, true>(&groups, present);
                    } else {
                        panel.unpack::<D, false>(&groups, present);
                    }
                }
            }
            let (sums, steps) = x.tile_group(index);
            for ((sums, steps), results) in sums.iter().zip(steps).zip(results.chunks_exact_mut(panels.len())) {
                let tile = Tile { sums, steps };
                if D::FORMAT.has_integer_scales() {
                    match (narrow, D::FORMAT.run(narrow)) {
                        (true, _) => add_scaled::<D, 1, true>(&unit, panels, tile, results),
                        (_, 8) => add_scaled::<D, 1, false>(&unit, panels, tile, results),
                        (_, 4) => add_scaled::<D, 2, false>(&unit, panels, tile, results),
                        _ => add_scaled::<D, 4, false>(&unit, panels, tile, results),
                    }
                } else {
                    add_plain::<D>(&unit, panels, present, tile, results);
                }
            }
        }
        for (tile, results) in results.chunks_exact(panels.len()).enumerate() {
            for (panel, results) in results.iter().enumerate() {
                let place = (tile * TOKENS, first + panel * ROWS);
                write(results, place, x.tokens(), ROWS.min(count - panel * ROWS), out);
            }
        }
    }
}

/// Writes the results of a panel for a tile whose first token and row are `place`.
#[target_feature(enable = "avx512f")]
fn write(results: &Results, place: (usize, usize), tokens: usize, rows: usize, out: &mut OutView<'_>) {
    let mut v = [_mm512_setzero_si512(); ROWS];
    for (v, row) in v.iter_mut().zip(&results.0) {
        *v = load(row);
    }
    for (token, v) in (place.0..tokens).zip(transpose(&v)) {
        let mut values = [0.0_f32; ROWS];
        // SAFETY: sixteen floats.
        unsafe { _mm512_storeu_si512(values.as_mut_ptr().cast(), v) };
        out.set_rows(token, place.1, &values[..rows]);
    }
}

/// 64 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn load<T>(from: &[T; 16]) -> __m512i {
    const { assert!(size_of::<T>() == 4) };
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_f32(from: &[f32; 16]) -> __m512 {
    _mm512_castsi512_ps(load(from))
}

/// v + offsets of row `row` * sums, then to the results.
#[inline]
#[target_feature(enable = "avx512f")]
fn add<D: Decode>(mut v: __m512, panel: &Panel, row: usize, present: usize, sums: &Sums, results: &mut Results) {
    for part in 0..parts::<D>(present) {
        let sum = load_f32(if D::FORMAT.has_half_offsets() { &sums.halves[part] } else { &sums.blocks[part] });
        v = _mm512_fmadd_ps(_mm512_set1_ps(panel.offsets[part][row]), sum, v);
    }
    let result = &mut results.0[row];
    let sum = _mm512_fmadd_ps(v, load_f32(&sums.scale), load_f32(result));
    // SAFETY: sixteen floats.
    unsafe { _mm512_storeu_ps(result.as_mut_ptr(), sum) };
}

/// A group of a format with integer scales, which is whole: RUNS runs.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn add_scaled<D: Decode, const RUNS: usize, const NARROW: bool>(
    unit: &Unit,
    panels: &[Panel],
    tile: Tile<'_>,
    results: &mut [Results],
) {
    let mut products = [[[Products::ZERO; 3]; RUNS]; 2];
    let start = |panel: &Panel, products: &mut [[Products; 3]; RUNS]| {
        let planes = [&panel.low, &panel.high];
        for (run, products) in products.iter_mut().enumerate() {
            match RUNS {
                1 => unit.steps::<4>(planes, tile.steps, 0, products),
                2 => unit.steps::<2>(planes, tile.steps, 2 * run, products),
                _ => unit.steps::<1>(planes, tile.steps, run, products),
            }
        }
    };
    start(&panels[0], &mut products[0]);
    for (index, (panel, results)) in panels.iter().zip(results).enumerate() {
        // The unit works on the next panel while the sums of this one are put together.
        let (now, next) = products.split_at_mut(1);
        let (now, next) = if index % 2 == 0 { (&now[0], &mut next[0]) } else { (&next[0], &mut now[0]) };
        if let Some(panel) = panels.get(index + 1) {
            start(panel, next);
        }
        for row in 0..ROWS {
            let mut v = _mm512_setzero_ps();
            for run in 0..RUNS {
                let [low, middle, high] = &now[run];
                let mut sum = load(&middle.0[row]);
                if !NARROW {
                    sum = _mm512_add_epi32(_mm512_slli_epi32::<7>(load(&high.0[row])), sum);
                }
                sum = _mm512_add_epi32(_mm512_slli_epi32::<7>(sum), load(&low.0[row]));
                v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(panel.scales[run][row]), v);
            }
            add::<D>(v, panel, row, LANES, tile.sums, results);
        }
    }
}

/// A group of a format with a scale for each block, of which `present` are there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn add_plain<D: Decode>(unit: &Unit, panels: &[Panel], present: usize, tile: Tile<'_>, results: &mut [Results]) {
    let narrow = tile.steps.len() == crate::matmul::tiled::STEPS;
    let mut products = [[Products::ZERO; 2]; 2];
    for (panel, results) in panels.iter().zip(results) {
        let mut v = [_mm512_setzero_ps(); ROWS];
        unit.block(&panel.low, tile.steps, 0, &mut products[0]);
        each8!(|B| {
            if B < present {
                if B + 1 < present {
                    unit.block(&panel.low, tile.steps, B + 1, &mut products[(B + 1) % 2]);
                }
                let [low, high] = &products[B % 2];
                for row in 0..ROWS {
                    let mut sum = load(&low.0[row]);
                    if !narrow {
                        sum = _mm512_add_epi32(_mm512_slli_epi32::<7>(load(&high.0[row])), sum);
                    }
                    v[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(panel.scales[B][row]), v[row]);
                }
            }
        });
        for row in 0..ROWS {
            add::<D>(v[row], panel, row, present, tile.sums, results);
        }
    }
}
