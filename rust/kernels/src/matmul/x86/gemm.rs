//! Many tokens: panels of sixteen unpacked rows meet tiles of up to four tokens.
//!
//! ```text
//! for panel of 16 rows: unpack
//!     for tile of 4 tokens: for block:
//!         2 x 4 int accumulators; for each four columns: 2 weight vectors x 4 broadcast activations
//!         partial[block % 8] += accumulators * scales (and offsets)      lanes = rows
//! ```

use core::arch::x86_64::*;
use std::ops::Range;

use crate::formats::{BLOCK, Weights};
use crate::matmul::activations::{self, Activations, Plane};
use crate::matmul::{LANES, OutView};

use super::lanes::{broadcast_pair, broadcast4, store_f32};
use super::octet::{COARSE_BITS, Decode, Sum};
use super::panel::{Octets, Panel, ROWS};

/// Tokens of a tile: 2 x 4 accumulators leave registers for weights, activations and temporaries.
const TILE: usize = 4;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply<D: Decode, const FINE: bool>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    out: &mut OutView<'_>,
    panel: &mut Panel,
) {
    let blocks = weights.cols() / BLOCK;
    for first in rows.clone().step_by(ROWS) {
        let count = ROWS.min(rows.end - first);
        let octets = if wide::<D, FINE>() {
            panel.unpack::<D, true>(weights, first, count)
        } else {
            panel.unpack::<D, false>(weights, first, count)
        };
        let mut token = 0;
        while token < x.tokens() {
            match x.tokens() - token {
                1 => tile::<D, 1, FINE>(octets, blocks, x, token, first, count, out),
                2 => tile::<D, 2, FINE>(octets, blocks, x, token, first, count, out),
                3 => tile::<D, 3, FINE>(octets, blocks, x, token, first, count, out),
                _ => tile::<D, TILE, FINE>(octets, blocks, x, token, first, count, out),
            }
            token += TILE;
        }
    }
}

/// Partial sums of a tile: [partial][token][half of the rows].
type Partial<const T: usize> = [[[__m256; 2]; T]; LANES];

#[target_feature(enable = "avx2,fma,f16c")]
fn tile<D: Decode, const T: usize, const FINE: bool>(
    panel: &[Octets],
    blocks: usize,
    x: &Activations,
    token: usize,
    first: usize,
    count: usize,
    out: &mut OutView<'_>,
) {
    let tokens: [&[activations::Octet]; T] = std::array::from_fn(|t| x.octets(token + t));
    let mut partial: Partial<T> = [[[_mm256_setzero_ps(); 2]; T]; LANES];
    for (o, weights) in panel.iter().enumerate() {
        let octets: [&activations::Octet; T] = std::array::from_fn(|t| &tokens[t][o]);
        for block in 0..LANES.min(blocks - o * LANES) {
            accumulate::<D, T, FINE>(weights, &octets, block, &mut partial[block]);
        }
    }
    for t in 0..T {
        for half in 0..2 {
            let p = |i: usize| partial[i][t][half];
            let sum = _mm256_add_ps(
                _mm256_add_ps(_mm256_add_ps(p(0), p(4)), _mm256_add_ps(p(2), p(6))),
                _mm256_add_ps(_mm256_add_ps(p(1), p(5)), _mm256_add_ps(p(3), p(7))),
            );
            let mut values = [0.0; 8];
            store_f32(&mut values, sum);
            for (row, &value) in (8 * half..count).zip(&values) {
                out.set(token + t, first + row, value);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn accumulate<D: Decode, const T: usize, const FINE: bool>(
    w: &Octets,
    x: &[&activations::Octet; T],
    block: usize,
    partial: &mut [[__m256; 2]; T],
) {
    let mut coarse: [&Plane; T] = [&x[0].coarse; T];
    let mut fine: [&Plane; T] = [&x[0].fine; T];
    for t in 0..T {
        (coarse[t], fine[t]) = (&x[t].coarse, &x[t].fine);
    }
    let mut sums;
    if wide::<D, FINE>() {
        sums = wide_sums::<T>(w, x, block);
    } else {
        sums = code_sums::<D, T>(w, &coarse, block);
        if FINE {
            let low = code_sums::<D, T>(w, &fine, block);
            for t in 0..T {
                for half in 0..2 {
                    sums[t][half] = both(sums[t][half], low[t][half]);
                }
            }
        }
    }
    for t in 0..T {
        let scale = _mm256_set1_ps(x[t].scales[block]);
        for half in 0..2 {
            let p = &mut partial[t][half];
            let weight_scale = _mm256_castsi256_ps(w.scale[block].load(half));
            *p = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[t][half]), _mm256_mul_ps(weight_scale, scale), *p);
            if D::OFFSET {
                let offset = _mm256_castsi256_ps(w.offset[block].load(half));
                let sum = if D::STEPS {
                    let steps = w.steps[block].load(half);
                    let mut msum = _mm256_madd_epi16(steps, broadcast_pair(coarse[t].halves[block]));
                    if FINE {
                        msum = both(msum, _mm256_madd_epi16(steps, broadcast_pair(fine[t].halves[block])));
                    }
                    _mm256_mul_ps(scale, _mm256_cvtepi32_ps(msum))
                } else {
                    _mm256_set1_ps(x[t].sums[block])
                };
                *p = _mm256_fmadd_ps(offset, sum, *p);
            }
        }
    }
}

/// Whether 16-bit weights and whole activation codes take fewer operations than two planes.
const fn wide<D: Decode, const FINE: bool>() -> bool {
    FINE && matches!(D::SUM, Sum::Signed | Sum::Halves)
}

/// Block sums of 16-bit weights.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn wide_sums<const T: usize>(w: &Octets, x: &[&activations::Octet; T], block: usize) -> [[__m256i; 2]; T] {
    let mut sums = [[_mm256_setzero_si256(); 2]; T];
    for pair in 0..16 {
        let weights = [w.wide[block][pair].load(0), w.wide[block][pair].load(1)];
        for t in 0..T {
            let a = broadcast_pair(x[t].wide[block].as_chunks::<2>().0[pair]);
            for half in 0..2 {
                sums[t][half] = _mm256_add_epi32(sums[t][half], _mm256_madd_epi16(weights[half], a));
            }
        }
    }
    sums
}

/// The sum over both planes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn both(coarse: __m256i, fine: __m256i) -> __m256i {
    _mm256_add_epi32(_mm256_slli_epi32::<COARSE_BITS>(coarse), fine)
}

