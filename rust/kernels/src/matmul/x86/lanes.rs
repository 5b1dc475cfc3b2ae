//! Loads, stores and shuffles of 256-bit vectors that the kernels share.

use core::arch::x86_64::*;

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

/// Runs a statement for each J below `$count`, sixteen at most, known at compile time.
macro_rules! unrolled {
    (|$j:ident| $count:expr => $run:block) => {
        $crate::matmul::x86::lanes::each8!(|$j| if $j < $count {
            $run
        });
        $crate::matmul::x86::lanes::each8!(|K| {
            const $j: usize = K + 8;
            if $j < $count {
                $run
            }
        });
    };
}
pub(super) use unrolled;

/// Fetches the lines of `count` bytes from `at`, wherever that is.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn prefetch(at: *const u8, count: usize) {
    for line in 0..count.div_ceil(64) {
        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(64 * line).cast());
    }
}

/// 32 bytes from `at`.
///
/// # Safety
/// They are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn load32(at: *const u8) -> __m256i {
    // SAFETY: the caller's promise; the load is unaligned.
    unsafe { _mm256_loadu_si256(at.cast()) }
}

/// 16 bytes from `at`.
///
/// # Safety
/// They are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn load16(at: *const u8) -> __m128i {
    // SAFETY: the caller's promise; the load is unaligned.
    unsafe { _mm_loadu_si128(at.cast()) }
}

/// 4 bytes from `at`, little-endian.
///
/// # Safety
/// They are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn load4(at: *const u8) -> u32 {
    // SAFETY: the caller's promise.
    u32::from_le_bytes(unsafe { at.cast::<[u8; 4]>().read() })
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

/// The f16 at `at` in each of eight groups as f32, exactly.
///
/// # Safety
/// Two bytes from `at` of every group are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gather_f16(groups: &[*const u8; 8], at: usize) -> __m256 {
    let [a, b, c, d, e, f, g, h] = each8!(|J| {
        // SAFETY: the caller's promise.
        i16::from_le_bytes(unsafe { groups[J].add(at).cast::<[u8; 2]>().read() })
    });
    _mm256_cvtph_ps(_mm_setr_epi16(a, b, c, d, e, f, g, h))
}

/// The f32 at `at` in each of eight groups.
///
/// # Safety
/// Four bytes from `at` of every group are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gather_f32(groups: &[*const u8; 8], at: usize) -> __m256 {
    // SAFETY: the caller's promise.
    let [a, b, c, d, e, f, g, h] = each8!(|J| f32::from_bits(unsafe { load4(groups[J].add(at)) }));
    _mm256_setr_ps(a, b, c, d, e, f, g, h)
}

/// The byte at `at` in each of eight groups as int16.
///
/// # Safety
/// It is readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gather_bytes(groups: &[*const u8; 8], at: usize) -> __m128i {
    // SAFETY: the caller's promise.
    let [a, b, c, d, e, f, g, h] = each8!(|J| i16::from(unsafe { groups[J].add(at).read() }));
    _mm_setr_epi16(a, b, c, d, e, f, g, h)
}

/// The numbers whose E4M3 bits are the lower halves of eight int16, which have no upper halves.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn e4m3(bits: __m128i) -> __m256 {
    let most = _mm_set1_epi16(0x7f);
    let magnitude = _mm_and_si128(bits, most);
    // As an f16, whose exponent has a bias of 15 instead of 7, it is smaller by 2^8; a NaN must become one.
    let half = _mm_or_si128(_mm_slli_epi16::<7>(magnitude), _mm_slli_epi16::<8>(_mm_andnot_si128(most, bits)));
    let half = _mm_or_si128(half, _mm_and_si128(_mm_cmpeq_epi16(magnitude, most), _mm_set1_epi16(0x7e00)));
    _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0))
}

/// `mask` in byte i where bit i of `word` is set, else 0.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn spread_bits(word: u32, mask: i8) -> __m256i {
    // Byte i of the vector becomes byte i / 8 of the word, of which bit i % 8 counts.
    let spread = _mm256_shuffle_epi8(
        _mm256_set1_epi32(word.cast_signed()),
        _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303),
    );
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
    _mm256_and_si256(set, _mm256_set1_epi8(mask))
}

/// Sums of the eight lanes of each of eight vectors, modulo 2^32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn sums8(v: &[__m256i; 8]) -> __m256i {
    let pairs = |a, b| _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let fours = |a, b| _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let low = fours(pairs(v[0], v[1]), pairs(v[2], v[3]));
    let high = fours(pairs(v[4], v[5]), pairs(v[6], v[7]));
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high))
}

/// Unsigned bytes of even places as int16, and of odd ones: the order of codes in activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn widen(v: __m256i) -> [__m256i; 2] {
    [_mm256_and_si256(v, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(v)]
}

/// `widen` of signed bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn widen_signed(v: __m256i) -> [__m256i; 2] {
    [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(v)), _mm256_srai_epi16::<8>(v)]
}

/// The end of an exact result (`reduce` of the module) for partial sums in one vector.
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
