//! `Q8_0` in two planes, in vectors of sixteen rows: codes are put together in registers, where one is needed.

use core::arch::asm;
use core::arch::x86_64::*;

use super::super::decode::{Decode, Scales};
use super::super::legacy::Q5_0;
use super::zmm::with_bits;
use super::{At, Strip};
use crate::formats::{Format, planes};

/// Bytes of the lower plane between what is multiplied and what is fetched meanwhile.
const AHEAD: usize = 8192;

/// See [`crate::formats::planes`].
pub(in crate::matmul::x86) struct Planes;

impl Decode for Planes {
    const FORMAT: Format = planes::WHOLE;
    const BYTES: usize = Q5_0::BYTES;
    const IN_PLANES: bool = true;
    const BIAS: i32 = 131;
    const MOST: i32 = 255;

    unsafe fn scales(_group: *const u8) -> Scales {
        unreachable!("planes are of strips")
    }

    unsafe fn bytes(_group: *const u8, _block: usize) -> __m256i {
        unreachable!("planes are of strips")
    }
}

impl Strip for Planes {
    const PERIOD: usize = 1;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn codes(at: At, base: usize, phase: usize, quad: usize) -> __m512i {
        let place = |line: usize| at.lower.wrapping_add(planes::lower_place(base + phase, line));
        // SAFETY: the promises of the trait, here and below.
        let line = |line: usize| unsafe { _mm512_loadu_si512(place(line).cast()) };
        if quad < 3 {
            let next = place(quad).wrapping_add(AHEAD).addr();
            // SAFETY: a hint, for whatever place.
            unsafe { asm!("prefetcht1 [{}]", in(reg) next, options(nomem, nostack, preserves_flags)) };
        }
        // SAFETY: see above.
        let upper = _mm512_slli_epi16::<3>(unsafe { <Q5_0 as Strip>::codes(at, base, phase, quad) });
        match quad {
            0..3 => with_bits(upper, line(quad), 0, 0, 3),
            3..6 => with_bits(upper, line(quad - 3), 3, 0, 3),
            _ => with_bits(with_bits(upper, line(quad - 6), 6, 0, 2), line(2), quad, 2, 1),
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn less_bias(at: At, block: usize) -> __m512i {
        // SAFETY: a word for each block; which rows are off by another bias is in its upper half.
        let ways = unsafe { at.lower.wrapping_add(4 * block).cast::<u32>().read_unaligned() };
        _mm512_mask_blend_epi32((ways >> 16) as u16, _mm512_set1_epi32(-Self::BIAS), _mm512_set1_epi32(-128))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn run_scale(at: At, run: usize) -> __m512 {
        // SAFETY: the promises of the trait.
        unsafe { <Q5_0 as Strip>::run_scale(at, run) }
    }
}
