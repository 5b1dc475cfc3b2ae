//! Weights in strips: what the kernels know of a format, a lane for each row of a strip or of half of one.

use core::arch::x86_64::*;

use crate::formats::{BLOCK, STRIP};

use super::decode::Decode;

/// Bytes between what is multiplied and what is fetched meanwhile.
pub(super) const AHEAD: usize = 16384;

/// A group of a strip, with so many storage blocks; or half of its rows.
#[derive(Clone, Copy)]
pub(super) struct At {
    /// The first word, and what the first storage block has beside its words.
    words: *const u8,
    rests: *const u8,
    /// What to fetch meanwhile, as many bytes.
    pub next: *const u8,
    /// The group in the lower plane, if there is one.
    lower: *const u8,
}

impl At {
    /// Group `index` of a strip, which has `present` blocks.
    pub(super) fn group<D: Decode>(strip: *const u8, index: usize, present: usize) -> Self {
        let start = strip.wrapping_add(index * STRIP * D::BYTES);
        let storage = present * BLOCK / D::FORMAT.block();
        let words = start.wrapping_add(STRIP * storage * D::FORMAT.rest());
        Self { words, rests: start, next: start.wrapping_add(AHEAD), lower: std::ptr::null() }
    }

    /// The same group in two planes, of which this is the upper one.
    pub(super) fn with_lower(self, lower: *const u8) -> Self {
        Self { lower, ..self }
    }

    pub(super) fn start(self) -> *const u8 {
        self.rests
    }

    /// The first eight rows (`half` 0), or the other ones.
    pub(super) fn half(self, half: usize) -> Self {
        let (words, rests) = (self.words.wrapping_add(32 * half), self.rests.wrapping_add(16 * half));
        Self { words, rests, ..self }
    }

    /// Where word `word` of storage block `block` of each row is.
    #[inline]
    fn word<D: Decode>(self, block: usize, word: usize) -> *const u8 {
        self.words.wrapping_add(4 * STRIP * (block * D::FORMAT.words() + word))
    }

    /// Where the f16 beside the words of storage block `block` of each row is.
    #[inline]
    fn rest(self, block: usize) -> *const u8 {
        self.rests.wrapping_add(2 * STRIP * block)
    }
}

/// A vector of 32-bit lanes.
pub(super) trait Vector: Copy {
    /// A vector of as many f32.
    type Floats: Copy;
    const ZERO: Self;
    const ZERO_FLOATS: Self::Floats;
}

/// A quantised format in strips; what is said of each row is a lane: of sixteen rows, or of eight.
///
/// # Safety
/// Of all functions: the CPU has AVX-512, or AVX2 for eight rows, and the group has the block, part or run.
pub(super) trait Strip<V: Vector = __m512i>: Decode {
    /// Blocks from which on codes are decoded in the same way again.
    const PERIOD: usize;

    /// Codes of four columns of block `base + phase`, as [`Decode::bytes`]. `base` is a multiple of the period, and `phase`
    /// and `quad` are known at compile time.
    unsafe fn codes(at: At, base: usize, phase: usize, quad: usize) -> V;

    /// What is taken off the codes of a block, negative; anything where it is the same for all rows.
    #[inline]
    unsafe fn less_bias(_at: At, _block: usize) -> V {
        V::ZERO
    }

    /// The integer scale of a block or half block; anything in formats without them.
    #[inline]
    unsafe fn integer(_at: At, _part: usize) -> V {
        V::ZERO
    }

    /// The scale of a run.
    unsafe fn run_scale(at: At, run: usize) -> V::Floats;

    /// The offset of a block, of all of them in formats with steps; anything in formats without an offset.
    #[inline]
    unsafe fn offset(_at: At, _block: usize) -> V::Floats {
        V::ZERO_FLOATS
    }

    /// The steps of a block or half block; anything in formats without them.
    #[inline]
    unsafe fn step(_at: At, _part: usize) -> V {
        V::ZERO
    }
}

