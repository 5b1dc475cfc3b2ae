//! Several tokens, with the matrix unit AMX: a group of columns of up to 128 unpacked rows meets all tiles of tokens.
//!
//! ```text
//! for 128 rows: for group: unpack eight panels of 16 rows
//!     for two panels: for tile of 16 tokens: for panel:
//!         sums of runs: the unit, exact in int32, to memory
//!         v = sums * scales + offsets, lanes = tokens
//!         results += v * activation scales
//! ```
//! Codes with their integer scales have up to 13 bits and activations 14: both are taken apart into int8 planes of seven
//! bits, and the products of planes are put together again. The panels (8 KiB of codes each) and results stay in the L2
//! cache; activations stream past once for 128 rows, which is what the L3 cache can deliver.

pub(super) mod few;
#[cfg(feature = "amx-model")]
mod model;
mod pack;
mod panel;
mod results;
mod tiles;
mod transpose;
mod unit;

use core::arch::x86_64::*;
use std::ops::Range;

use crate::formats::{BLOCK, STRIP, Weights};
use crate::matmul::activations::{Activations, Precision};
use crate::matmul::tiled::{STEPS, Step, Sums, TOKENS};
use crate::matmul::{LANES, OutView};

use super::decode::Decode;
use super::lanes::prefetch;
use super::strip::{At, Strip};
pub(in crate::matmul) use pack::pack;
use panel::{Panel, ROWS};
use results::{Results, SIDE, add, load, write};
use tiles::Unit;
use unit::Products;
pub(crate) use unit::{PRODUCTS, multiply_registers};

/// Panels that are unpacked together.
const PANELS: usize = 8;

/// What the products of a thread keep: panels, and the results of their rows, [tile][panel].
#[derive(Default)]
pub(super) struct Scratch {
    panels: Vec<Panel>,
    results: Vec<Results>,
}

/// Steps of activations of 14 bits.
const WIDE: usize = 2 * STEPS;

/// Panels that are used in turns with each tile: their codes stay in the L1 cache.
const CLOSE: usize = 2;

/// Up to this many tiles, weights come from memory faster than they are used: rows are read in order then, a panel at a
/// time, and the next panel is fetched meanwhile.
const FEW_TILES: usize = 2;

/// Groups of such a panel that are unpacked before they are used: tiles cannot be loaded from stores that are still on
/// their way.
const FEW_GROUPS: usize = 4;

/// Where panels come from.
pub(super) trait Source<D: Decode> {
    /// Unpacks group `index`, of `present` blocks, of the sixteen rows from `first` on, `count` of which exist: absent
    /// rows are anything.
    ///
    /// # Safety
    /// The CPU has AVX-512, and there is such a group.
    unsafe fn unpack<const NARROW: bool>(
        panel: &mut Panel,
        weights: &Weights<'_>,
        rows: (usize, usize),
        group: (usize, usize),
    );
}

/// Rows as they are stored.
pub(super) struct Rows;

impl<D: Decode> Source<D> for Rows {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
    unsafe fn unpack<const NARROW: bool>(
        panel: &mut Panel,
        weights: &Weights<'_>,
        (first, count): (usize, usize),
        (index, present): (usize, usize),
    ) {
        let groups: [*const u8; ROWS] =
            std::array::from_fn(|row| weights.row(first + row.min(count - 1)).as_ptr().wrapping_add(index * D::BYTES));
        // SAFETY: the pointers are those of group `index` of rows of `weights`, of which so many blocks exist.
        unsafe { panel.unpack::<D, NARROW>(&groups, present) };
    }
}

/// Rows in strips: `first` is the first one of a strip.
pub(super) struct Strips;

impl<D: Strip> Source<D> for Strips {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
    unsafe fn unpack<const NARROW: bool>(
        panel: &mut Panel,
        weights: &Weights<'_>,
        (first, _): (usize, usize),
        (index, present): (usize, usize),
    ) {
        let strip = weights.strip(first / STRIP).as_ptr();
        // SAFETY: a strip has all groups of its rows, and this one so many blocks.
        unsafe { panel.unpack_strip::<D, NARROW>(At::group::<D>(strip, index, present), present) };
    }
}

