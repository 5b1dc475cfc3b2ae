//! Many tokens: a group of columns of up to 64 unpacked rows meets all tokens, tile by tile, then the next group.
//!
//! ```text
//! for 64 rows: for group: unpack four panels of 16 rows
//!     for tile of 6 tokens: for panel:
//!         v = products of the group, lanes = rows: the inner loops of an instruction set
//!         results += v * activation scales
//! ```
//! The panels (at most 11 KiB each) stay in the L2 cache, a tile of activations (4 KiB) in L1; all activations of a
//! group stream past once for 64 rows.

use core::arch::x86_64::__m256i;
use std::ops::Range;

use crate::formats::{BLOCK, STRIP, Weights};
use crate::matmul::activations::Activations;
use crate::matmul::codes::{Bytes, Group};
use crate::matmul::{LANES, OutView};
use crate::room::room;

use super::decode::Decode;
use super::lanes::each8;
use super::panel::{Panel, ROWS};
use super::strip::{At, Strip};

pub(super) mod ymm;
pub(super) mod zmm;

/// Most tokens of a tile: with two vectors of rows, 12 accumulators, and four registers for what they read.
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

/// One group of columns of some tokens: the codes that the inner loops read.
#[derive(Clone, Copy)]
pub(super) enum Codes<'a> {
    Words(&'a [Group]),
    Bytes(&'a [Bytes]),
}

impl<'a> Codes<'a> {
    /// Those from `token` on.
    #[inline]
    fn from(self, token: usize) -> Self {
        match self {
            Self::Words(groups) => Self::Words(&groups[token..]),
            Self::Bytes(bytes) => Self::Bytes(&bytes[token..]),
        }
    }

    /// Those of tile `number`, of T tokens.
    #[inline]
    fn tile<const T: usize>(self, number: usize) -> Tokens<'a, T> {
        let whole = "a tile has T tokens";
        match self {
            Self::Words(groups) => Tokens::Words(groups[number * T..].first_chunk().expect(whole)),
            Self::Bytes(bytes) => Tokens::Bytes(bytes[number * T..].first_chunk().expect(whole)),
        }
    }
}

/// The same of a tile of T tokens.
#[derive(Clone, Copy)]
pub(super) enum Tokens<'a, const T: usize> {
    Words(&'a [Group; T]),
    Bytes(&'a [Bytes; T]),
}

impl<const T: usize> Tokens<'_, T> {
    #[inline]
    fn scale(self, token: usize) -> f32 {
        match self {
            Self::Words(groups) => groups[token].scale,
            Self::Bytes(bytes) => bytes[token].scale,
        }
    }

    /// The sum of the codes of a block.
    #[inline]
    fn sum(self, token: usize, block: usize) -> f32 {
        match self {
            Self::Words(groups) => groups[token].blocks[block],
            Self::Bytes(bytes) => f32::from(bytes[token].blocks[block]),
        }
    }
}

/// The inner loops of an instruction set and a precision.
pub(super) trait Kernel {
    /// Whether activations have 8 bits.
    const NARROW: bool;

    /// Whether an integer scale is a 16-bit number with zero above it, instead of twice the number.
    const ONCE: bool;

    /// Whether weights of D are unpacked as bytes.
    fn takes_bytes<D: Decode>() -> bool;

