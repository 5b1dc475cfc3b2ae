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

/// Transposes a square of eight registers.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
unsafe fn transpose_eight(rows: [__m256; HALF]) -> [__m256; HALF] {
    let mut out = rows;
    // SAFETY: the caller's promise.
    unsafe {
        // A half of a register is a row of a 4 x 4 square: transpose the squares, then move them.
        for quad in out.as_chunks_mut::<4>().0 {
            let [a, b, c, d] = *quad;
            let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (low2, high2) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            quad[0] = _mm256_shuffle_ps::<0b01_00_01_00>(low, low2);
            quad[1] = _mm256_shuffle_ps::<0b11_10_11_10>(low, low2);
            quad[2] = _mm256_shuffle_ps::<0b01_00_01_00>(high, high2);
            quad[3] = _mm256_shuffle_ps::<0b11_10_11_10>(high, high2);
        }
        for i in 0..4 {
            let (a, b) = (out[i], out[i + 4]);
            out[i] = _mm256_permute2f128_ps::<0x20>(a, b);
            out[i + 4] = _mm256_permute2f128_ps::<0x31>(a, b);
        }
    }
    out
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
    fn store_f16(self, v: V, to: &mut [f16]) {
        let to = to[..LANES].as_mut_ptr();
        // SAFETY: see above; eight f16 are the 16 bytes of one store.
        unsafe {
            _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[0]));
            _mm_storeu_si128(to.add(HALF).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[1]));
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
    fn sqrt(self, a: V) -> V {
        // SAFETY: see above.
        unsafe { [_mm256_sqrt_ps(a[0]), _mm256_sqrt_ps(a[1])] }
    }

    #[inline(always)]
    fn pick(self, a: V, b: V, x: V, y: V) -> V {
        // SAFETY: see above.
        unsafe {
            let (low, high) = (_mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0]), _mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1]));
            [_mm256_blendv_ps(y[0], x[0], low), _mm256_blendv_ps(y[1], x[1], high)]
        }
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [V; LANES]) {
        let mut square = [[rows[0][0]; HALF]; 4];
        for i in 0..HALF {
            [square[0][i], square[1][i]] = rows[i];
            [square[2][i], square[3][i]] = rows[i + HALF];
        }
        // SAFETY: see above.
        let [a, b, c, d] = unsafe {
            [
                transpose_eight(square[0]),
                transpose_eight(square[1]),
                transpose_eight(square[2]),
                transpose_eight(square[3]),
            ]
        };
        for i in 0..HALF {
            rows[i] = [a[i], c[i]];
            rows[i + HALF] = [b[i], d[i]];
        }
    }

    #[inline(always)]
    fn store_bytes(self, v: V, to: &mut [u8]) {
        let to = &mut to[..LANES];
        // SAFETY: see above; sixteen bytes are one store.
        unsafe {
            let byte = _mm256_set1_epi32(0xff);
            let low = _mm256_and_si256(_mm256_cvtps_epi32(v[0]), byte);
            let high = _mm256_and_si256(_mm256_cvtps_epi32(v[1]), byte);
            // Packing keeps halves of registers apart: the permutation puts 64-bit words 0 2 1 3 in order.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high));
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        }
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