/// # Safety
/// The CPU has AMX, and the system lets us use it.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn multiply<D: Decode, S: Source<D>>(
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
    let few = x.tiles() <= FEW_TILES;
    let close = if few && !D::FORMAT.has_integer_scales() { FEW_GROUPS } else { 1 };
    let most = if few { ROWS } else { PANELS * ROWS };
    // Strips are unpacked as a whole.
    for first in (weights.first_with(rows.start)..rows.end).step_by(most) {
        let count = most.min(rows.end - first);
        let together = count.div_ceil(ROWS);
        results.clear();
        results.resize(x.tiles() * together, Results::ZERO);
        let present = |index: usize| LANES.min(blocks - index * LANES);
        let next = few.then(|| weights.bytes_from(first + ROWS)).filter(|next| !next.is_empty());
        for start in (0..blocks.div_ceil(LANES)).step_by(close) {
            let groups = start..blocks.div_ceil(LANES).min(start + close);
            for (index, panels) in groups.clone().zip(panels.chunks_exact_mut(together)) {
                for (number, panel) in panels.iter_mut().enumerate() {
                    let rows = (first + ROWS * number, count - ROWS * number);
                    // SAFETY: the caller's promise; these rows have such a group.
                    unsafe {
                        if narrow {
                            S::unpack::<true>(panel, weights, rows, (index, present(index)));
                        } else {
                            S::unpack::<false>(panel, weights, rows, (index, present(index)));
                        }
                    }
                }
            }
            for (index, panels) in groups.zip(panels.chunks_exact(together)) {
                let (sums, steps) = x.tile_group(index);
                // As many bytes as a group of a panel has, wherever they belong to.
                let next = next.map(|next| next.as_ptr().wrapping_add(ROWS * index * D::BYTES));
                let mut group = Group { panels, sums, present: present(index), results, next };
                match (D::FORMAT.has_integer_scales(), D::FORMAT.run(narrow)) {
                    (true, _) if narrow => group.add_scaled::<D, 1, STEPS>(&unit, steps.as_chunks().0),
                    (true, 8) => group.add_scaled::<D, 1, WIDE>(&unit, steps.as_chunks().0),
                    (true, 4) => group.add_scaled::<D, 2, WIDE>(&unit, steps.as_chunks().0),
                    (true, _) => group.add_scaled::<D, 4, WIDE>(&unit, steps.as_chunks().0),
                    _ if narrow => group.add_plain::<D, STEPS>(&unit, steps.as_chunks().0),
                    _ => group.add_plain::<D, WIDE>(&unit, steps.as_chunks().0),
                }
            }
        }
        for (tile, results) in results.chunks_exact(together).enumerate() {
            for (panel, results) in results.iter().enumerate() {
                write(results, (tile * TOKENS, first + panel * ROWS), x.tokens(), &rows, out);
            }
        }
    }
}

/// A group of columns of some panels and of all tokens.
struct Group<'a> {
    panels: &'a [Panel],
    /// [tile]
    sums: &'a [Sums],
    /// Blocks in the group.
    present: usize,
    /// [tile][panel]
    results: &'a mut [Results],
    /// What to fetch meanwhile, as much as a group of a panel has of stored bytes.
    next: Option<*const u8>,
}

