//! Affine formats: a storage block of 64 weights has a scale, a bias or a zero point, and the codes of two blocks.

use core::arch::x86_64::*;

use crate::formats::Format;

use super::decode::{Decode, Offsets, Scales};
use super::kquants::nibble;
use super::lanes::{gather_f16, load4, load16, load32, spread_bits};

/// Codes of two bits.
///
/// # Safety
/// 16 bytes from `at` are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn two_bits(at: *const u8, high: bool) -> __m256i {
    // SAFETY: the caller's promise.
    let all = _mm256_broadcastsi128_si256(unsafe { load16(at) });
    let places =
        if high { _mm256_setr_epi32(4, 4, 4, 4, 6, 6, 6, 6) } else { _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2) };
    _mm256_and_si256(_mm256_srlv_epi32(all, places), _mm256_set1_epi8(3))
}

/// Codes of four bits.
///
/// # Safety
/// 32 bytes from `at` are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn four_bits(at: *const u8, high: bool) -> __m256i {
    // SAFETY: the caller's promise.
    nibble(unsafe { load32(at) }, high)
}

/// Codes of eight bits.
///
/// # Safety
/// 64 bytes from `at` are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn eight_bits(at: *const u8, high: bool) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { load32(at.add(32 * usize::from(high))) }
}

/// Codes of three bits.
///
/// # Safety
/// 24 bytes from `at` are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn three_bits(at: *const u8, high: bool) -> __m256i {
    // SAFETY: the caller's promise.
    let (low, top) = unsafe { (two_bits(at, high), load4(at.add(16 + 4 * usize::from(high)))) };
    _mm256_or_si256(low, spread_bits(top, 4))
}

/// Codes of six bits.
///
/// # Safety
/// 48 bytes from `at` are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn six_bits(at: *const u8, high: bool) -> __m256i {
    // SAFETY: the caller's promise.
    let (low, top) = unsafe { (four_bits(at, high), two_bits(at.add(32), high)) };
    _mm256_or_si256(low, _mm256_slli_epi16::<4>(top))
}

/// The offset of codes that are less by `centre` than the stored ones, from scale and bias.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn biased(scale: __m256, bias: __m256, centre: f32) -> __m256 {
    if centre == 0.0 { bias } else { _mm256_add_ps(_mm256_mul_ps(_mm256_set1_ps(centre), scale), bias) }
}

/// As [`biased`], from scale and zero point.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn zeroed(scale: __m256, zero: __m256, centre: f32) -> __m256 {
    _mm256_mul_ps(scale, _mm256_sub_ps(_mm256_set1_ps(centre), zero))
}

// SAFETY of all blocks below: the promises of the trait; each read stays inside one storage block.

/// A format: its storage bytes, the function for its codes, their bias and largest value, and that for offsets.
macro_rules! affine {
    ($name:ident, $bytes:literal, $codes:ident, bias $bias:literal, most $most:literal, $offset:ident) => {
        pub(super) struct $name;
        impl Decode for $name {
            const FORMAT: Format = Format::$name;
            const BIAS: i32 = $bias;
            const MOST: i32 = $most;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn scales(_: *const u8) -> Scales {
                _mm256_setzero_si256()
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn bytes(group: *const u8, block: usize) -> __m256i {
                // SAFETY: see above.
                unsafe { $codes(group.add($bytes * (block / 2) + 4), block % 2 == 1) }
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn offsets(groups: &[*const u8; 8], blocks: usize, to: &mut Offsets) {
                for (storage, pair) in to[..blocks].chunks_exact_mut(2).enumerate() {
                    let at = $bytes * storage;
                    // SAFETY: see above.
                    let (scale, second) = unsafe { (gather_f16(groups, at), gather_f16(groups, at + 2)) };
                    pair.fill($offset(scale, second, $bias as f32));
                }
            }
        }
    };
}

affine!(AFQ2, 20, two_bits, bias 0, most 3, biased);
affine!(AFQ3, 28, three_bits, bias 0, most 7, biased);
affine!(AFQ4, 36, four_bits, bias 0, most 15, biased);
affine!(AFQ6, 52, six_bits, bias 0, most 63, biased);
affine!(AFQ8, 68, eight_bits, bias 128, most 255, biased);
affine!(HQQ4, 36, four_bits, bias 0, most 15, zeroed);
affine!(HQQ8, 68, eight_bits, bias 128, most 255, zeroed);
