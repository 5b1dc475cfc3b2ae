//! The inner loops of the GEMM with AVX2: a panel is two vectors of eight rows.
//!
//! With activations of 14 bits, `vpmaddwd` multiplies pairs of int16. With 8 bits, `vpmaddubsw` multiplies pairs of
//! bytes, whose sums stay in int16 for as many columns as fit before they meet the integer scale.

use core::arch::x86_64::*;

use crate::matmul::codes::{Bytes, Group};

use super::decode::{Decode, fits_pairs, offsets, steps, sum_of};
use super::gemm::{Kernel, Results, Tokens, pair_of, quad_of, two_sums};
use super::lanes::{load_f32, store_f32};
use super::panel::Panel;

/// [token][half of the rows]
type Sums<const T: usize> = [[__m256i; 2]; T];
type Values<const T: usize> = [[__m256; 2]; T];

pub(super) struct Avx2<const NARROW: bool>;

impl<const NARROW: bool> Kernel for Avx2<NARROW> {
    const NARROW: bool = NARROW;

    fn takes_bytes<D: Decode>() -> bool {
        NARROW && fits_pairs::<D>()
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tile<D: Decode, const T: usize>(
        panels: &[Panel],
        present: usize,
        x: Tokens<'_, T>,
        results: &mut [Results],
    ) {
        for (index, panel) in panels.iter().enumerate() {
            let mut v = match x.bytes {
                Some(bytes) if Self::takes_bytes::<D>() => byte_products::<D, T>(panel, present, bytes),
                _ => products::<D, T>(panel, present, x.groups, D::FORMAT.run(NARROW)),
            };
            add_offsets::<D, T>(&mut v, panel, present, x);
            for t in 0..T {
                let scale = _mm256_set1_ps(x.groups[t].scale);
                for half in 0..2 {
                    let result = &mut results[t * panels.len() + index].0[half];
                    let sum = _mm256_fmadd_ps(v[t][half], scale, load_f32(result));
                    store_f32(result, sum);
                }
            }
        }
    }
}

/// Sums of the runs times their scales.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn products<D: Decode, const T: usize>(panel: &Panel, present: usize, x: &[Group; T], run: usize) -> Values<T> {
    let mut v = [[_mm256_setzero_ps(); 2]; T];
    for (index, lines) in panel.codes.chunks(16 * run).take(present / run).enumerate() {
        let mut sums: Sums<T> = [[_mm256_setzero_si256(); 2]; T];
        for (pair, lines) in lines.iter().enumerate() {
            let w = [lines.load(0), lines.load(1)];
            for t in 0..T {
                let a = _mm256_set1_epi32(pair_of(&x[t], 16 * run * index + pair));
                for half in 0..2 {
                    sums[t][half] = _mm256_add_epi32(sums[t][half], _mm256_madd_epi16(w[half], a));
                }
            }
        }
        add_run(&mut v, &sums, panel, index);
    }
    v
}

/// v += sums * scales of run `index`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_run<const T: usize>(v: &mut Values<T>, sums: &Sums<T>, panel: &Panel, index: usize) {
    let scales = [panel.scales[index].load_f32(0), panel.scales[index].load_f32(1)];
    for t in 0..T {
        for half in 0..2 {
            v[t][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[t][half]), scales[half], v[t][half]);
        }
    }
}

/// v += offsets * sums of codes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_offsets<D: Decode, const T: usize>(v: &mut Values<T>, panel: &Panel, present: usize, x: Tokens<'_, T>) {
    let offset = |part: usize| [panel.offsets[part].load_f32(0), panel.offsets[part].load_f32(1)];
    for part in 0..offsets::<D>(present) {
        let offsets = offset(part);
        for t in 0..T {
            for half in 0..2 {
                v[t][half] = _mm256_fmadd_ps(offsets[half], _mm256_set1_ps(x.groups[t].blocks[part]), v[t][half]);
            }
        }
    }
    if D::FORMAT.has_steps() {
        let offsets = offset(0);
        let m = match x.bytes {
            Some(bytes) => whole_steps::<D, T>(panel, bytes),
            None => steps_of_groups::<D, T>(panel, x.groups),
        };
        for t in 0..T {
            for half in 0..2 {
                v[t][half] = _mm256_fmadd_ps(m[t][half], offsets[half], v[t][half]);
            }
        }
    }
}

