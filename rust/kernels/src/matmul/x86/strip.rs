//! Weights in strips: what the kernels know of a format, a lane for each of sixteen rows.

use core::arch::x86_64::*;

use crate::formats::{BLOCK, STRIP};

use super::decode::Decode;
use super::kquants::{Q2K, Q3K, Q4K, Q5K, Q6K};
use super::legacy::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};

/// Bytes between what is multiplied and what is fetched meanwhile.
const AHEAD: usize = 16384;

/// A group of a strip, with so many storage blocks.
#[derive(Clone, Copy)]
pub(super) struct At {
    start: *const u8,
    /// What to fetch meanwhile, as many bytes.
    pub next: *const u8,
    storage: usize,
}

impl At {
    /// Group `index` of a strip, which has `present` blocks.
    pub(super) fn group<D: Strip>(strip: *const u8, index: usize, present: usize) -> Self {
        let start = strip.wrapping_add(index * STRIP * D::BYTES);
        Self { start, next: start.wrapping_add(AHEAD), storage: present * BLOCK / D::FORMAT.block() }
    }

    /// Word `word` of storage block `block` of each row.
    ///
    /// # Safety
    /// They exist.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn words<D: Strip>(self, block: usize, word: usize) -> __m512i {
        let place = STRIP * (self.storage * D::FORMAT.rest() + 4 * (block * D::FORMAT.words() + word));
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_si512(self.start.add(place).cast()) }
    }

    /// The f16 beside the words of storage block `block` of each row.
    ///
    /// # Safety
    /// There is such a block.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn rest(self, block: usize) -> __m512 {
        // SAFETY: the caller's promise.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(self.start.add(STRIP * 2 * block).cast()) })
    }

    /// The f16 in the lower (PART 0) or upper half of a word.
    ///
    /// # Safety
    /// As [`Self::words`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn half<D: Strip, const PART: usize>(self, block: usize, word: usize) -> __m512 {
        // SAFETY: the caller's promise.
        let words = unsafe { self.words::<D>(block, word) };
        let half = if PART == 0 { words } else { _mm512_srli_epi32::<16>(words) };
        _mm512_cvtph_ps(_mm512_cvtepi32_epi16(half))
    }
}

/// A quantised format in strips; what is said of each row is a lane.
///
/// # Safety
/// Of all functions: the CPU has AVX-512, and the group has the block, part or run.
pub(super) trait Strip: Decode {
    /// Blocks from which on codes are decoded in the same way again.
    const PERIOD: usize;

    /// Codes of four columns of block `base + phase`, as [`Decode::bytes`]. `base` is a multiple of the period, and `phase`
    /// and `quad` are known at compile time.
    unsafe fn codes(at: At, base: usize, phase: usize, quad: usize) -> __m512i;

    /// The integer scale of a block or half block; anything in formats without them.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn integer(_at: At, _part: usize) -> __m512i {
        _mm512_setzero_si512()
    }

    /// The scale of a run.
    unsafe fn run_scale(at: At, run: usize) -> __m512;

    /// The offset of a block, of all of them in formats with steps; anything in formats without an offset.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn offset(_at: At, _block: usize) -> __m512 {
        _mm512_setzero_ps()
    }

    /// The steps of a block or half block; anything in formats without them.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn step(_at: At, _part: usize) -> __m512i {
        _mm512_setzero_si512()
    }
}

/// The low 16 bits of two numbers in each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn pair(first: __m512i, second: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(0xaaaa_aaaa, first, _mm512_slli_epi32::<16>(second))
}

/// Low or high halves of every byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn nibble(x: __m512i, high: bool) -> __m512i {
    _mm512_and_si512(if high { _mm512_srli_epi16::<4>(x) } else { x }, _mm512_set1_epi8(15))
}

