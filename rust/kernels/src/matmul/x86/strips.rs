//! Few tokens and weights in strips: lanes are sixteen rows, and four columns of each are multiplied at once.
//!
//! ```text
//! for strip: for group:
//!     for block: for four columns: decode sixteen rows; for token: for plane of its codes: add products in int32
//!         v += sums * scales
//!     result += (v + offsets) * activation scale
//! ```
//! A strip is read from its first byte to its last, so that the hardware fetches what follows; AHEAD of that the kernel
//! asks for it itself.

use core::arch::asm;
use core::arch::x86_64::*;
use std::ops::Range;

use crate::formats::{BLOCK, STRIP, Weights};
use crate::matmul::activations::{Activations, FEW, Group, Quads};
use crate::matmul::{LANES, OutView};

use super::decode::{Decode, parts};
use super::kquants::{Q2K, Q3K, Q4K, Q5K, Q6K};
use super::lanes::{each8, unrolled};
use super::legacy::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};

/// Bytes between what is multiplied and what is fetched into the L2 cache meanwhile.
const AHEAD: usize = 4096;

/// `narrow`: activations have 8 bits.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn multiply_few<D: Strip>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    narrow: bool,
    out: &mut OutView<'_>,
) {
    match (x.tokens(), narrow) {
        (1, true) => multiply::<D, 1, 1>(weights, rows, x, out),
        (2, true) => multiply::<D, 2, 1>(weights, rows, x, out),
        (3..=4, true) => multiply::<D, 4, 1>(weights, rows, x, out),
        (_, true) => multiply::<D, FEW, 1>(weights, rows, x, out),
        (1, false) => multiply::<D, 1, 2>(weights, rows, x, out),
        (2, false) => multiply::<D, 2, 2>(weights, rows, x, out),
        (3..=4, false) => multiply::<D, 4, 2>(weights, rows, x, out),
        (_, false) => multiply::<D, FEW, 2>(weights, rows, x, out),
    }
}

/// Products with at most T tokens, whose codes have P planes. Absent ones repeat the last one: their results are not
/// written.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn multiply<D: Strip, const T: usize, const P: usize>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    activations: &Activations,
    out: &mut OutView<'_>,
) {
    let (blocks, tokens) = (weights.cols() / BLOCK, activations.tokens());
    for strip in rows.start / STRIP..rows.end.div_ceil(STRIP) {
        let start = weights.strip(strip).as_ptr();
        let mut results = [_mm512_setzero_ps(); T];
        for index in 0..blocks.div_ceil(LANES) {
            let present = LANES.min(blocks - index * LANES);
            let (groups, quads) = (activations.groups(index), activations.quads(index));
            let x: [Token<'_>; T] = std::array::from_fn(|t| {
                let at = t.min(tokens - 1);
                Token { sums: &groups[at], codes: &quads[at] }
            });
            // SAFETY: a strip has all groups of its rows, `present` blocks in this one.
            unsafe { accumulate::<D, T, P>(At::group::<D>(start, index, present), present, &x, &mut results) };
        }
        let first = STRIP * strip;
        let wanted = rows.start.max(first) - first..rows.end.min(first + STRIP) - first;
        for (token, &result) in results[..tokens].iter().enumerate() {
            let mut values = [0.0_f32; STRIP];
            // SAFETY: sixteen floats.
            unsafe { _mm512_storeu_ps(values.as_mut_ptr(), result) };
            if wanted.len() == STRIP {
                // A length that the compiler knows: one store instead of a call.
                out.set_rows(token, first, &values);
            } else {
                out.set_rows(token, first + wanted.start, &values[wanted.clone()]);
            }
        }
    }
}

/// A group of columns of a token.
#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    pub sums: &'a Group,
    pub codes: &'a Quads,
}

impl Token<'_> {
    /// The sum of codes that an offset is multiplied with.
    #[inline]
    pub(super) fn sum<D: Decode>(self, part: usize) -> f32 {
        if D::FORMAT.has_half_offsets() { self.sums.halves[part] } else { self.sums.blocks[part % LANES] }
    }

    /// Where the codes of block `block` are in a plane.
    #[inline]
    fn block<const PLANE: usize>(self, block: usize) -> *const i8 {
        debug_assert!(block < LANES);
        let plane = if PLANE == 0 { &self.codes.low } else { &self.codes.high };
        plane.as_ptr().wrapping_add(BLOCK * block)
    }
}

