//! Groups of the K-quants: one storage block each.

use core::arch::x86_64::*;

use crate::formats::Format;

use super::decode::{Decode, Offsets, Scales, Steps};
use super::lanes::{each8, gather_f16, gather_f32, load4, load16, load32, transpose};

/// Bits `shift..shift + 2` of every byte, moved to bit `to`. Both shifts are known after inlining.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bit_pair(x: __m256i, shift: usize, to: usize) -> __m256i {
    let mask = _mm256_set1_epi8(3 << to);
    let moved = if shift >= to {
        _mm256_srl_epi16(x, _mm_cvtsi32_si128((shift - to) as i32))
    } else {
        _mm256_sll_epi16(x, _mm_cvtsi32_si128((to - shift) as i32))
    };
    _mm256_and_si256(moved, mask)
}

/// Low or high halves of every byte.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn nibble(x: __m256i, high: bool) -> __m256i {
    _mm256_and_si256(if high { _mm256_srli_epi16::<4>(x) } else { x }, _mm256_set1_epi8(15))
}

/// `mask` where bit `bit` of a byte is set, else 0.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bit_as(x: __m256i, bit: usize, mask: i8) -> __m256i {
    let single = _mm256_set1_epi8((1_u8 << bit).cast_signed());
    _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(x, single), single), _mm256_set1_epi8(mask))
}

/// The 6-bit scales (bytes 0..8) and minima (bytes 8..16) of `Q4_K` and `Q5_K`.
///
/// # Safety
/// `group` is one of theirs.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn six_bits(group: *const u8) -> __m128i {
    // SAFETY: the words lie in the twelve bytes behind two f16.
    let (low, min, mixed) = unsafe { (load4(group.add(4)), load4(group.add(8)), load4(group.add(12))) };
    let upper = |nibbles: u32, bits: u32| (nibbles & 0x0f0f_0f0f | bits >> 2 & 0x3030_3030).cast_signed();
    _mm_setr_epi32(
        (low & 0x3f3f_3f3f).cast_signed(),
        upper(mixed, low),
        (min & 0x3f3f_3f3f).cast_signed(),
        upper(mixed >> 4, min),
    )
}

/// Minima of eight rows of `Q4_K` or `Q5_K`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn minima(scales: &[Scales; 8], to: &mut Steps) {
    to[..8].copy_from_slice(&transpose(&each8!(|J| _mm256_cvtepi16_epi32(_mm256_extracti128_si256::<1>(scales[J])))));
}

/// The scale of minima, an f16 at byte `at`, which they are subtracted with.
///
/// # Safety
/// Each group has these bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn negative(groups: &[*const u8; 8], at: usize) -> __m256 {
    // SAFETY: the caller's promise.
    _mm256_sub_ps(_mm256_setzero_ps(), unsafe { gather_f16(groups, at) })
}

// SAFETY of all blocks below: the promises of the trait; a group is one storage block.

