//! What a group of a strip has beside the products of codes, offsets and the bias of codes; with AVX2.

use core::arch::x86_64::*;

use crate::matmul::codes::Few;
use crate::matmul::x86::decode::{offsets, steps, sum_of};
use crate::matmul::x86::gemm::{two_of, two_sums};
use crate::matmul::x86::lanes::{each8, unrolled};
use crate::matmul::x86::products::Sums;
use crate::matmul::x86::strip::ymm::pair;
use crate::matmul::x86::strip::{At, Strip};

use super::Values;

/// What the bias adds to the products of a block with each token, taken off.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn bias_of_block<D: Strip<__m256i>, const R: usize, const T: usize>(
    block: usize,
    x: Few<'_, T>,
) -> Sums<R, T> {
    let mut sums: Sums<R, T> = [[_mm256_setzero_si256(); R]; T];
    if D::BIAS != 0 {
        for t in 0..T {
            let sum = _mm256_set1_epi32(x.quads[t].blocks[block]);
            sums[t] = [_mm256_mullo_epi32(sum, _mm256_set1_epi32(-D::BIAS)); R];
        }
    }
    sums
}

/// The same of a block whose halves have integer scales, added to sums.
///
/// # Safety
/// As for [`super::accumulate`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn add_bias_of_halves<D: Strip<__m256i>, const R: usize, const T: usize>(
    at: At,
    block: usize,
    x: Few<'_, T>,
    sums: &mut Sums<R, T>,
) {
    for half in 2 * block..2 * block + 2 {
        for r in 0..R {
            // SAFETY: the caller's promise.
            let integer = unsafe { D::integer(at.half(r), half) };
            for t in 0..T {
                let sum = _mm256_set1_epi32(-D::BIAS * x.quads[t].halves[half]);
                sums[t][r] = _mm256_add_epi32(sums[t][r], _mm256_mullo_epi32(integer, sum));
            }
        }
    }
}

/// The same of a whole group, of codes of 8 bits.
///
/// # Safety
/// As for [`super::accumulate`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn bias_of_group<D: Strip<__m256i>, const R: usize, const T: usize>(
    at: At,
    x: Few<'_, T>,
) -> Sums<R, T> {
    let mut sums: Sums<R, T> = [[_mm256_setzero_si256(); R]; T];
    each8!(|BLOCK| {
        for r in 0..R {
            // SAFETY: the caller's promise.
            let scales = unsafe { pair(D::integer(at.half(r), 2 * BLOCK), D::integer(at.half(r), 2 * BLOCK + 1)) };
            for t in 0..T {
                let two = _mm256_set1_epi32(two_of(&x.quads[t].halves16, BLOCK));
                sums[t][r] = _mm256_add_epi32(sums[t][r], _mm256_madd_epi16(scales, two));
            }
        }
    });
    for t in 0..T {
        for r in 0..R {
            sums[t][r] = _mm256_mullo_epi32(sums[t][r], _mm256_set1_epi32(-D::BIAS));
        }
    }
    sums
}

/// v += offsets * sums of codes, of one group.
///
/// # Safety
/// As for [`super::accumulate`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn add_offsets<D: Strip<__m256i>, const R: usize, const T: usize, const P: usize>(
    at: At,
    present: usize,
    x: Few<'_, T>,
    v: &mut Values<R, T>,
) {
    each8!(|BLOCK| if BLOCK < offsets::<D>(present) {
        for r in 0..R {
            // SAFETY: the caller's promise, here and below.
            let offset = unsafe { D::offset(at.half(r), BLOCK) };
            for t in 0..T {
                v[t][r] = _mm256_fmadd_ps(offset, _mm256_set1_ps(x.groups[t].blocks[BLOCK]), v[t][r]);
            }
        }
    });
    if !D::FORMAT.has_steps() {
        return;
    }
    let mut m = [[_mm256_setzero_ps(); R]; T];
    if P == 1 {
        let mut sums: Sums<R, T> = [[_mm256_setzero_si256(); R]; T];
        each8!(|TWO| if TWO < steps::<D>() / 2 {
            for r in 0..R {
                // SAFETY: see above.
                let steps = unsafe { pair(D::step(at.half(r), 2 * TWO), D::step(at.half(r), 2 * TWO + 1)) };
                for t in 0..T {
                    let codes = &x.quads[t];
                    let two = two_sums::<D>(&codes.halves16, &codes.blocks16, TWO);
                    sums[t][r] = _mm256_add_epi32(sums[t][r], _mm256_madd_epi16(steps, _mm256_set1_epi32(two)));
                }
            }
        });
        for t in 0..T {
            for r in 0..R {
                m[t][r] = _mm256_cvtepi32_ps(sums[t][r]);
            }
        }
    } else {
        unrolled!(|J| steps::<D>() => {
            for r in 0..R {
                // SAFETY: see above.
                let step = _mm256_cvtepi32_ps(unsafe { D::step(at.half(r), J) });
                for t in 0..T {
                    m[t][r] = _mm256_fmadd_ps(step, _mm256_set1_ps(sum_of::<D>(&x.groups[t], J)), m[t][r]);
                }
            }
        });
    }
    for r in 0..R {
        // SAFETY: see above.
        let offset = unsafe { D::offset(at.half(r), 0) };
        for t in 0..T {
            v[t][r] = _mm256_fmadd_ps(m[t][r], offset, v[t][r]);
        }
    }
}
