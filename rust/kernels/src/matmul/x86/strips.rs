//! Few tokens and weights in strips: lanes are sixteen rows, and four columns of each are multiplied at once.
//!
//! ```text
//! for strip: for group:
//!     for block: for four columns: decode sixteen rows; for token: for plane of its codes: add products in int32
//!         v += sums * scales
//!     result += (v + offsets) * activation scale
//! ```
//! A strip is read from its first byte to its last, so that the hardware fetches what follows; ahead of that the kernel
//! asks for it itself. Rows as they are stored become strips group by group.

use core::arch::asm;
use core::arch::x86_64::*;
use std::mem::offset_of;
use std::ops::Range;

use crate::formats::strips::Avx512;
use crate::formats::{BLOCK, Format, STRIP, Weights};
use crate::matmul::activations::{Activations, FEW};
use crate::matmul::codes::{Few, Quads};
use crate::matmul::{LANES, OutView};

use super::decode::Decode;
use super::lanes::{each8, unrolled};
use super::offsets::{add_offsets, bias_of_group, takes_bias_at_once};
use super::repacked::{Repacked, Sixteen, sixteens};
use super::strip::{At, Strip};

pub(super) mod ymm;

/// `narrow`: activations have 8 bits. `rows` are rows in strips, or rows behind them whose number is a multiple of 16.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn multiply_few<D: Strip>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    narrow: bool,
    out: &mut OutView<'_>,
) {
    match (x.tokens(), narrow) {
        (1, true) => multiply::<D, 1, 1>(weights, rows, x, out),
        (2, true) => multiply::<D, 2, 1>(weights, rows, x, out),
        (3..=4, true) => multiply::<D, 4, 1>(weights, rows, x, out),
        (_, true) => multiply::<D, FEW, 1>(weights, rows, x, out),
        (1, false) => multiply::<D, 1, 2>(weights, rows, x, out),
        (2, false) => multiply::<D, 2, 2>(weights, rows, x, out),
        (3..=4, false) => multiply::<D, 4, 2>(weights, rows, x, out),
        (_, false) => multiply::<D, FEW, 2>(weights, rows, x, out),
    }
}

/// Products with at most T tokens, whose codes have P planes. Absent ones are anything: their results are not written.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn multiply<D: Strip, const T: usize, const P: usize>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    activations: &Activations,
    out: &mut OutView<'_>,
) {
    let (blocks, tokens) = (weights.cols() / BLOCK, activations.tokens());
    let mut repacked = Repacked::of(weights);
    for first in sixteens(weights, &rows) {
        let from = Sixteen::of(weights, first);
        let mut results = [_mm512_setzero_ps(); T];
        for index in 0..blocks.div_ceil(LANES) {
            let present = LANES.min(blocks - index * LANES);
            // SAFETY: a strip and its rows have all groups, `present` blocks in this one.
            unsafe {
                let at = repacked.group::<D, Avx512>(&from, index, present);
                let x = activations.few(index);
                if takes_words::<D, T, P>() && fit_words::<D, T>(x) {
                    accumulate::<D, T, P, true>(at, present, x, &mut results);
                } else {
                    accumulate::<D, T, P, false>(at, present, x, &mut results);
                }
            }
        }
        for (token, &result) in results[..tokens].iter().enumerate() {
            let mut values = [0.0_f32; STRIP];
            // SAFETY: sixteen floats.
            unsafe { _mm512_storeu_ps(values.as_mut_ptr(), result) };
            out.set_sixteen(token, first, &values, &rows);
        }
    }
}

/// Bytes from the codes of a token to those of the next one, and from its low plane to its high one.
const NEXT: usize = size_of::<Quads>();
const HIGH: usize = offset_of!(Quads, high);

