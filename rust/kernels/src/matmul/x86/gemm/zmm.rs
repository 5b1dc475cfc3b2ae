//! The inner loops of the GEMM with AVX-512 VNNI: a panel is one vector of sixteen rows.
//!
//! `vpdpwssd` multiplies and adds 32 products of int16 at once, `vpdpbusd` 64 products of bytes.

use core::arch::asm;
use core::arch::x86_64::*;

use crate::matmul::LANES;
use crate::matmul::codes::{Bytes, Group};

use super::{Codes, Kernel, Results, Tokens, pair_of, quad_of, two_sums};
use crate::matmul::x86::decode::{Decode, offsets, steps, sum_of};
use crate::matmul::x86::panel::Panel;

/// Panels that bytes take at a time: 2 x 6 accumulators hide the latency of the products, five cycles at two a cycle, and leave
/// registers for sums. Words take all panels that are unpacked together, where there are so many.
const PANELS: usize = 2;

/// [token][panel]
type Sums<const R: usize, const T: usize> = [[__m512i; R]; T];
type Values<const R: usize, const T: usize> = [[__m512; R]; T];

pub(in super::super) struct Vnni<const NARROW: bool>;

impl<const NARROW: bool> Kernel for Vnni<NARROW> {
    const NARROW: bool = NARROW;
    const ONCE: bool = true;

    fn takes_bytes<D: Decode>() -> bool {
        NARROW
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn tiles<D: Decode, const T: usize>(
        panels: &[Panel],
        present: usize,
        x: Codes<'_>,
        results: &mut [Results],
    ) {
        let all = panels.len();
        for (number, results) in results.chunks_exact_mut(T * all).enumerate() {
            let x = x.tile::<T>(number);
            if let ([one, two, three, four], false) = (panels, NARROW) {
                add::<D, { super::PANELS }, T>([one, two, three, four], present, x, results, all, 0);
                continue;
            }
            for (index, panels) in panels.chunks(PANELS).enumerate() {
                let results = &mut results[PANELS * index..];
                match panels {
                    [one] => add::<D, 1, T>([one], present, x, results, all, index),
                    [one, two] => add::<D, PANELS, T>([one, two], present, x, results, all, index),
                    _ => unreachable!("chunks have one or two panels"),
                }
            }
        }
    }
}

/// Adds the products of R panels; the results of a token are `stride` apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add<D: Decode, const R: usize, const T: usize>(
    panels: [&Panel; R],
    present: usize,
    x: Tokens<'_, T>,
    results: &mut [Results],
    stride: usize,
    index: usize,
) {
    let mut v = match x {
        Tokens::Bytes(bytes) if D::FORMAT.has_integer_scales() && fit_words::<D, T>(bytes) => {
            byte_products::<D, true, R, T>(panels, present, bytes, index)
        }
        Tokens::Bytes(bytes) => byte_products::<D, false, R, T>(panels, present, bytes, index),
        Tokens::Words(groups) => products::<D, R, T>(panels, present, groups, index),
    };
    for part in 0..offsets::<D>(present) {
        for t in 0..T {
            for r in 0..R {
                let offset = _mm512_castsi512_ps(panels[r].offsets[part].load_all());
                v[t][r] = _mm512_fmadd_ps(offset, _mm512_set1_ps(x.sum(t, part)), v[t][r]);
            }
        }
    }
    if D::FORMAT.has_steps() {
        let m = match x {
            Tokens::Bytes(bytes) => whole_steps::<D, R, T>(panels, bytes),
            Tokens::Words(groups) => steps_of_groups::<D, R, T>(panels, groups),
        };
        for r in 0..R {
            let offset = _mm512_castsi512_ps(panels[r].offsets[0].load_all());
            for t in 0..T {
                v[t][r] = _mm512_fmadd_ps(m[t][r], offset, v[t][r]);
            }
        }
    }
    for t in 0..T {
        let scale = _mm512_set1_ps(x.scale(t));
        for r in 0..R {
            let at = results[t * stride + r].0.as_mut_ptr().cast::<f32>();
            // SAFETY: sixteen floats, aligned to 64 bytes.
            unsafe { _mm512_store_ps(at, _mm512_fmadd_ps(v[t][r], scale, _mm512_load_ps(at))) };
        }
    }
}

/// Steps times sums of codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn steps_of_groups<D: Decode, const R: usize, const T: usize>(panels: [&Panel; R], x: &[Group; T]) -> Values<R, T> {
    let mut m = [[_mm512_setzero_ps(); R]; T];
    for part in 0..steps::<D>() {
        for t in 0..T {
            let sum = sum_of::<D>(&x[t], part);
            for r in 0..R {
                let step = _mm512_castsi512_ps(panels[r].steps[part].load_all());
                m[t][r] = _mm512_fmadd_ps(step, _mm512_set1_ps(sum), m[t][r]);
            }
        }
    }
    m
}