/// Steps times sums of codes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn steps_of_groups<D: Decode, const T: usize>(panel: &Panel, x: &[Group; T]) -> Values<T> {
    let mut m = [[_mm256_setzero_ps(); 2]; T];
    for part in 0..steps::<D>() {
        for t in 0..T {
            let sum = sum_of::<D>(&x[t], part);
            for half in 0..2 {
                m[t][half] = _mm256_fmadd_ps(panel.steps[part].load_f32(half), _mm256_set1_ps(sum), m[t][half]);
            }
        }
    }
    m
}

/// As [`steps_of_groups`], in integers, of panels of bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn whole_steps<D: Decode, const T: usize>(panel: &Panel, x: &[Bytes; T]) -> Values<T> {
    let mut m: Sums<T> = [[_mm256_setzero_si256(); 2]; T];
    for two in 0..steps::<D>() / 2 {
        for t in 0..T {
            let sums = _mm256_set1_epi32(two_sums::<D>(&x[t], two));
            for half in 0..2 {
                m[t][half] = _mm256_add_epi32(m[t][half], _mm256_madd_epi16(panel.steps[two].load(half), sums));
            }
        }
    }
    let mut values = [[_mm256_setzero_ps(); 2]; T];
    for t in 0..T {
        for half in 0..2 {
            values[t][half] = _mm256_cvtepi32_ps(m[t][half]);
        }
    }
    values
}

/// Quads of columns whose products fit int16 and share an integer scale.
const fn quads<D: Decode>() -> usize {
    let most = if D::FORMAT.has_half_scales() { 4 } else { 8 };
    let mut quads = 2;
    while quads < most && 2 * quads as i32 * 2 * 127 * D::MOST <= i16::MAX as i32 {
        quads *= 2;
    }
    quads
}

/// As [`products`], of panels of bytes: a group of a K-quant is one run, and so is a block of the other formats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn byte_products<D: Decode, const T: usize>(panel: &Panel, present: usize, x: &[Bytes; T]) -> Values<T> {
    let one = [_mm256_set1_epi16(1); 2];
    let mut v = [[_mm256_setzero_ps(); 2]; T];
    let mut sums: Sums<T> = [[_mm256_setzero_si256(); 2]; T];
    for block in 0..present {
        for first in (0..8).step_by(quads::<D>()) {
            let mut short: Sums<T> = [[_mm256_setzero_si256(); 2]; T];
            for quad in 8 * block + first..8 * block + first + quads::<D>() {
                let w = [panel.codes[quad].load(0), panel.codes[quad].load(1)];
                for t in 0..T {
                    let a = _mm256_set1_epi32(quad_of(&x[t], quad));
                    for half in 0..2 {
                        short[t][half] = _mm256_add_epi16(short[t][half], _mm256_maddubs_epi16(w[half], a));
                    }
                }
            }
            let scale = if D::FORMAT.has_half_scales() {
                let line = &panel.integers[2 * block + first / 4];
                [line.load(0), line.load(1)]
            } else if D::FORMAT.has_integer_scales() {
                [panel.integers[block].load(0), panel.integers[block].load(1)]
            } else {
                one
            };
            for t in 0..T {
                for half in 0..2 {
                    sums[t][half] = _mm256_add_epi32(sums[t][half], _mm256_madd_epi16(short[t][half], scale[half]));
                }
            }
        }
        if D::BIAS != 0 {
            take_bias::<D, T>(&mut sums, panel, block, x);
        }
        if !D::FORMAT.has_integer_scales() {
            add_run(&mut v, &sums, panel, block);
            sums = [[_mm256_setzero_si256(); 2]; T];
        }
    }
    if D::FORMAT.has_integer_scales() {
        add_run(&mut v, &sums, panel, 0);
    }
    v
}

/// Takes off what the bias of a block's codes added: bias * integer scale * sum of the activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn take_bias<D: Decode, const T: usize>(sums: &mut Sums<T>, panel: &Panel, block: usize, x: &[Bytes; T]) {
    for half in 0..2 {
        // Biased formats with integer scales have one for each half block.
        let scales = if D::FORMAT.has_half_scales() {
            let (first, second) = (panel.integers[2 * block].load(half), panel.integers[2 * block + 1].load(half));
            _mm256_blend_epi16::<0xaa>(first, second)
        } else {
            _mm256_set1_epi16(1)
        };
        let bias = _mm256_mullo_epi16(scales, _mm256_set1_epi16(D::BIAS as i16));
        for t in 0..T {
            let pair = i32::from(x[t].halves[2 * block]) & 0xffff | i32::from(x[t].halves[2 * block + 1]) << 16;
            sums[t][half] = _mm256_sub_epi32(sums[t][half], _mm256_madd_epi16(bias, _mm256_set1_epi32(pair)));
        }
    }
}