    /// Adds the products of one group of `present` blocks to the results of tiles of T tokens, [token][panel].
    ///
    /// # Safety
    /// The CPU has the instruction set.
    unsafe fn tiles<D: Decode, const T: usize>(panels: &[Panel], present: usize, x: Codes<'_>, results: &mut [Results]);
}

/// Where panels come from.
pub(super) trait Source<D: Decode> {
    /// Unpacks group `index`, of `present` blocks, of `count` rows from row `first` on; absent rows are anything.
    ///
    /// # Safety
    /// The CPU has the instruction set of K, and there is such a group.
    unsafe fn unpack<K: Kernel>(
        panels: &mut [Panel],
        weights: &Weights<'_>,
        rows: (usize, usize),
        group: (usize, usize),
    );
}

/// Rows as they are stored.
pub(super) struct Rows;

impl<D: Decode> Source<D> for Rows {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unpack<K: Kernel>(
        panels: &mut [Panel],
        weights: &Weights<'_>,
        (first, count): (usize, usize),
        (index, present): (usize, usize),
    ) {
        for half in 0..count.div_ceil(8) {
            // Absent rows repeat the last one: their results are never written.
            let groups = each8!(|J| {
                let row = first + (8 * half + J).min(count - 1);
                weights.row(row).as_ptr().wrapping_add(index * D::BYTES)
            });
            let panel = &mut panels[half / 2];
            // SAFETY: the pointers are those of group `index` of rows of `weights`, of which `present` blocks exist.
            unsafe {
                if K::takes_bytes::<D>() {
                    panel.unpack::<D, true, true>(&groups, present, half % 2, K::ONCE);
                } else if K::NARROW {
                    panel.unpack::<D, true, false>(&groups, present, half % 2, K::ONCE);
                } else {
                    panel.unpack::<D, false, false>(&groups, present, half % 2, K::ONCE);
                }
            }
        }
    }
}

/// Rows in strips, for kernels of AVX-512: `first` is the first one of a strip.
pub(super) struct Strips;

impl<D: Strip> Source<D> for Strips {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
    unsafe fn unpack<K: Kernel>(
        panels: &mut [Panel],
        weights: &Weights<'_>,
        (first, _): (usize, usize),
        (index, present): (usize, usize),
    ) {
        for (number, panel) in panels.iter_mut().enumerate() {
            let at = At::group::<D>(weights.strip(first / STRIP + number).as_ptr(), index, present);
            // SAFETY: a strip has all groups of its rows, and this one so many blocks.
            unsafe {
                if K::takes_bytes::<D>() {
                    panel.unpack_strip::<D, true, true>(at, present);
                } else if K::NARROW {
                    panel.unpack_strip::<D, true, false>(at, present);
                } else {
                    panel.unpack_strip::<D, false, false>(at, present);
                }
            }
        }
    }
}

/// Rows in strips, for kernels of AVX2.
pub(super) struct NarrowStrips;

impl<D: Strip<__m256i>> Source<D> for NarrowStrips {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unpack<K: Kernel>(
        panels: &mut [Panel],
        weights: &Weights<'_>,
        (first, _): (usize, usize),
        (index, present): (usize, usize),
    ) {
        for (number, panel) in panels.iter_mut().enumerate() {
            let at = At::group::<D>(weights.strip(first / STRIP + number).as_ptr(), index, present);
            for half in 0..2 {
                // SAFETY: a strip has all groups of its rows, and this one so many blocks.
                unsafe {
                    if K::takes_bytes::<D>() {
                        panel.unpack_half_strip::<D, true, true>(at.half(half), present, half);
                    } else if K::NARROW {
                        panel.unpack_half_strip::<D, true, false>(at.half(half), present, half);
                    } else {
                        panel.unpack_half_strip::<D, false, false>(at.half(half), present, half);
                    }
                }
            }
        }
    }
}

/// # Safety
/// The CPU has the instruction set of K.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply<D: Decode, K: Kernel, S: Source<D>>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    out: &mut OutView<'_>,
    scratch: &mut Scratch,
) {
    let blocks = weights.cols() / BLOCK;
    // Tiles as equal as they can be: one of two tokens costs nearly as much as one of four.
    let tile = x.tokens().div_ceil(x.tokens().div_ceil(TILE));
    let Scratch { panels, results } = scratch;
    panels.resize_with(PANELS, Panel::default);
    // Strips are unpacked as a whole.
    for first in (weights.first_with(rows.start)..rows.end).step_by(PANELS * ROWS) {
        let count = (PANELS * ROWS).min(rows.end - first);
        let panels = &mut panels[..count.div_ceil(ROWS)];
        let width = panels.len();
        let results = room(results, x.tokens() * width, Results::default);
        let group_count = blocks.div_ceil(LANES);
        for index in 0..group_count {
            let present = LANES.min(blocks - index * LANES);
            // SAFETY: the caller's promise; these rows have such a group.
            unsafe { S::unpack::<K>(panels, weights, (first, count), (index, present)) };
            let codes =
                if K::takes_bytes::<D>() { Codes::Bytes(x.bytes(index)) } else { Codes::Words(x.groups(index)) };
            if index == 0 {
                results.fill(Results::default());
            }
            // Whole tiles in one go; after the last group each is written while it is in L1.
            let last = index + 1 == group_count;
            let step = if last { tile } else { x.tokens() / tile * tile };
            for (number, results) in results.chunks_mut(step * width).enumerate() {
                let token = number * step;
                let tokens = results.len() / width;
                let x = codes.from(token);
                assert!(tokens.is_multiple_of(tokens.min(tile)), "{tokens} tokens are tiles of {tile} or one tile");
                if last {
                    (token..token + tokens)
                        .for_each(|token| out.will_write(token, first.max(rows.start)..first + count));
                }
                // SAFETY: the caller's promise.
                unsafe {
                    match tokens.min(tile) {
                        1 => K::tiles::<D, 1>(panels, present, x, results),
                        2 => K::tiles::<D, 2>(panels, present, x, results),
                        3 => K::tiles::<D, 3>(panels, present, x, results),
                        4 => K::tiles::<D, 4>(panels, present, x, results),
                        5 => K::tiles::<D, 5>(panels, present, x, results),
                        _ => K::tiles::<D, TILE>(panels, present, x, results),
                    }
                }
                if last {
                    write(out, token, first, results, width, &rows);
                }
            }
        }
    }
}