/// sums + products of the bytes `w` with the four codes at `codes + AT`, the same for each row.
///
/// In assembly, since compilers make two instructions of it when they cannot see that nothing in between writes memory.
///
/// # Safety
/// The CPU has AVX-512 VNNI, and the codes are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add_products<const AT: usize>(mut sums: __m512i, w: __m512i, codes: *const i8) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("vpdpbusd {sums}, {w}, dword ptr [{codes} + {at}]{{1to16}}",
            sums = inout(zmm_reg) sums, w = in(zmm_reg) w, codes = in(reg) codes, at = const AT,
            options(pure, readonly, nostack, preserves_flags));
    }
    sums
}

/// A group of a strip, with so many storage blocks.
#[derive(Clone, Copy)]
pub(super) struct At {
    start: *const u8,
    storage: usize,
}

impl At {
    /// Group `index` of a strip, which has `present` blocks.
    pub(super) fn group<D: Strip>(strip: *const u8, index: usize, present: usize) -> Self {
        let start = strip.wrapping_add(index * STRIP * D::BYTES);
        Self { start, storage: present * BLOCK / D::FORMAT.block() }
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

    /// offset * step of a block or half block; anything in formats without an offset.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn offset(_at: At, _part: usize) -> __m512 {
        _mm512_setzero_ps()
    }
}

/// The sums of products of a block with each token: of Q quads, from FIRST on. A macro, since compilers do not inline
/// functions of this size.
macro_rules! products {
    ($at:expr, $base:expr, $phase:ident, $x:expr, first $first:literal, count $count:literal) => {{
        let mut low = [_mm512_setzero_si512(); T];
        let mut high = [_mm512_setzero_si512(); T];
        if D::BIAS != 0 {
            // The products start at what the bias adds to them, taken off.
            for t in 0..T {
                let codes = $x[t].codes;
                let block = $base + $phase;
                let sum = if $count == 4 { codes.halves[2 * block + $first / 4] } else { codes.blocks[block] };
                low[t] = _mm512_mullo_epi32(_mm512_set1_epi32(sum), _mm512_set1_epi32(-D::BIAS));
            }
        }
        each8!(|QUAD| {
            if QUAD < $count {
                fetch::<D>($at, $base + $phase, $first + QUAD);
                let w = D::codes($at, $base, $phase, $first + QUAD);
                for t in 0..T {
                    let codes = $x[t].block::<0>($base + $phase);
                    low[t] = add_products::<{ 4 * ($first + QUAD) }>(low[t], w, codes);
                    if P > 1 {
                        let codes = $x[t].block::<1>($base + $phase);
                        high[t] = add_products::<{ 4 * ($first + QUAD) }>(high[t], w, codes);
                    }
                }
            }
        });
        if P > 1 {
            for t in 0..T {
                low[t] = _mm512_add_epi32(low[t], _mm512_slli_epi32::<7>(high[t]));
            }
        }
        low
    }};
}