/// As [`steps_of_groups`], in integers, of panels of bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn whole_steps<D: Decode, const R: usize, const T: usize>(panels: [&Panel; R], x: &[Bytes; T]) -> Values<R, T> {
    let mut m: Sums<R, T> = [[_mm512_setzero_si512(); R]; T];
    for two in 0..steps::<D>() / 2 {
        for t in 0..T {
            let sums = _mm512_set1_epi32(two_sums::<D>(&x[t].halves, &x[t].blocks, two));
            for r in 0..R {
                m[t][r] = add_pairs(m[t][r], panels[r].steps[two].load_all(), sums);
            }
        }
    }
    let mut values = [[_mm512_setzero_ps(); R]; T];
    for t in 0..T {
        for r in 0..R {
            values[t][r] = _mm512_cvtepi32_ps(m[t][r]);
        }
    }
    values
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn products<D: Decode, const R: usize, const T: usize>(
    panels: [&Panel; R],
    present: usize,
    x: &[Group; T],
    which: usize,
) -> Values<R, T> {
    let run = D::FORMAT.run(false);
    let mut v = [[_mm512_setzero_ps(); R]; T];
    for index in 0..present / run {
        fetch_share::<_, R, T>(x, which, run * index, run);
        let mut sums: Sums<R, T> = [[_mm512_setzero_si512(); R]; T];
        for pair in 16 * run * index..16 * run * (index + 1) {
            let mut w = [_mm512_setzero_si512(); R];
            for r in 0..R {
                w[r] = panels[r].codes[pair].load_all();
            }
            for t in 0..T {
                let a = _mm512_set1_epi32(pair_of(&x[t], pair));
                for r in 0..R {
                    sums[t][r] = add_pairs(sums[t][r], w[r], a);
                }
            }
        }
        add_run(&mut v, &sums, panels, index);
    }
    v
}

/// v += sums * scales of run `index`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add_run<const R: usize, const T: usize>(v: &mut Values<R, T>, sums: &Sums<R, T>, panels: [&Panel; R], index: usize) {
    for r in 0..R {
        let scale = _mm512_castsi512_ps(panels[r].scales[index].load_all());
        for t in 0..T {
            v[t][r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[t][r]), scale, v[t][r]);
        }
    }
}

/// Fetches what the next tile reads into L1, in as many shares as there are blocks of R panels (`which`) with this one: at once
/// they would wait for each other.
#[inline]
fn fetch_share<X, const R: usize, const T: usize>(x: &[X; T], which: usize, block: usize, blocks: usize) {
    let lines = T * size_of::<X>() / 64;
    let each = lines.div_ceil(super::PANELS / R * LANES);
    let next = x.as_ptr().wrapping_add(T).cast::<u8>();
    for line in 0..each * blocks {
        let place = next.wrapping_add(64 * ((LANES * which + block) * each + line));
        // SAFETY: a hint, for whatever place.
        unsafe { asm!("prefetcht0 [{}]", in(reg) place.addr(), options(nomem, nostack, preserves_flags)) };
    }
}

/// sum + products of pairs of 16-bit numbers. Of the intrinsic LLVM makes two instructions where sums wait for each other,
/// which takes longer when others could go ahead.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn add_pairs(mut sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: the CPU has the instruction.
    unsafe {
        asm!("vpdpwssd {}, {}, {}", inout(zmm_reg) sum, in(zmm_reg) a, in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// Whether sums of products under one integer scale are 16-bit numbers, whatever the weights are: nearly always, as
/// codes of a group that are nearly all large are rare.
#[inline]
fn fit_words<D: Decode, const T: usize>(x: &[Bytes; T]) -> bool {
    let most = (D::MOST - D::BIAS).max(D::BIAS);
    // Without a bias all weights have one sign, and only codes of one sign add up.
    x.iter().all(|x| most * i32::from(if D::FORMAT.has_half_scales() { x.norm } else { x.side }) <= 0x7fff)
}

/// As [`products`], of panels of bytes: a group of a K-quant is one run, and so is a block of the other formats. With
/// WORDS sums under one integer scale are 16-bit numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn byte_products<D: Decode, const WORDS: bool, const R: usize, const T: usize>(
    panels: [&Panel; R],
    present: usize,
    x: &[Bytes; T],
    which: usize,
) -> Values<R, T> {
    // Quads of columns under one integer scale.
    let quads = if D::FORMAT.has_half_scales() { 4 } else { 8 };
    let mut v = [[_mm512_setzero_ps(); R]; T];
    let mut sums: Sums<R, T> = [[_mm512_setzero_si512(); R]; T];
    for part in 0..8 * present / quads {
        if quads == 8 {
            fetch_share::<_, R, T>(x, which, part, 1);
        } else if part % 2 == 0 {
            fetch_share::<_, R, T>(x, which, part / 2, 1);
        }
        let mut products: Sums<R, T> = [[_mm512_setzero_si512(); R]; T];
        if D::BIAS != 0 {
            // The products start at what the bias adds to them, taken off.
            for t in 0..T {
                let sum = i32::from(if quads == 4 { x[t].halves[part] } else { x[t].blocks[part] });
                products[t] = [_mm512_set1_epi32(-D::BIAS * sum); R];
            }
        }
        for quad in quads * part..quads * (part + 1) {
            let mut w = [_mm512_setzero_si512(); R];
            for r in 0..R {
                w[r] = panels[r].codes[quad].load_all();
            }
            for t in 0..T {
                let a = _mm512_set1_epi32(quad_of(&x[t], quad));
                for r in 0..R {
                    products[t][r] = _mm512_dpbusd_epi32(products[t][r], w[r], a);
                }
            }
        }
        if !D::FORMAT.has_integer_scales() {
            add_run(&mut v, &products, panels, part);
            continue;
        }
        for r in 0..R {
            let scale = panels[r].integers[part].load_all();
            for t in 0..T {
                sums[t][r] = if WORDS {
                    // One operation instead of three: the upper half of a lane meets zero.
                    add_pairs(sums[t][r], products[t][r], scale)
                } else {
                    let whole = _mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(scale));
                    _mm512_add_epi32(sums[t][r], _mm512_mullo_epi32(products[t][r], whole))
                };
            }
        }
    }
    if D::FORMAT.has_integer_scales() {
        add_run(&mut v, &sums, panels, 0);
    }
    v
}
