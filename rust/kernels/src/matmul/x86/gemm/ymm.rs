//! The inner loops of the GEMM with AVX2: a panel is two vectors of eight rows.
//!
//! With activations of 14 bits, `vpmaddwd` multiplies pairs of int16. With 8 bits, `vpmaddubsw` multiplies pairs of
//! bytes, whose sums stay in int16 for as many columns as fit before they meet the integer scale.

use core::arch::x86_64::*;

use crate::formats::BLOCK;
use crate::matmul::codes::{Bytes, Group};

use super::{Codes, Kernel, Results, Tokens, two_of, two_sums};
use crate::matmul::x86::decode::{Decode, fits_pairs, offsets, quads_of_sum, steps, sum_of};
use crate::matmul::x86::lanes::{each8, load_f32, store_f32};
use crate::matmul::x86::panel::{Lines, Panel};
use crate::matmul::x86::products::{Sums, add_bytes, add_scaled, add_words};

type Values<const T: usize> = [[__m256; 2]; T];

pub(in super::super) struct Avx2<const NARROW: bool>;

impl<const NARROW: bool> Kernel for Avx2<NARROW> {
    const NARROW: bool = NARROW;
    const ONCE: bool = false;

    fn takes_bytes<D: Decode>() -> bool {
        NARROW && fits_pairs::<D>()
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tiles<D: Decode, const T: usize>(
        panels: &[Panel],
        present: usize,
        x: Codes<'_>,
        results: &mut [Results],
    ) {
        for (number, results) in results.chunks_exact_mut(T * panels.len()).enumerate() {
            tile::<D, T>(panels, present, x.tile(number), D::FORMAT.run(NARROW), results);
        }
    }
}

/// Adds the products of one group of `present` blocks, in runs of `run`, to the results of T tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<D: Decode, const T: usize>(
    panels: &[Panel],
    present: usize,
    x: Tokens<'_, T>,
    run: usize,
    results: &mut [Results],
) {
    for (index, panel) in panels.iter().enumerate() {
        let mut v = match x {
            Tokens::Bytes(bytes) => byte_products::<D, T>(panel, present, bytes),
            Tokens::Words(groups) => products::<D, T>(panel, present, groups, run),
        };
        add_offsets::<D, T>(&mut v, panel, present, x);
        for t in 0..T {
            let scale = _mm256_set1_ps(x.scale(t));
            for half in 0..2 {
                let result = &mut results[t * panels.len() + index].0[half];
                let sum = _mm256_fmadd_ps(v[t][half], scale, load_f32(result));
                store_f32(result, sum);
            }
        }
    }
}

/// Sums of the runs times their scales.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn products<D: Decode, const T: usize>(panel: &Panel, present: usize, x: &[Group; T], run: usize) -> Values<T> {
    let mut v = [[_mm256_setzero_ps(); 2]; T];
    for index in 0..present / run {
        let mut sums: Sums<2, T> = [[_mm256_setzero_si256(); 2]; T];
        for eight in 2 * run * index..2 * run * (index + 1) {
            let lines = &panel.codes.as_chunks::<8>().0[eight];
            let codes = x.as_ptr().cast::<i8>().wrapping_add(BLOCK * eight);
            each8!(|PAIR| {
                // SAFETY: the function has the features; the codes of a group are its first bytes, 4 for a pair.
                unsafe {
                    add_words::<2, T, { size_of::<Group>() }, { 4 * PAIR }>(
                        &mut sums,
                        halves(&lines[PAIR]),
                        codes,
                        false,
                    );
                };
            });
        }
        add_run(&mut v, &sums, panel, index);
    }
    v
}

/// Both halves of the rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn halves(lines: &Lines) -> [__m256i; 2] {
    [lines.load(0), lines.load(1)]
}

/// v += sums * scales of run `index`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_run<const T: usize>(v: &mut Values<T>, sums: &Sums<2, T>, panel: &Panel, index: usize) {
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
                v[t][half] = _mm256_fmadd_ps(offsets[half], _mm256_set1_ps(x.sum(t, part)), v[t][half]);
            }
        }
    }
    if D::FORMAT.has_steps() {
        let offsets = offset(0);
        let m = match x {
            Tokens::Bytes(bytes) => whole_steps::<D, T>(panel, bytes),
            Tokens::Words(groups) => steps_of_groups::<D, T>(panel, groups),
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
    let mut m: Sums<2, T> = [[_mm256_setzero_si256(); 2]; T];
    for two in 0..steps::<D>() / 2 {
        for t in 0..T {
            let sums = _mm256_set1_epi32(two_sums::<D>(&x[t].halves, &x[t].blocks, two));
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

/// As [`products`], of panels of bytes: a group of a K-quant is one run, and so is a block of the other formats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn byte_products<D: Decode, const T: usize>(panel: &Panel, present: usize, x: &[Bytes; T]) -> Values<T> {
    let mut v = [[_mm256_setzero_ps(); 2]; T];
    let mut sums: Sums<2, T> = [[_mm256_setzero_si256(); 2]; T];
    for block in 0..present {
        let lines = &panel.codes.as_chunks::<8>().0[block];
        let codes = x.as_ptr().cast::<i8>().wrapping_add(BLOCK * block);
        let mut short: Sums<2, T> = [[_mm256_setzero_si256(); 2]; T];
        each8!(|QUAD| {
            let first = QUAD.is_multiple_of(quads_of_sum::<D>(127));
            // SAFETY: the function has the features, here and below; the codes of a group are its first bytes.
            unsafe {
                add_bytes::<2, T, { size_of::<Bytes>() }, { 4 * QUAD }>(&mut short, halves(&lines[QUAD]), codes, first);
            };
            if (QUAD + 1).is_multiple_of(quads_of_sum::<D>(127)) {
                let scales = if D::FORMAT.has_half_scales() {
                    halves(&panel.integers[2 * block + QUAD / 4])
                } else if D::FORMAT.has_integer_scales() {
                    halves(&panel.integers[block])
                } else {
                    [_mm256_set1_epi16(1); 2]
                };
                // SAFETY: see above.
                unsafe { add_scaled(&mut sums, &short, scales) };
            }
        });
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
fn take_bias<D: Decode, const T: usize>(sums: &mut Sums<2, T>, panel: &Panel, block: usize, x: &[Bytes; T]) {
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
            let two = _mm256_set1_epi32(two_of(&x[t].halves, block));
            sums[t][half] = _mm256_sub_epi32(sums[t][half], _mm256_madd_epi16(bias, two));
        }
    }
}