/// Adds the products of one group of columns to the results.
///
/// # Safety
/// `at` is a group of D of `present` blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn accumulate<D: Strip, const T: usize, const P: usize>(
    at: At,
    present: usize,
    x: &[Token<'_>; T],
    results: &mut [__m512; T],
) {
    let run = D::FORMAT.run(P == 1);
    let mut v = [_mm512_setzero_ps(); T];
    let mut sums = [_mm512_setzero_si512(); T];
    let mut integers = [_mm512_setzero_si512(); 2 * LANES];
    if D::FORMAT.has_integer_scales() {
        unrolled!(|J| if D::FORMAT.has_half_scales() { 16 } else { 8 } => {
            // SAFETY: the caller's promise, here and below.
            integers[J] = unsafe { D::integer(at, J) };
        });
    }
    for base in (0..present).step_by(D::PERIOD) {
        each8!(|PHASE| {
            if PHASE < D::PERIOD {
                let block = base + PHASE;
                // SAFETY: see above.
                unsafe {
                    if !D::FORMAT.has_integer_scales() {
                        let products = products!(at, base, PHASE, x, first 0, count 8);
                        add_run(&products, D::run_scale(at, block), &mut v);
                    } else if D::FORMAT.has_half_scales() {
                        let low = products!(at, base, PHASE, x, first 0, count 4);
                        let high = products!(at, base, PHASE, x, first 4, count 4);
                        for t in 0..T {
                            let low = _mm512_mullo_epi32(low[t], integers[2 * block]);
                            let high = _mm512_mullo_epi32(high[t], integers[2 * block + 1]);
                            sums[t] = _mm512_add_epi32(sums[t], _mm512_add_epi32(low, high));
                        }
                    } else {
                        let products = products!(at, base, PHASE, x, first 0, count 8);
                        for t in 0..T {
                            sums[t] = _mm512_add_epi32(sums[t], _mm512_mullo_epi32(products[t], integers[block]));
                        }
                    }
                    if D::FORMAT.has_integer_scales() && block % run == run - 1 {
                        add_run(&sums, D::run_scale(at, block / run), &mut v);
                        sums = [_mm512_setzero_si512(); T];
                    }
                }
            }
        });
    }
    if D::FORMAT.has_offset() {
        unrolled!(|J| parts::<D>(present) => {
            // SAFETY: see above.
            let offset = unsafe { D::offset(at, J) };
            for t in 0..T {
                v[t] = _mm512_fmadd_ps(offset, _mm512_set1_ps(x[t].sum::<D>(J)), v[t]);
            }
        });
    }
    for t in 0..T {
        results[t] = _mm512_fmadd_ps(v[t], _mm512_set1_ps(x[t].sums.scale), results[t]);
    }
}

/// v += sums * scale.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn add_run<const T: usize>(sums: &[__m512i; T], scale: __m512, v: &mut [__m512; T]) {
    for t in 0..T {
        v[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[t]), scale, v[t]);
    }
}

/// Asks for an eighth of a block of what will be needed.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn fetch<D: Strip>(at: At, block: usize, part: usize) {
    let bytes = STRIP * D::BYTES / LANES;
    let lines = bytes.div_ceil(64);
    for line in part * lines / 8..(part + 1) * lines / 8 {
        let place = at.start.wrapping_add(AHEAD + block * bytes + 64 * line);
        // SAFETY: a hint, for whatever place. Compilers take the intrinsic for one that writes memory, and no longer make
        // loads before it parts of products behind it.
        unsafe { asm!("prefetcht1 [{}]", in(reg) place.addr(), options(nomem, nostack, preserves_flags)) };
    }
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

/// A format: its codes and scale, integer scales and offsets if it has them, as expressions of the arguments of [`Strip`].
macro_rules! strip {
    ($name:ident, period $period:literal, codes |$at:ident, $base:ident, $phase:ident, $quad:ident| $codes:expr, scale |$at2:ident, $run:ident| $scale:expr
     $(, integer |$at3:ident, $part:ident| $integer:expr)? $(, offset |$at4:ident, $part2:ident| $offset:expr)?) => {
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
    offset |at, part| {
        let minimum = byte(nibble(at.words::<Self>(0, part / 4), true), part % 4);
        negated(at.half::<Self, 1>(0, 20), minimum)
    }
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
    offset |at, part| negated(at.half::<Self, 1>(0, 0), byte(six_bits::<Self>(at, 2 + part / 4), part % 4))
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
    offset |at, part| negated(at.half::<Self, 1>(0, 0), byte(six_bits::<Self>(at, 2 + part / 4), part % 4))
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

/// -scale * minimum.
#[inline]
#[target_feature(enable = "avx512f")]
fn negated(scale: __m512, minimum: __m512i) -> __m512 {
    _mm512_mul_ps(_mm512_sub_ps(_mm512_setzero_ps(), scale), _mm512_cvtepi32_ps(minimum))
}