/// sums + products of the bytes `w` with four codes of each token, the same for each row; those of the first token are at
/// `codes + AT`.
///
/// In assembly, since compilers make two instructions of one when they cannot see that nothing in between writes memory.
/// One address for four tokens: with one for each and for each plane, these came from the stack.
///
/// # Safety
/// The CPU has AVX-512 VNNI, and `codes` are those of T tokens, one behind the other.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add_products<const T: usize, const AT: usize>(sums: &mut [__m512i; T], w: __m512i, codes: *const i8) {
    let (fours, rest) = sums.as_chunks_mut::<4>();
    let codes_of_rest = codes.wrapping_add(4 * NEXT * fours.len());
    for (four, sums) in fours.iter_mut().enumerate() {
        let codes = codes.wrapping_add(4 * NEXT * four);
        let [mut a, mut b, mut c, mut d] = *sums;
        // SAFETY: the caller's promise.
        unsafe {
            asm!(
                "vpdpbusd {a}, {w}, dword ptr [{codes} + {at}]{{1to16}}",
                "vpdpbusd {b}, {w}, dword ptr [{codes} + {at} + {next}]{{1to16}}",
                "vpdpbusd {c}, {w}, dword ptr [{codes} + {at} + 2 * {next}]{{1to16}}",
                "vpdpbusd {d}, {w}, dword ptr [{codes} + {at} + 3 * {next}]{{1to16}}",
                a = inout(zmm_reg) a, b = inout(zmm_reg) b, c = inout(zmm_reg) c, d = inout(zmm_reg) d,
                w = in(zmm_reg) w, codes = in(reg) codes, at = const AT, next = const NEXT,
                options(readonly, nostack, preserves_flags)
            );
        }
        *sums = [a, b, c, d];
    }
    for (t, sums) in rest.iter_mut().enumerate() {
        let codes = codes_of_rest.wrapping_add(NEXT * t);
        // SAFETY: the caller's promise.
        unsafe {
            asm!("vpdpbusd {a}, {w}, dword ptr [{codes} + {at}]{{1to16}}",
                a = inout(zmm_reg) *sums, w = in(zmm_reg) w, codes = in(reg) codes, at = const AT,
                options(readonly, nostack, preserves_flags));
        }
    }
}

/// The sums of products of a block with each token: of Q quads, from FIRST on. A macro, since compilers do not inline
/// functions of this size.
macro_rules! products {
    ($at:expr, $base:expr, $phase:ident, $x:expr, first $first:literal, count $count:literal) => {{
        let mut low = [_mm512_setzero_si512(); T];
        let mut high = [_mm512_setzero_si512(); T];
        if D::BIAS != 0 && !takes_bias_at_once::<D, P>() {
            // The products start at what the bias adds to them, taken off.
            let bias = if D::IN_PLANES { D::less_bias($at, $base + $phase) } else { _mm512_set1_epi32(-D::BIAS) };
            for t in 0..T {
                let (codes, block) = (&$x.quads[t], ($base + $phase) % LANES);
                let sum = if $count == 4 { codes.halves[2 * block + $first / 4] } else { codes.blocks[block] };
                low[t] = _mm512_mullo_epi32(_mm512_set1_epi32(sum), bias);
            }
        }
        each8!(|QUAD| {
            if QUAD < $count {
                fetch::<D>($at, $base + $phase, $first + QUAD);
                let w = D::codes($at, $base, $phase, $first + QUAD);
                let codes = $x.quads.as_ptr().cast::<i8>().wrapping_add(BLOCK * $base);
                add_products::<T, { BLOCK * $phase + 4 * ($first + QUAD) }>(&mut low, w, codes);
                if P > 1 {
                    add_products::<T, { HIGH + BLOCK * $phase + 4 * ($first + QUAD) }>(&mut high, w, codes);
                }
            }
        });
        if P > 1 {
            for t in 0..T {
                low[t] = _mm512_add_epi32(low[t], _mm512_slli_epi32::<7>(high[t]));
            }
        }
        low
    }};
}

/// Whether sums of products meet their integer scale as 16-bit numbers where they fit: one operation instead of three.
/// With one token memory is what limits; `Q5_K` would lose a tenth with eight.
const fn takes_words<D: Strip, const T: usize, const P: usize>() -> bool {
    P == 1 && T > 2 && matches!(D::FORMAT, Format::Q4_K)
}

/// Whether sums of products of a block fit, whatever the weights are. Tokens that are absent may say no in vain.
#[inline]
fn fit_words<D: Strip, const T: usize>(x: Few<'_, T>) -> bool {
    x.quads.iter().all(|x| D::MOST * i32::from(x.side) <= 0x7fff)
}