/// Block sums of (codes - BIAS) times one plane of activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn code_sums<D: Decode, const T: usize>(w: &Octets, x: &[&Plane; T], block: usize) -> [[__m256i; 2]; T] {
    let mut sums = match D::SUM {
        Sum::Nibble => small::<T, 8>(w, x, block),
        Sum::Small => small::<T, 4>(w, x, block),
        Sum::Halves => halves::<T>(w, x, block),
        Sum::Signed => signed::<T>(w, x, block),
    };
    if D::BIAS != 0 {
        for t in 0..T {
            let pair = broadcast_pair(x[t].halves[block]);
            for half in 0..2 {
                let bias = if D::SUM == Sum::Halves { w.bias[block].load(half) } else { _mm256_set1_epi16(D::BIAS) };
                sums[t][half] = _mm256_sub_epi32(sums[t][half], _mm256_madd_epi16(bias, pair));
            }
        }
    }
    sums
}

/// Block sums of small unsigned codes: `QUADS` of them (of four columns) fit int16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn small<const T: usize, const QUADS: usize>(w: &Octets, x: &[&Plane; T], block: usize) -> [[__m256i; 2]; T] {
    let one = _mm256_set1_epi16(1);
    let mut sums = [[_mm256_setzero_si256(); 2]; T];
    for group in 0..8 / QUADS {
        let mut short = [[_mm256_setzero_si256(); 2]; T];
        for quad in group * QUADS..(group + 1) * QUADS {
            let weights = [w.codes[block][quad].load(0), w.codes[block][quad].load(1)];
            for t in 0..T {
                let a = broadcast4(&x[t].codes[block], quad);
                for half in 0..2 {
                    short[t][half] = _mm256_add_epi16(short[t][half], _mm256_maddubs_epi16(weights[half], a));
                }
            }
        }
        for t in 0..T {
            for half in 0..2 {
                sums[t][half] = _mm256_add_epi32(sums[t][half], _mm256_madd_epi16(short[t][half], one));
            }
        }
    }
    sums
}

/// Block sums of unsigned codes with an integer scale per half block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn halves<const T: usize>(w: &Octets, x: &[&Plane; T], block: usize) -> [[__m256i; 2]; T] {
    let mut sums = [[_mm256_setzero_si256(); 2]; T];
    for two in 0..4 {
        let codes = [&w.codes[block][2 * two], &w.codes[block][2 * two + 1]];
        for half in 0..2 {
            let weights = [codes[0].load(half), codes[1].load(half)];
            let scale = w.pairs[block][two / 2].load(half);
            for t in 0..T {
                let a = [broadcast4(&x[t].codes[block], 2 * two), broadcast4(&x[t].codes[block], 2 * two + 1)];
                let short =
                    _mm256_add_epi16(_mm256_maddubs_epi16(weights[0], a[0]), _mm256_maddubs_epi16(weights[1], a[1]));
                sums[t][half] = _mm256_add_epi32(sums[t][half], _mm256_madd_epi16(short, scale));
            }
        }
    }
    sums
}

/// Block sums of signed codes: magnitudes meet activations with the sign of the code.
///
/// Panels of int16 for `madd` need fewer operations, but twice the cache: measured slower.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn signed<const T: usize>(w: &Octets, x: &[&Plane; T], block: usize) -> [[__m256i; 2]; T] {
    let one = _mm256_set1_epi16(1);
    let mut sums = [[_mm256_setzero_si256(); 2]; T];
    for quad in 0..8 {
        let weights = [w.codes[block][quad].load(0), w.codes[block][quad].load(1)];
        let magnitudes = [_mm256_abs_epi8(weights[0]), _mm256_abs_epi8(weights[1])];
        for t in 0..T {
            let a = broadcast4(&x[t].codes[block], quad);
            for half in 0..2 {
                let short = _mm256_maddubs_epi16(magnitudes[half], _mm256_sign_epi8(a, weights[half]));
                sums[t][half] = _mm256_add_epi32(sums[t][half], _mm256_madd_epi16(short, one));
            }
        }
    }
    sums
}
