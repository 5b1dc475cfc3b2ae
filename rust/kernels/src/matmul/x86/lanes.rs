//! Loads, stores and shuffles of 256-bit vectors that the kernels share.

use core::arch::x86_64::*;

use half::f16;

/// `[f(0), ..., f(7)]` with the index known at compile time in every element.
///
/// `array::from_fn` is compiled without the target features and would keep its closure from being inlined.
macro_rules! each8 {
    (|$j:ident| $value:expr) => {
        [
            {
                const $j: usize = 0;
                $value
            },
            {
                const $j: usize = 1;
                $value
            },
            {
                const $j: usize = 2;
                $value
            },
            {
                const $j: usize = 3;
                $value
            },
            {
                const $j: usize = 4;
                $value
            },
            {
                const $j: usize = 5;
                $value
            },
            {
                const $j: usize = 6;
                $value
            },
            {
                const $j: usize = 7;
                $value
            },
        ]
    };
}
pub(super) use each8;

/// 32 bytes of `bytes` from `at`; the check disappears when both are known at compile time.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load32<const N: usize>(bytes: &[u8; N], at: usize) -> __m256i {
    assert!(at + 32 <= N);
    // SAFETY: the 32 bytes are inside the array; the load is unaligned.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().add(at).cast()) }
}

/// 16 bytes of `bytes` from `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load16<const N: usize>(bytes: &[u8; N], at: usize) -> __m128i {
    assert!(at + 16 <= N);
    // SAFETY: as in `load32`.
    unsafe { _mm_loadu_si128(bytes.as_ptr().add(at).cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_i8(x: &[i8; 32]) -> __m256i {
    // SAFETY: the array has 32 bytes; the load is unaligned.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_f32(x: &[f32; 8]) -> __m256 {
    // SAFETY: the array has 32 bytes; the load is unaligned.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store_f32(x: &mut [f32; 8], v: __m256) {
    // SAFETY: the array has 32 bytes; the store is unaligned.
    unsafe { _mm256_storeu_ps(x.as_mut_ptr(), v) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store_i32(x: &mut [i32; 8], v: __m256i) {
    // SAFETY: the array has 32 bytes; the store is unaligned.
    unsafe { _mm256_storeu_si256(x.as_mut_ptr().cast(), v) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_pairs(x: &[[i16; 2]; 8]) -> __m256i {
    // SAFETY: the array has 32 bytes; the load is unaligned.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

/// The first or second sixteen codes of a block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_i16(x: &[i16; 32], half: usize) -> __m256i {
    let x = &x.as_chunks::<16>().0[half];
    // SAFETY: the array has 32 bytes; the load is unaligned.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

/// Sixteen of 32 signed bytes as int16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn widen_signed(v: __m256i, half: usize) -> __m256i {
    let bytes = if half == 0 { _mm256_castsi256_si128(v) } else { _mm256_extracti128_si256::<1>(v) };
    _mm256_cvtepi8_epi16(bytes)
}

/// Four consecutive codes of an activation block in every lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn broadcast4(x: &[i8; 32], quad: usize) -> __m256i {
    let x = &x.as_chunks::<4>().0[quad];
    _mm256_set1_epi32(i32::from_ne_bytes(x.map(i8::cast_unsigned)))
}

/// One pair of int16 in every lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn broadcast_pair(x: [i16; 2]) -> __m256i {
    _mm256_set1_epi32(i32::from(x[0]) & 0xffff | i32::from(x[1]) << 16)
}

/// The f16 at `first`, `first + stride`, ... as f32, exactly.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn gather_f16<const N: usize>(bytes: &[u8; N], first: usize, stride: usize) -> __m256 {
    let [a, b, c, d, e, f, g, h] = each8!(|J| {
        let at = first + J * stride;
        i16::from_le_bytes([bytes[at], bytes[at + 1]])
    });
    _mm256_cvtph_ps(_mm_setr_epi16(a, b, c, d, e, f, g, h))
}

/// The f16 at `at` as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn f16_at<const N: usize>(bytes: &[u8; N], at: usize) -> f32 {
    let bits = f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_bits();
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
}

/// Sums of the eight lanes of each of eight vectors.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn sums8(v: &[__m256i; 8]) -> __m256i {
    let low = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    let high = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high))
}

/// The end of a result (`reduce` of the module) for partial sums in one vector.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn reduce(p: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(p), _mm256_extractf128_ps::<1>(p));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

/// Transposes 8 x 8 elements of 32 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn transpose(v: &[__m256i; 8]) -> [__m256i; 8] {
    let a = [
        _mm256_unpacklo_epi32(v[0], v[1]),
        _mm256_unpackhi_epi32(v[0], v[1]),
        _mm256_unpacklo_epi32(v[2], v[3]),
        _mm256_unpackhi_epi32(v[2], v[3]),
        _mm256_unpacklo_epi32(v[4], v[5]),
        _mm256_unpackhi_epi32(v[4], v[5]),
        _mm256_unpacklo_epi32(v[6], v[7]),
        _mm256_unpackhi_epi32(v[6], v[7]),
    ];
    let b = [
        _mm256_unpacklo_epi64(a[0], a[2]),
        _mm256_unpackhi_epi64(a[0], a[2]),
        _mm256_unpacklo_epi64(a[1], a[3]),
        _mm256_unpackhi_epi64(a[1], a[3]),
        _mm256_unpacklo_epi64(a[4], a[6]),
        _mm256_unpackhi_epi64(a[4], a[6]),
        _mm256_unpacklo_epi64(a[5], a[7]),
        _mm256_unpackhi_epi64(a[5], a[7]),
    ];
    [
        _mm256_permute2x128_si256::<0x20>(b[0], b[4]),
        _mm256_permute2x128_si256::<0x20>(b[1], b[5]),
        _mm256_permute2x128_si256::<0x20>(b[2], b[6]),
        _mm256_permute2x128_si256::<0x20>(b[3], b[7]),
        _mm256_permute2x128_si256::<0x31>(b[0], b[4]),
        _mm256_permute2x128_si256::<0x31>(b[1], b[5]),
        _mm256_permute2x128_si256::<0x31>(b[2], b[6]),
        _mm256_permute2x128_si256::<0x31>(b[3], b[7]),
    ]
}