/// Adds the products of one group of columns to the results. WORDS: sums of products of a block are 16-bit numbers.
///
/// # Safety
/// `at` is a group of D of `present` blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn accumulate<D: Strip, const T: usize, const P: usize, const WORDS: bool>(
    at: At,
    present: usize,
    x: Few<'_, T>,
    results: &mut [__m512; T],
) {
    let run = D::FORMAT.run(P == 1);
    let mut v = [_mm512_setzero_ps(); T];
    let mut sums = [_mm512_setzero_si512(); T];
    let mut integers = [_mm512_setzero_si512(); 2 * LANES];
    if D::FORMAT.has_integer_scales() {
        unrolled!(|J| if D::FORMAT.has_half_scales() { 16 } else { 8 } => {
            // SAFETY: the caller's promise, here and below.
            integers[J] = unsafe { D::integer(at, J) };
        });
    }
    if takes_bias_at_once::<D, P>() {
        sums = bias_of_group::<D, T>(&integers, x);
    }
    for base in (0..present).step_by(D::PERIOD) {
        each8!(|PHASE| {
            if PHASE < D::PERIOD {
                let block = base + PHASE;
                // SAFETY: see above.
                unsafe {
                    if !D::FORMAT.has_integer_scales() {
                        let products = products!(at, base, PHASE, x, first 0, count 8);
                        add_run(&products, D::run_scale(at, block), &mut v);
                    } else if D::FORMAT.has_half_scales() {
                        let low = products!(at, base, PHASE, x, first 0, count 4);
                        add_scaled(low, integers[2 * block], &mut sums);
                        let high = products!(at, base, PHASE, x, first 4, count 4);
                        add_scaled(high, integers[2 * block + 1], &mut sums);
                    } else {
                        let products = products!(at, base, PHASE, x, first 0, count 8);
                        if WORDS {
                            add_words(products, integers[block], &mut sums);
                        } else {
                            add_scaled(products, integers[block], &mut sums);
                        }
                    }
                    if D::FORMAT.has_integer_scales() && block % run == run - 1 {
                        add_run(&sums, D::run_scale(at, block / run), &mut v);
                        sums = [_mm512_setzero_si512(); T];
                    }
                }
            }
        });
    }
    // SAFETY: see above.
    unsafe { add_offsets::<D, T, P>(at, present, x, &mut v) };
    for t in 0..T {
        results[t] = _mm512_fmadd_ps(v[t], _mm512_set1_ps(x.groups[t].scale), results[t]);
    }
}

/// sums += products * scale. In assembly, since compilers put it off, and keep the products of several blocks on the stack.
///
/// # Safety
/// The CPU has AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_scaled<const T: usize>(products: [__m512i; T], scale: __m512i, sums: &mut [__m512i; T]) {
    for t in 0..T {
        // SAFETY: the caller's promise.
        unsafe {
            asm!("vpmulld {x}, {x}, {scale}", "vpaddd {sum}, {sum}, {x}",
                x = inout(zmm_reg) products[t] => _, sum = inout(zmm_reg) sums[t], scale = in(zmm_reg) scale,
                options(nomem, nostack, preserves_flags));
        }
    }
}

/// As [`add_scaled`], of products that are 16-bit numbers: the upper half of a lane meets zero.
///
/// # Safety
/// The CPU has AVX-512 VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add_words<const T: usize>(products: [__m512i; T], scale: __m512i, sums: &mut [__m512i; T]) {
    for t in 0..T {
        // SAFETY: the caller's promise.
        unsafe {
            asm!("vpdpwssd {sum}, {x}, {scale}", x = in(zmm_reg) products[t], sum = inout(zmm_reg) sums[t],
                scale = in(zmm_reg) scale, options(nomem, nostack, preserves_flags));
        }
    }
}

/// v += sums * scale.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn add_run<const T: usize>(sums: &[__m512i; T], scale: __m512, v: &mut [__m512; T]) {
    for t in 0..T {
        v[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[t]), scale, v[t]);
    }
}

/// Asks for an eighth of a block of what will be needed, into the L2 cache.
#[inline]
pub(super) fn fetch<D: Decode>(at: At, block: usize, part: usize) {
    let bytes = STRIP * D::BYTES / LANES;
    let lines = bytes.div_ceil(64);
    for line in part * lines / 8..(part + 1) * lines / 8 {
        let place = at.next.wrapping_add(block * bytes + 64 * line);
        // SAFETY: a hint, for whatever place. Compilers take the intrinsic for one that writes memory, and no longer make
        // loads before it parts of products behind it.
        unsafe { asm!("prefetcht1 [{}]", in(reg) place.addr(), options(nomem, nostack, preserves_flags)) };
    }
}