impl Group<'_> {
    /// Asks for part `part` of eight of what is to be fetched: all at once would wait for each other.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn fetch<D: Decode>(&self, tile: usize, part: usize) {
        if let (Some(next), 0) = (self.next, tile) {
            let share = ROWS * D::BYTES / LANES;
            prefetch(next.wrapping_add(part * share), share);
        }
    }

    /// Of a format with integer scales, which is whole: RUNS runs.
    ///
    /// The unit works on a panel while the sums of the one before are put together.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn add_scaled<D: Decode, const RUNS: usize, const P: usize>(&mut self, unit: &Unit, steps: &[[Step; P]]) {
        let mut products = [[[Products::ZERO; 3]; RUNS]; 2];
        let (now, next) = products.split_at_mut(1);
        let (mut now, mut next) = (&mut now[0], &mut next[0]);
        let mut last = None;
        for first in (0..self.panels.len()).step_by(CLOSE) {
            for tile in 0..steps.len() {
                for panel in first..self.panels.len().min(first + CLOSE) {
                    for part in 0..LANES / 2 {
                        self.fetch::<D>(tile, part);
                    }
                    half::<RUNS, P, 0>(unit, &self.panels[panel], &steps[tile], next);
                    if let Some(item) = last {
                        self.put_together::<D, RUNS, P>(now, item, 0);
                    }
                    for part in LANES / 2..LANES {
                        self.fetch::<D>(tile, part);
                    }
                    half::<RUNS, P, 1>(unit, &self.panels[panel], &steps[tile], next);
                    if let Some(item) = last {
                        self.put_together::<D, RUNS, P>(now, item, SIDE);
                    }
                    last = Some((tile, panel));
                    (now, next) = (next, now);
                }
            }
        }
        if let Some(item) = last {
            self.put_together::<D, RUNS, P>(now, item, 0);
            self.put_together::<D, RUNS, P>(now, item, SIDE);
        }
    }

    /// Of a format with a scale for each block.
    ///
    /// The unit works on a block while the sums of the one before are put together.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn add_plain<D: Decode, const P: usize>(&mut self, unit: &Unit, steps: &[[Step; P]]) {
        let mut products = [[Products::ZERO; 2]; 2];
        let (now, next) = products.split_at_mut(1);
        let (mut now, mut next) = (&mut now[0], &mut next[0]);
        for (tile, steps) in steps.iter().enumerate() {
            for (number, panel) in self.panels.iter().enumerate() {
                let mut v = [_mm512_setzero_ps(); ROWS];
                unit.block(&panel.low, steps, 0, next);
                for block in 1..=self.present {
                    self.fetch::<D>(tile, block - 1);
                    (now, next) = (next, now);
                    if block < self.present {
                        unit.block(&panel.low, steps, block, next);
                    }
                    let [low, high] = &*now;
                    for row in 0..ROWS {
                        let mut sum = load(&low.0[row]);
                        if P > STEPS {
                            sum = _mm512_add_epi32(_mm512_slli_epi32::<7>(load(&high.0[row])), sum);
                        }
                        let scale = _mm512_set1_ps(panel.scales[block - 1][row]);
                        v[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, v[row]);
                    }
                }
                let results = &mut self.results[tile * self.panels.len() + number];
                for (half, v) in v.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
                    add::<D, P>(v, panel, SIDE * half, self.present, &self.sums[tile], results);
                }
            }
        }
    }

    /// Sums of runs of a (tile, panel) times their scales, of the rows from `first` on, then to the results.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn put_together<D: Decode, const RUNS: usize, const P: usize>(
        &mut self,
        products: &[[Products; 3]; RUNS],
        (tile, panel): (usize, usize),
        first: usize,
    ) {
        let results = &mut self.results[tile * self.panels.len() + panel];
        let panel = &self.panels[panel];
        let mut v = [_mm512_setzero_ps(); SIDE];
        for (run, [low, middle, high]) in products.iter().enumerate() {
            for row in 0..SIDE {
                let mut sum = load(&middle.0[first + row]);
                if P > STEPS {
                    sum = _mm512_add_epi32(_mm512_slli_epi32::<7>(load(&high.0[first + row])), sum);
                }
                sum = _mm512_add_epi32(_mm512_slli_epi32::<7>(sum), load(&low.0[first + row]));
                let scale = _mm512_set1_ps(panel.scales[run][first + row]);
                v[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, v[row]);
            }
        }
        add::<D, P>(&mut v, panel, first, LANES, &self.sums[tile], results);
    }
}

/// Half of the unit's work on a panel.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn half<const RUNS: usize, const P: usize, const HALF: usize>(
    unit: &Unit,
    panel: &Panel,
    steps: &[Step; P],
    to: &mut [[Products; 3]; RUNS],
) {
    for step in [2 * HALF, 2 * HALF + 1] {
        if step % (STEPS / RUNS) == 0 {
            unit.clear();
        }
        unit.step([&panel.low, &panel.high], steps, step);
        if (step + 1) % (STEPS / RUNS) == 0 {
            unit.finish::<P>(&mut to[step / (STEPS / RUNS)]);
        }
    }
}
