//! Packing with AVX2 or AVX-512: four words of all rows at a time.

#![allow(clippy::wildcard_imports, reason = "intrinsics: dozens of names that carry their own prefix")]

use core::arch::x86_64::*;

use super::{GROUP, STRIP, turn};
use crate::formats::Format;
use crate::isa::Isa;

/// Turns words of rows around, with an instruction set.
pub(crate) trait Words {
    /// The one whose kernels use this.
    const ISA: Isa;

    /// Four words of each row, which are `stride` bytes apart: a line for each word.
    ///
    /// # Safety
    /// The CPU has the instruction set, and there are sixteen bytes for each row.
    unsafe fn lines(from: *const u8, stride: usize) -> [Line; 4];
}

/// A word of each row of a strip.
pub(crate) type Line = [u32; STRIP];

pub(crate) struct Avx2;

impl Words for Avx2 {
    const ISA: Isa = Isa::Avx2;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn lines(from: *const u8, stride: usize) -> [Line; 4] {
        let mut lines = [[0; STRIP]; 4];
        for half in 0..2 {
            // Rows k and k + 4 of eight.
            let two_rows = |k: usize| {
                let at = from.wrapping_add((8 * half + k) * stride);
                // SAFETY: the caller's promise.
                unsafe { _mm256_loadu2_m128i(at.wrapping_add(4 * stride).cast(), at.cast()) }
            };
            let rows = [two_rows(0), two_rows(1), two_rows(2), two_rows(3)];
            let low = [_mm256_unpacklo_epi32(rows[0], rows[1]), _mm256_unpacklo_epi32(rows[2], rows[3])];
            let high = [_mm256_unpackhi_epi32(rows[0], rows[1]), _mm256_unpackhi_epi32(rows[2], rows[3])];
            let words = [
                _mm256_unpacklo_epi64(low[0], low[1]),
                _mm256_unpackhi_epi64(low[0], low[1]),
                _mm256_unpacklo_epi64(high[0], high[1]),
                _mm256_unpackhi_epi64(high[0], high[1]),
            ];
            for (line, words) in lines.iter_mut().zip(words) {
                // SAFETY: half of sixteen words.
                unsafe { _mm256_storeu_si256(line[8 * half..].as_mut_ptr().cast(), words) };
            }
        }
        lines
    }
}

pub(crate) struct Avx512;

impl Words for Avx512 {
    const ISA: Isa = Isa::Avx512Vnni;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn lines(from: *const u8, stride: usize) -> [Line; 4] {
        // SAFETY: the caller's promise.
        let row = |index: usize| unsafe { _mm_loadu_si128(from.wrapping_add(index * stride).cast()) };
        // Rows k, k + 4, k + 8 and k + 12.
        let four_rows = |k: usize| {
            let two = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(row(k)), row(k + 4));
            _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(two, row(k + 8)), row(k + 12))
        };
        let rows = [four_rows(0), four_rows(1), four_rows(2), four_rows(3)];
        let low = [_mm512_unpacklo_epi32(rows[0], rows[1]), _mm512_unpacklo_epi32(rows[2], rows[3])];
        let high = [_mm512_unpackhi_epi32(rows[0], rows[1]), _mm512_unpackhi_epi32(rows[2], rows[3])];
        let words = [
            _mm512_unpacklo_epi64(low[0], low[1]),
            _mm512_unpackhi_epi64(low[0], low[1]),
            _mm512_unpacklo_epi64(high[0], high[1]),
            _mm512_unpackhi_epi64(high[0], high[1]),
        ];
        let mut lines = [[0; STRIP]; 4];
        for (line, words) in lines.iter_mut().zip(words) {
            // SAFETY: sixteen words.
            unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), words) };
        }
        lines
    }
}

