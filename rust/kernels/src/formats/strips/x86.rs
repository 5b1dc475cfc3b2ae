//! Packing with AVX-512: four words of sixteen rows at a time.

#![allow(clippy::wildcard_imports, reason = "intrinsics: dozens of names that carry their own prefix")]

use core::arch::x86_64::*;

use super::{GROUP, STRIP, turn};
use crate::formats::Format;

/// What [`super::pack_words`] does.
///
/// # Safety
/// The CPU has AVX-512, `rows` are sixteen rows of `blocks` storage blocks, and `strip` is as long.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn pack(format: Format, rows: &[u8], strip: &mut [u8], blocks: usize) {
    let bytes = format.block_bytes();
    let groups = strip.chunks_mut(STRIP * (GROUP / format.block()) * bytes);
    for (index, group) in groups.enumerate() {
        // The next strip in the order of addresses, into the L2 cache: sixteen short streams give the hardware little to
        // go by.
        let next = rows.as_ptr().wrapping_add(rows.len() + index * STRIP * (GROUP / format.block()) * bytes);
        for line in 0..group.len().div_ceil(64) {
            _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(64 * line).cast());
        }
        let from = rows.as_ptr().wrapping_add(index * GROUP / format.block() * bytes);
        // SAFETY: the caller's promise.
        unsafe { pack_group(format, from, blocks * bytes, group) };
    }
}

/// A group of sixteen rows, which begin `stride` bytes one after the other, into a group of a strip.
///
/// # Safety
/// The CPU has AVX-512, and each row has as many storage blocks as `group`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn pack_group(format: Format, from: *const u8, stride: usize, group: &mut [u8]) {
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
                    transposed(from, stride)[0]
                } else {
                    _mm512_srli_epi32::<16>(transposed(from.wrapping_add(bytes - 16), stride)[3])
                }
            };
            // SAFETY: 32 bytes.
            unsafe { _mm256_storeu_si256(rests.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(halves)) };
        }
        let lines = &mut lines[block * STRIP * 4 * words..][..STRIP * 4 * words];
        // The last four overlap those before them.
        for word in (0..words).step_by(4).map(|word| word.min(words - 4)) {
            // SAFETY: four words of a block of each row.
            let four = unsafe { transposed(from.wrapping_add(first + 4 * word), stride) };
            for (line, words) in lines[64 * word..].as_chunks_mut::<64>().0.iter_mut().zip(four) {
                // SAFETY: 64 bytes.
                unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), words) };
            }
        }
        if let Some(word) = format.word_of_bits() {
            for bits in lines[64 * word..][..64].as_chunks_mut().0 {
                *bits = turn(u32::from_le_bytes(*bits)).to_le_bytes();
            }
        }
    }
}

/// Four words of each row, which are `stride` bytes apart: a vector for each word, a lane for each row.
///
/// # Safety
/// There are sixteen bytes for each row.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn transposed(from: *const u8, stride: usize) -> [__m512i; 4] {
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
    [
        _mm512_unpacklo_epi64(low[0], low[1]),
        _mm512_unpackhi_epi64(low[0], low[1]),
        _mm512_unpacklo_epi64(high[0], high[1]),
        _mm512_unpackhi_epi64(high[0], high[1]),
    ]
}