pub(super) struct Q2K;
impl Decode for Q2K {
    const FORMAT: Format = Format::Q2_K;
    const SCALE: usize = 80;
    const MOST: i32 = 3;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(group: *const u8) -> Scales {
        // SAFETY: see above.
        let nibbles = unsafe { load16(group) };
        _mm256_cvtepu8_epi16(_mm_and_si128(nibbles, _mm_set1_epi8(15)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn bytes(group: *const u8, block: usize) -> __m256i {
        // SAFETY: see above.
        let x = unsafe { load32(group.add(16 + 32 * (block / 4))) };
        bit_pair(x, block % 4 * 2, 0)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn offsets(groups: &[*const u8; 8], _: usize, to: &mut Offsets) {
        // SAFETY: see above.
        to[0] = unsafe { negative(groups, 82) };
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn steps(groups: &[*const u8; 8], _: &[Scales; 8], to: &mut Steps) {
        for (half, steps) in to.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            // SAFETY: see above: sixteen bytes of nibbles start a group.
            let mins = each8!(|J| unsafe {
                let eight = _mm_loadl_epi64(groups[J].add(8 * half).cast());
                _mm256_cvtepu8_epi32(_mm_and_si128(_mm_srli_epi16::<4>(eight), _mm_set1_epi8(15)))
            });
            *steps = transpose(&mins);
        }
    }
}

pub(super) struct Q3K;
impl Decode for Q3K {
    const FORMAT: Format = Format::Q3_K;
    const SCALE: usize = 108;
    const BIAS: i32 = 4;
    const MOST: i32 = 7;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(group: *const u8) -> Scales {
        // SAFETY: see above.
        let (first, second, top) = unsafe { (load4(group.add(96)), load4(group.add(100)), load4(group.add(104))) };
        let scale = |low: u32, shift: u32| (low & 0x0f0f_0f0f | (top >> shift & 0x0303_0303) << 4).cast_signed();
        let scales = _mm_setr_epi32(scale(first, 0), scale(second, 2), scale(first >> 4, 4), scale(second >> 4, 6));
        _mm256_cvtepi8_epi16(_mm_sub_epi8(scales, _mm_set1_epi8(32)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn bytes(group: *const u8, block: usize) -> __m256i {
        // SAFETY: see above.
        let (high, x) = unsafe { (load32(group), load32(group.add(32 + 32 * (block / 4)))) };
        _mm256_or_si256(bit_pair(x, block % 4 * 2, 0), bit_as(high, block, 4))
    }
}

/// Scales and minima of `Q4_K` and `Q5_K`, which lie in the same bytes of both.
macro_rules! six_bit_scales {
    () => {
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn scales(group: *const u8) -> Scales {
            // SAFETY: see above.
            _mm256_cvtepu8_epi16(unsafe { six_bits(group) })
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn offsets(groups: &[*const u8; 8], _: usize, to: &mut Offsets) {
            // SAFETY: see above.
            to[0] = unsafe { negative(groups, 2) };
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn steps(_: &[*const u8; 8], scales: &[Scales; 8], to: &mut Steps) {
            minima(scales, to);
        }
    };
}

pub(super) struct Q4K;
impl Decode for Q4K {
    const FORMAT: Format = Format::Q4_K;
    const MOST: i32 = 15;

    six_bit_scales!();

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn bytes(group: *const u8, block: usize) -> __m256i {
        // SAFETY: see above.
        let x = unsafe { load32(group.add(16 + 32 * (block / 2))) };
        nibble(x, block % 2 == 1)
    }
}

pub(super) struct Q5K;
impl Decode for Q5K {
    const FORMAT: Format = Format::Q5_K;
    const MOST: i32 = 31;

    six_bit_scales!();

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn bytes(group: *const u8, block: usize) -> __m256i {
        // SAFETY: see above.
        let (high, x) = unsafe { (load32(group.add(16)), load32(group.add(48 + 32 * (block / 2)))) };
        _mm256_or_si256(nibble(x, block % 2 == 1), bit_as(high, block, 16))
    }
}

pub(super) struct Q6K;
impl Decode for Q6K {
    const FORMAT: Format = Format::Q6_K;
    const SCALE: usize = 208;
    const BIAS: i32 = 32;
    const MOST: i32 = 63;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(group: *const u8) -> Scales {
        // SAFETY: see above.
        _mm256_cvtepi8_epi16(unsafe { load16(group.add(192)) })
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn bytes(group: *const u8, block: usize) -> __m256i {
        let (part, quarter) = (block / 4, block % 4);
        // SAFETY: see above.
        let (low, high) =
            unsafe { (load32(group.add(64 * part + 32 * (quarter % 2))), load32(group.add(128 + 32 * part))) };
        _mm256_or_si256(nibble(low, quarter >= 2), bit_pair(high, 2 * quarter, 4))
    }
}

pub(super) struct Q8K;
impl Decode for Q8K {
    const FORMAT: Format = Format::Q8_K;
    const BIAS: i32 = 128;
    const MOST: i32 = 255;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scales(_: *const u8) -> Scales {
        _mm256_setzero_si256()
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scale(groups: &[*const u8; 8], at: usize) -> __m256 {
        // SAFETY: see above.
        unsafe { gather_f32(groups, at) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn bytes(group: *const u8, block: usize) -> __m256i {
        // SAFETY: see above.
        let signed = unsafe { load32(group.add(4 + 32 * block)) };
        _mm256_xor_si256(signed, _mm256_set1_epi8(-128))
    }
}