/// Writes the results of a tile whose first token is `token`, of the panels from row `first` on.
fn write(out: &mut OutView<'_>, token: usize, first: usize, results: &[Results], width: usize, rows: &Range<usize>) {
    for (t, values) in results.chunks(width).enumerate() {
        for (panel, values) in values.iter().enumerate() {
            let values = values.0.as_flattened().first_chunk().expect("a panel has sixteen rows");
            out.set_sixteen(token + t, first + panel * ROWS, values, rows);
        }
    }
}

/// Codes 2 * pair and 2 * pair + 1; `pair` is below 128.
#[inline]
pub(super) fn pair_of(x: &Group, pair: usize) -> i32 {
    debug_assert!(pair < 128);
    // SAFETY: a group has 128 pairs of codes, aligned to 64 bytes.
    unsafe { x.codes.as_ptr().cast::<i32>().add(pair).read() }
}

/// Codes 4 * quad to 4 * quad + 3; `quad` is below 64.
#[inline]
pub(super) fn quad_of(x: &Bytes, quad: usize) -> i32 {
    debug_assert!(quad < 64);
    // SAFETY: a group has 64 quads of codes, aligned to 64 bytes.
    unsafe { x.codes.as_ptr().cast::<i32>().add(quad).read() }
}

/// Sums of codes of two half blocks or two blocks, whichever have steps, as two 16-bit numbers.
#[inline]
pub(super) fn two_sums<D: Decode>(halves: &[i16; 2 * LANES], blocks: &[i16; LANES], two: usize) -> i32 {
    if D::FORMAT.has_half_offsets() { two_of(halves, two) } else { two_of(blocks, two) }
}

/// Numbers `2 * two` and `2 * two + 1`.
#[inline]
pub(super) fn two_of<const N: usize>(x: &[i16; N], two: usize) -> i32 {
    assert!(2 * two + 1 < N);
    // SAFETY: both exist; the read is unaligned.
    unsafe { x.as_ptr().cast::<i32>().add(two).read_unaligned() }
}
