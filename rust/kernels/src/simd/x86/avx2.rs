//! AVX2, FMA and F16C: a vector is a pair of registers.

#![allow(clippy::wildcard_imports, reason = "intrinsics: dozens of names that carry their own prefix")]

use std::arch::x86_64::*;

use half::f16;

use super::super::{LANES, Simd};

/// Proof that this CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The caller is compiled for AVX2, FMA and F16C, and the CPU has them.
    #[inline(always)]
    pub(super) unsafe fn new() -> Self {
        Self(())
    }
}

type V = [__m256; 2];

/// Lanes of a register.
const HALF: usize = LANES / 2;

/// Lanes i and i + 4 first, then i and i + 2, then the last two.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
pub(super) unsafe fn sum(v: __m256) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
    }
}

/// The largest lane, in the order of [`sum`].
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
pub(super) unsafe fn largest(v: __m256) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
    }
}

// Safety of all blocks below: an `Avx2` exists only where the CPU has the instructions; loads and stores go to
// slices that were just cut to sixteen elements.
impl Simd for Avx2 {
    type V = V;

    const MANY: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        // SAFETY: see above.
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> V {
        let from = from[..LANES].as_ptr();
        // SAFETY: see above.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(HALF))] }
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16]) -> V {
        let from = from[..LANES].as_ptr();
        // SAFETY: see above; eight f16 are the 16 bytes of one load.
        unsafe {
            let (low, high) = (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(HALF).cast()));
            [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
        }
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8]) -> V {
        let from = from[..LANES].as_ptr();
        // SAFETY: see above; eight i8 are the 8 bytes of one load.
        unsafe {
            let (low, high) = (_mm_loadl_epi64(from.cast()), _mm_loadl_epi64(from.add(HALF).cast()));
            [_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high))]
        }
    }

    #[inline(always)]
    fn store(self, v: V, to: &mut [f32]) {
        let to = to[..LANES].as_mut_ptr();
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(to, v[0]);
            _mm256_storeu_ps(to.add(HALF), v[1]);
        }
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        // SAFETY: see above.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        // SAFETY: see above.
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        // SAFETY: see above.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        // SAFETY: see above.
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        // SAFETY: see above.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        // SAFETY: see above.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        // SAFETY: see above.
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn greater(self, a: V, b: V) -> u32 {
        // SAFETY: see above.
        let [low, high] = unsafe {
            let (low, high) = (_mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0]), _mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1]));
            [_mm256_movemask_ps(low) as u32, _mm256_movemask_ps(high) as u32]
        };
        low | high << HALF
    }

    #[inline(always)]
    fn zero_below(self, x: V, limit: f32, y: V) -> V {
        // SAFETY: see above.
        unsafe {
            let limit = _mm256_set1_ps(limit);
            let (low, high) = (_mm256_cmp_ps::<_CMP_LT_OQ>(x[0], limit), _mm256_cmp_ps::<_CMP_LT_OQ>(x[1], limit));
            [_mm256_andnot_ps(low, y[0]), _mm256_andnot_ps(high, y[1])]
        }
    }

    #[inline(always)]
    fn exp2_integral(self, n: V) -> V {
        // SAFETY: see above.
        unsafe {
            let bias = _mm256_set1_epi32(127);
            let (low, high) = (_mm256_cvtps_epi32(n[0]), _mm256_cvtps_epi32(n[1]));
            let (low, high) = (_mm256_add_epi32(low, bias), _mm256_add_epi32(high, bias));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<23>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<23>(high))]
        }
    }

    #[inline(always)]
    fn prefetch(self, memory: &[u8], at: usize) {
        if at < memory.len() {
            // SAFETY: see above; the address lies inside the slice.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(memory.as_ptr().add(at).cast()) }
        }
    }

    #[inline(always)]
    fn sum(self, v: V) -> f32 {
        // SAFETY: see above.
        unsafe { sum(_mm256_add_ps(v[0], v[1])) }
    }

    #[inline(always)]
    fn largest(self, v: V) -> f32 {
        // SAFETY: see above.
        unsafe { largest(_mm256_max_ps(v[0], v[1])) }
    }
}