/// What [`super::pack_words`] does.
///
/// # Safety
/// The CPU has AVX2, `rows` are sixteen rows of `blocks` storage blocks, and `strip` is as long.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn pack_avx2(format: Format, rows: &[u8], strip: &mut [u8], blocks: usize) {
    // SAFETY: the caller's promise.
    unsafe { pack::<Avx2>(format, rows, strip, blocks) };
}

/// As [`pack_avx2`].
///
/// # Safety
/// The same with AVX-512.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn pack_avx512(format: Format, rows: &[u8], strip: &mut [u8], blocks: usize) {
    // SAFETY: the caller's promise.
    unsafe { pack::<Avx512>(format, rows, strip, blocks) };
}

/// # Safety
/// As [`pack_avx2`], with the instruction set of W.
#[allow(clippy::inline_always, reason = "compiled for the instruction set of its caller")]
#[inline(always)]
unsafe fn pack<W: Words>(format: Format, rows: &[u8], strip: &mut [u8], blocks: usize) {
    let bytes = format.block_bytes();
    let groups = strip.chunks_mut(STRIP * (GROUP / format.block()) * bytes);
    for (index, group) in groups.enumerate() {
        // The next strip in the order of addresses, into the L2 cache: sixteen short streams give the hardware little to
        // go by.
        let next = rows.as_ptr().wrapping_add(rows.len() + index * STRIP * (GROUP / format.block()) * bytes);
        for line in 0..group.len().div_ceil(64) {
            // SAFETY: a hint, for whatever place.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(64 * line).cast()) };
        }
        let from = rows.as_ptr().wrapping_add(index * GROUP / format.block() * bytes);
        // SAFETY: the caller's promise.
        unsafe { pack_group::<W>(format, from, blocks * bytes, group) };
    }
}

/// A group of sixteen rows, which begin `stride` bytes one after the other, into a group of a strip.
///
/// # Safety
/// The CPU has the instruction set of W, and each row has as many storage blocks as `group`.
#[allow(clippy::inline_always, reason = "compiled for the instruction set of its caller")]
#[inline(always)]
pub(crate) unsafe fn pack_group<W: Words>(format: Format, from: *const u8, stride: usize, group: &mut [u8]) {
    let (rest, first) = format.places();
    let (bytes, words) = (format.block_bytes(), format.words());
    let blocks = group.len() / (STRIP * bytes);
    let (rests, lines) = group.split_at_mut(STRIP * blocks * format.rest());
    for block in 0..blocks {
        let from = from.wrapping_add(block * bytes);
        if let Some(rests) = rests[STRIP * block * format.rest()..].first_chunk_mut::<{ 2 * STRIP }>() {
            // The first half of the first word of a block, or the second one of its last.
            // SAFETY: sixteen bytes of a block of each row, the first or the last ones.
            let halves = unsafe {
                if rest == 0 {
                    W::lines(from, stride)[0]
                } else {
                    W::lines(from.wrapping_add(bytes - 16), stride)[3].map(|word| word >> 16)
                }
            };
            for (rest, half) in rests.as_chunks_mut().0.iter_mut().zip(halves) {
                *rest = (half as u16).to_le_bytes();
            }
        }
        let lines = &mut lines[block * STRIP * 4 * words..][..STRIP * 4 * words];
        // The last four overlap those before them.
        for word in (0..words).step_by(4).map(|word| word.min(words - 4)) {
            // SAFETY: four words of a block of each row.
            let four = unsafe { W::lines(from.wrapping_add(first + 4 * word), stride) };
            for (line, words) in lines.as_chunks_mut::<{ 4 * STRIP }>().0[word..].iter_mut().zip(four) {
                for (to, word) in line.as_chunks_mut().0.iter_mut().zip(words) {
                    *to = word.to_le_bytes();
                }
            }
        }
        if let Some(word) = format.word_of_bits() {
            for bits in lines[64 * word..][..64].as_chunks_mut().0 {
                *bits = turn(u32::from_le_bytes(*bits)).to_le_bytes();
            }
        }
    }
}