/// `bits` bits of every byte of x from bit `from` on, at bit `to`; bits of `below` under it. All known after inlining.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn with_bits(below: __m512i, x: __m512i, from: usize, to: usize, bits: usize) -> __m512i {
    let mask = _mm512_set1_epi8((((1 << bits) - 1) << to) as i8);
    let moved = if from >= to {
        _mm512_srl_epi16(x, _mm_cvtsi32_si128((from - to) as i32))
    } else {
        _mm512_sll_epi16(x, _mm_cvtsi32_si128((to - from) as i32))
    };
    _mm512_or_si512(below, _mm512_and_si512(moved, mask))
}

/// Byte `byte` of every lane, unsigned.
#[inline]
#[target_feature(enable = "avx512f")]
fn byte(x: __m512i, byte: usize) -> __m512i {
    let moved = _mm512_srl_epi32(x, _mm_cvtsi32_si128(8 * byte as i32));
    _mm512_and_si512(moved, _mm512_set1_epi32(255))
}

/// The four 6-bit scales (`part` 0 and 1) or minima (2 and 3) of `Q4_K` and `Q5_K` that make a word: bytes.
///
/// # Safety
/// As for [`Strip`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn six_bits<D: Strip>(at: At, part: usize) -> __m512i {
    let six = _mm512_set1_epi8(0x3f);
    // SAFETY: three words behind that of the f16.
    let (low, min, mixed) = unsafe { (at.words::<D>(0, 1), at.words::<D>(0, 2), at.words::<D>(0, 3)) };
    match part {
        0 => _mm512_and_si512(low, six),
        1 => with_bits(nibble(mixed, false), low, 6, 4, 2),
        2 => _mm512_and_si512(min, six),
        _ => with_bits(nibble(mixed, true), min, 6, 4, 2),
    }
}

// SAFETY of all blocks below: the promises of the trait.

/// A format: its codes and scale, integer scales, offsets and steps if it has them, as expressions of the arguments of [`Strip`].
macro_rules! strip {
    ($name:ident, period $period:literal, codes |$at:ident, $base:ident, $phase:ident, $quad:ident| $codes:expr, scale |$at2:ident, $run:ident| $scale:expr
     $(, integer |$at3:ident, $part:ident| $integer:expr)? $(, offset |$at4:ident, $part2:ident| $offset:expr)?
     $(, step |$at5:ident, $part3:ident| $step:expr)?) => {
        impl Strip for $name {
            const PERIOD: usize = $period;

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw")]
            unsafe fn codes($at: At, $base: usize, $phase: usize, $quad: usize) -> __m512i {
                // SAFETY: see above.
                unsafe { $codes }
            }

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw")]
            unsafe fn run_scale($at2: At, $run: usize) -> __m512 {
                // SAFETY: see above.
                unsafe { $scale }
            }

            $(
                #[inline]
                #[target_feature(enable = "avx512f,avx512bw")]
                unsafe fn integer($at3: At, $part: usize) -> __m512i {
                    // SAFETY: see above.
                    unsafe { $integer }
                }
            )?

            $(
                #[inline]
                #[target_feature(enable = "avx512f,avx512bw")]
                unsafe fn offset($at4: At, $part2: usize) -> __m512 {
                    // SAFETY: see above.
                    unsafe { $offset }
                }
            )?

            $(
                #[inline]
                #[target_feature(enable = "avx512f,avx512bw")]
                unsafe fn step($at5: At, $part3: usize) -> __m512i {
                    // SAFETY: see above.
                    unsafe { $step }
                }
            )?
        }
    };
}

/// The fifth bits of a word that was turned around.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn fifth(low: __m512i, bits: __m512i, quad: usize) -> __m512i {
    with_bits(low, bits, quad, 4, 1)
}