/// A format: its codes and scale, integer scales, offsets and steps if it has them, as expressions of the arguments of [`Strip`].
macro_rules! strip {
    (($vector:ident, $features:literal), $name:ident, period $period:literal, codes |$at:ident, $base:ident, $phase:ident, $quad:ident| $codes:expr, scale |$at2:ident, $run:ident| $scale:expr
     $(, integer |$at3:ident, $part:ident| $integer:expr)? $(, offset |$at4:ident, $part2:ident| $offset:expr)?
     $(, step |$at5:ident, $part3:ident| $step:expr)?) => {
        impl Strip<$vector> for $name {
            const PERIOD: usize = $period;

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn codes($at: At, $base: usize, $phase: usize, $quad: usize) -> $vector {
                // SAFETY: the promises of the trait, here and below.
                unsafe { $codes }
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn run_scale($at2: At, $run: usize) -> <$vector as Vector>::Floats {
                // SAFETY: see above.
                unsafe { $scale }
            }

            $(
                #[inline]
                #[target_feature(enable = $features)]
                unsafe fn integer($at3: At, $part: usize) -> $vector {
                    // SAFETY: see above.
                    unsafe { $integer }
                }
            )?

            $(
                #[inline]
                #[target_feature(enable = $features)]
                unsafe fn offset($at4: At, $part2: usize) -> <$vector as Vector>::Floats {
                    // SAFETY: see above.
                    unsafe { $offset }
                }
            )?

            $(
                #[inline]
                #[target_feature(enable = $features)]
                unsafe fn step($at5: At, $part3: usize) -> $vector {
                    // SAFETY: see above.
                    unsafe { $step }
                }
            )?
        }
    };
}

/// All formats that have strips, in terms of what the module around it defines for its vectors: `words`, `rest` and `half`
/// read, `nibble`, `with_bits`, `byte` and `signed_byte` take apart, the rest is arithmetic.
macro_rules! strips {
    ($vector:ident, $features:literal) => {
        /// The four 6-bit scales (`part` 0 and 1) or minima (2 and 3) of `Q4_K` and `Q5_K` that make a word: bytes.
        ///
        /// # Safety
        /// As for [`Strip`].
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn six_bits<D: Decode>(at: At, part: usize) -> $vector {
            // SAFETY: three words behind that of the f16.
            let (low, min, mixed) = unsafe { (words::<D>(at, 0, 1), words::<D>(at, 0, 2), words::<D>(at, 0, 3)) };
            match part {
                0 => with_bits($vector::ZERO, low, 0, 0, 6),
                1 => with_bits(nibble(mixed, false), low, 6, 4, 2),
                2 => with_bits($vector::ZERO, min, 0, 0, 6),
                _ => with_bits(nibble(mixed, true), min, 6, 4, 2),
            }
        }

        /// The fifth bits of a word that was turned around.
        #[inline]
        #[target_feature(enable = $features)]
        fn fifth(low: $vector, bits: $vector, quad: usize) -> $vector {
            with_bits(low, bits, quad, 4, 1)
        }

        strip!(
            ($vector, $features),
            Q4_0,
            period 1,
            codes |at, block, _phase, quad| nibble(words::<Self>(at, block, quad % 4), quad > 3),
            scale |at, run| rest(at, run)
        );
        strip!(
            ($vector, $features),
            Q4_1,
            period 1,
            codes |at, block, _phase, quad| nibble(words::<Self>(at, block, 1 + quad % 4), quad > 3),
            scale |at, run| half::<Self, 0>(at, run, 0),
            offset |at, part| half::<Self, 1>(at, part, 0)
        );
        strip!(
            ($vector, $features),
            Q5_0,
            period 1,
            codes |at, block, _phase, quad| {
                fifth(nibble(words::<Self>(at, block, 1 + quad % 4), quad > 3), words::<Self>(at, block, 0), quad)
            },
            scale |at, run| rest(at, run)
        );
        strip!(
            ($vector, $features),
            Q5_1,
            period 1,
            codes |at, block, _phase, quad| {
                fifth(nibble(words::<Self>(at, block, 2 + quad % 4), quad > 3), words::<Self>(at, block, 1), quad)
            },
            scale |at, run| half::<Self, 0>(at, run, 0),
            offset |at, part| half::<Self, 1>(at, part, 0)
        );
        strip!(
            ($vector, $features),
            Q8_0,
            period 1,
            codes |at, block, _phase, quad| unsign(words::<Self>(at, block, quad)),
            scale |at, run| rest(at, run)
        );
        strip!(
            ($vector, $features),
            Q2K,
            period 4,
            codes |at, base, phase, quad| {
                with_bits($vector::ZERO, words::<Self>(at, 0, 4 + 8 * (base / 4) + quad), 2 * phase, 0, 2)
            },
            scale |at, _run| half::<Self, 0>(at, 0, 20),
            integer |at, part| byte(nibble(words::<Self>(at, 0, part / 4), false), part % 4),
            offset |at, _block| negative(half::<Self, 1>(at, 0, 20)),
            step |at, part| byte(nibble(words::<Self>(at, 0, part / 4), true), part % 4)
        );
        strip!(
            ($vector, $features),
            Q3K,
            period 8,
            codes |at, _base, phase, quad| {
                let low = words::<Self>(at, 0, 8 + 8 * (phase / 4) + quad);
                let low = with_bits($vector::ZERO, low, phase % 4 * 2, 0, 2);
                with_bits(low, words::<Self>(at, 0, quad), phase, 2, 1)
            },
            scale |at, _run| rest(at, 0),
            integer |at, part| {
                let word = part / 4;
                let low = nibble(words::<Self>(at, 0, 24 + word % 2), word > 1);
                let scales = with_bits(low, words::<Self>(at, 0, 26), 2 * word, 4, 2);
                less(byte(scales, part % 4), 32)
            }
        );
        strip!(
            ($vector, $features),
            Q4K,
            period 2,
            codes |at, base, phase, quad| nibble(words::<Self>(at, 0, 4 + 8 * (base / 2) + quad), phase == 1),
            scale |at, _run| half::<Self, 0>(at, 0, 0),
            integer |at, part| byte(six_bits::<Self>(at, part / 4), part % 4),
            offset |at, _block| negative(half::<Self, 1>(at, 0, 0)),
            step |at, part| byte(six_bits::<Self>(at, 2 + part / 4), part % 4)
        );
        strip!(
            ($vector, $features),
            Q5K,
            period 8,
            codes |at, _base, phase, quad| {
                let low = nibble(words::<Self>(at, 0, 12 + 8 * (phase / 2) + quad), phase % 2 == 1);
                with_bits(low, words::<Self>(at, 0, 4 + quad), phase, 4, 1)
            },
            scale |at, _run| half::<Self, 0>(at, 0, 0),
            integer |at, part| byte(six_bits::<Self>(at, part / 4), part % 4),
            offset |at, _block| negative(half::<Self, 1>(at, 0, 0)),
            step |at, part| byte(six_bits::<Self>(at, 2 + part / 4), part % 4)
        );
        strip!(
            ($vector, $features),
            Q6K,
            period 4,
            codes |at, base, phase, quad| {
                let part = base / 4;
                let low = nibble(words::<Self>(at, 0, 16 * part + 8 * (phase % 2) + quad), phase > 1);
                with_bits(low, words::<Self>(at, 0, 32 + 8 * part + quad), 2 * phase, 4, 2)
            },
            scale |at, _run| rest(at, 0),
            integer |at, part| signed_byte(words::<Self>(at, 0, 48 + part / 4), part % 4)
        );
    };
}
use strips;

pub(super) mod planes;
pub(super) mod ymm;
pub(super) mod zmm;
