//! Few tokens: what a group of a strip has beside the products of codes, offsets and the bias of codes.
//!
//! Both meet sums of the activations' codes. With codes of 8 bits these and the integers of K-quants have 16 bits, and two
//! of them are multiplied at once.

use core::arch::asm;
use core::arch::x86_64::*;

use crate::matmul::LANES;
use crate::matmul::codes::Few;

use super::decode::{offsets, steps, sum_of};
use super::lanes::{each8, unrolled};
use super::strip::zmm::pair;
use super::strip::{At, Strip};

/// Whether the bias of a whole group is taken off at once: one run, whose scales and sums of codes fit 16 bits.
pub(super) const fn takes_bias_at_once<D: Strip, const P: usize>() -> bool {
    P == 1 && D::BIAS != 0 && D::FORMAT.has_half_scales()
}

/// What the bias adds to the products of a group with each token, taken off.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn bias_of_group<D: Strip, const T: usize>(integers: &[__m512i; 2 * LANES], x: Few<'_, T>) -> [__m512i; T] {
    let pairs = each8!(|BLOCK| pair(integers[2 * BLOCK], integers[2 * BLOCK + 1]));
    let mut sums = [_mm512_setzero_si512(); T];
    for t in 0..T {
        let bias = products_of_pairs::<{ LANES }>(&pairs, &x.quads[t].halves16);
        sums[t] = _mm512_mullo_epi32(bias, _mm512_set1_epi32(-D::BIAS));
    }
    sums
}

/// Two numbers of 16 bits in each lane times two that all lanes share, N times, summed up.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn products_of_pairs<const N: usize>(pairs: &[__m512i; LANES], shared: &[i16]) -> __m512i {
    assert!(shared.len() >= 2 * N);
    let mut sum = _mm512_setzero_si512();
    each8!(|PAIR| if PAIR < N {
        // In assembly, since compilers make two instructions of one.
        // SAFETY: the function has the features, and there are so many numbers.
        unsafe {
            asm!("vpdpwssd {sum}, {pair}, dword ptr [{shared} + {at}]{{1to16}}",
                sum = inout(zmm_reg) sum, pair = in(zmm_reg) pairs[PAIR],
                shared = in(reg) shared.as_ptr(), at = const 4 * PAIR,
                options(readonly, nostack, preserves_flags));
        }
    });
    sum
}

/// v += offsets * sums of codes, of one group.
///
/// # Safety
/// `at` is a group of D of `present` blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn add_offsets<D: Strip, const T: usize, const P: usize>(
    at: At,
    present: usize,
    x: Few<'_, T>,
    v: &mut [__m512; T],
) {
    each8!(|BLOCK| if BLOCK < offsets::<D>(present) {
        // SAFETY: the caller's promise, here and below.
        let offset = unsafe { D::offset(at, BLOCK) };
        for t in 0..T {
            v[t] = _mm512_fmadd_ps(offset, _mm512_set1_ps(x.groups[t].blocks[BLOCK]), v[t]);
        }
    });
    if !D::FORMAT.has_steps() {
        return;
    }
    let mut m = [_mm512_setzero_ps(); T];
    if P == 1 {
        let two = |first: usize| {
            // SAFETY: see above.
            unsafe { pair(D::step(at, first), D::step(at, first + 1)) }
        };
        let zero = _mm512_setzero_si512();
        let pairs = each8!(|PAIR| if 2 * PAIR < steps::<D>() { two(2 * PAIR) } else { zero });
        for t in 0..T {
            let sum = if D::FORMAT.has_half_offsets() {
                products_of_pairs::<{ LANES }>(&pairs, &x.quads[t].halves16)
            } else {
                products_of_pairs::<{ LANES / 2 }>(&pairs, &x.quads[t].blocks16)
            };
            m[t] = _mm512_cvtepi32_ps(sum);
        }
    } else {
        unrolled!(|J| steps::<D>() => {
            // SAFETY: see above.
            let step = _mm512_cvtepi32_ps(unsafe { D::step(at, J) });
            for t in 0..T {
                m[t] = _mm512_fmadd_ps(step, _mm512_set1_ps(sum_of::<D>(&x.groups[t], J)), m[t]);
            }
        });
    }
    // SAFETY: see above.
    let offset = unsafe { D::offset(at, 0) };
    for t in 0..T {
        v[t] = _mm512_fmadd_ps(m[t], offset, v[t]);
    }
}