strip!(Q4_0, period 1, codes |at, block, _phase, quad| nibble(at.words::<Self>(block, quad % 4), quad > 3), scale |at, run| at.rest(run));
strip!(
    Q4_1,
    period 1,
    codes |at, block, _phase, quad| nibble(at.words::<Self>(block, 1 + quad % 4), quad > 3),
    scale |at, run| at.half::<Self, 0>(run, 0),
    offset |at, part| at.half::<Self, 1>(part, 0)
);
strip!(
    Q5_0,
    period 1,
    codes |at, block, _phase, quad| {
        fifth(nibble(at.words::<Self>(block, 1 + quad % 4), quad > 3), at.words::<Self>(block, 0), quad)
    },
    scale |at, run| at.rest(run)
);
strip!(
    Q5_1,
    period 1,
    codes |at, block, _phase, quad| {
        fifth(nibble(at.words::<Self>(block, 2 + quad % 4), quad > 3), at.words::<Self>(block, 1), quad)
    },
    scale |at, run| at.half::<Self, 0>(run, 0),
    offset |at, part| at.half::<Self, 1>(part, 0)
);
strip!(
    Q8_0,
    period 1,
    codes |at, block, _phase, quad| _mm512_xor_si512(at.words::<Self>(block, quad), _mm512_set1_epi8(-128)),
    scale |at, run| at.rest(run)
);
strip!(
    Q2K,
    period 4,
    codes |at, base, phase, quad| {
        with_bits(_mm512_setzero_si512(), at.words::<Self>(0, 4 + 8 * (base / 4) + quad), 2 * phase, 0, 2)
    },
    scale |at, _run| at.half::<Self, 0>(0, 20),
    integer |at, part| byte(nibble(at.words::<Self>(0, part / 4), false), part % 4),
    offset |at, _block| negative(at.half::<Self, 1>(0, 20)),
    step |at, part| byte(nibble(at.words::<Self>(0, part / 4), true), part % 4)
);
strip!(
    Q3K,
    period 8,
    codes |at, _base, phase, quad| {
        let low = at.words::<Self>(0, 8 + 8 * (phase / 4) + quad);
        let low = with_bits(_mm512_setzero_si512(), low, phase % 4 * 2, 0, 2);
        with_bits(low, at.words::<Self>(0, quad), phase, 2, 1)
    },
    scale |at, _run| at.rest(0),
    integer |at, part| {
        let word = part / 4;
        let low = nibble(at.words::<Self>(0, 24 + word % 2), word > 1);
        let scales = with_bits(low, at.words::<Self>(0, 26), 2 * word, 4, 2);
        _mm512_sub_epi32(byte(scales, part % 4), _mm512_set1_epi32(32))
    }
);
strip!(
    Q4K,
    period 2,
    codes |at, base, phase, quad| nibble(at.words::<Self>(0, 4 + 8 * (base / 2) + quad), phase == 1),
    scale |at, _run| at.half::<Self, 0>(0, 0),
    integer |at, part| byte(six_bits::<Self>(at, part / 4), part % 4),
    offset |at, _block| negative(at.half::<Self, 1>(0, 0)),
    step |at, part| byte(six_bits::<Self>(at, 2 + part / 4), part % 4)
);
strip!(
    Q5K,
    period 8,
    codes |at, _base, phase, quad| {
        let low = nibble(at.words::<Self>(0, 12 + 8 * (phase / 2) + quad), phase % 2 == 1);
        with_bits(low, at.words::<Self>(0, 4 + quad), phase, 4, 1)
    },
    scale |at, _run| at.half::<Self, 0>(0, 0),
    integer |at, part| byte(six_bits::<Self>(at, part / 4), part % 4),
    offset |at, _block| negative(at.half::<Self, 1>(0, 0)),
    step |at, part| byte(six_bits::<Self>(at, 2 + part / 4), part % 4)
);
strip!(
    Q6K,
    period 4,
    codes |at, base, phase, quad| {
        let part = base / 4;
        let low = nibble(at.words::<Self>(0, 16 * part + 8 * (phase % 2) + quad), phase > 1);
        with_bits(low, at.words::<Self>(0, 32 + 8 * part + quad), 2 * phase, 4, 2)
    },
    scale |at, _run| at.rest(0),
    integer |at, part| {
        let scales = at.words::<Self>(0, 48 + part / 4);
        _mm512_srai_epi32::<24>(_mm512_sll_epi32(scales, _mm_cvtsi32_si128(24 - 8 * (part % 4) as i32)))
    }
);

#[inline]
#[target_feature(enable = "avx512f")]
fn negative(scale: __m512) -> __m512 {
    _mm512_sub_ps(_mm512_setzero_ps(), scale)
}
