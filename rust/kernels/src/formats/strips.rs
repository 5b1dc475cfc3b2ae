//! Strips: sixteen rows of a quantised matrix side by side, for kernels whose lanes are rows.
//!
//! No bit is lost or added. A strip is as long as its rows, and holds group after group of 256 columns (the last one may be
//! shorter); in a group of s storage blocks of `4 * d + r` bytes:
//! ```text
//! [block 0..s][row 0..16][r bytes]     what is left when a block is taken as 32-bit words: its first bytes in formats
//!                                      with blocks of 32 and 64, its last ones in the K-quants
//! [block 0..s][word 0..d][row 0..16]   the words, 64 bytes a line
//! ```
//! Words of single bits (`Q5_0`, `Q5_1`) are turned so that bit j of byte i is bit `4 * j + i`: the bits of columns
//! `4 * j..4 * j + 4`, which meet in a word everywhere else, are then at one place of its bytes.

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, Words, pack_group};

use super::Format;

/// Rows of a strip.
pub const STRIP: usize = 16;

/// Columns of a group.
const GROUP: usize = 256;

impl Format {
    /// Whether matrices of the format can be kept in strips.
    #[must_use]
    pub const fn has_strips(self) -> bool {
        matches!(
            self,
            Self::Q4_0
                | Self::Q4_1
                | Self::Q5_0
                | Self::Q5_1
                | Self::Q8_0
                | Self::Q2_K
                | Self::Q3_K
                | Self::Q4_K
                | Self::Q5_K
                | Self::Q6_K
        )
    }

    /// Bytes of a storage block beside its words.
    pub(crate) const fn rest(self) -> usize {
        self.block_bytes() % 4
    }

    /// 32-bit words of a storage block.
    pub(crate) const fn words(self) -> usize {
        self.block_bytes() / 4
    }

    /// Where the rest and the first word begin in a storage block.
    const fn places(self) -> (usize, usize) {
        if self.block() < GROUP { (0, self.rest()) } else { (4 * self.words(), 0) }
    }

    /// Which word of a storage block has bits of single columns.
    const fn word_of_bits(self) -> Option<usize> {
        match self {
            Self::Q5_0 => Some(0),
            Self::Q5_1 => Some(1),
            _ => None,
        }
    }
}

/// Exchanges every bit whose place has binary digit HIGH set and digit LOW clear for the one where it is the other way round.
#[inline]
const fn exchange<const HIGH: u32, const LOW: u32>(word: u32) -> u32 {
    let lower = const {
        let (mut lower, mut place) = (0_u32, 0_u32);
        while place < 32 {
            lower |= ((place >> LOW & 1) & !(place >> HIGH)) << place;
            place += 1;
        }
        lower
    };
    let distance = (1 << HIGH) - (1 << LOW);
    let changes = (word >> distance ^ word) & lower;
    word ^ changes ^ changes << distance
}

/// Bit `4 * j + i` becomes bit `8 * i + j`: the digits of its place move around by two.
#[inline]
const fn turn(word: u32) -> u32 {
    exchange::<1, 0>(exchange::<2, 1>(exchange::<3, 0>(exchange::<4, 1>(word))))
}

/// The inverse of [`turn`].
const fn turn_back(word: u32) -> u32 {
    exchange::<4, 1>(exchange::<3, 0>(exchange::<2, 1>(exchange::<1, 0>(word))))
}

/// Where a storage block of each row is in a strip.
pub(super) struct Place {
    pub(super) rest: usize,
    pub(super) words: usize,
}

impl Place {
    /// Of block `block` of rows of `blocks` blocks.
    #[allow(clippy::inline_always, reason = "compiled for the instruction set of its caller")]
    #[inline(always)]
    pub(super) const fn of(format: Format, blocks: usize, block: usize) -> Self {
        let whole = GROUP / format.block();
        let (group, at) = (block / whole * whole, block % whole);
        let present = if blocks - group < whole { blocks - group } else { whole };
        let rests = STRIP * (group * format.block_bytes() + at * format.rest());
        let words = STRIP * (group * format.block_bytes() + present * format.rest() + at * 4 * format.words());
        Self { rest: rests, words }
    }
}

/// Puts sixteen rows, one after the other in `rows`, into a strip.
///
/// # Panics
/// When the lengths are not those of sixteen rows, or the format has no strips.
pub fn pack(format: Format, rows: &[u8], strip: &mut [u8]) {
    let blocks = check(format, rows, strip);
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the CPU has AVX-512, and the lengths were checked.
        return unsafe { x86::pack_avx512(format, rows, strip, blocks) };
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the same with AVX2.
        return unsafe { x86::pack_avx2(format, rows, strip, blocks) };
    }
    pack_words(format, rows, strip, blocks);
}

/// [`pack`] word by word. `blocks`: storage blocks of a row.
fn pack_words(format: Format, rows: &[u8], strip: &mut [u8], blocks: usize) {
    let (rest, first) = format.places();
    let bytes = format.block_bytes();
    for block in 0..blocks {
        let place = Place::of(format, blocks, block);
        for row in 0..STRIP {
            let from = &rows[(row * blocks + block) * bytes..][..bytes];
            strip[place.rest + row * format.rest()..][..format.rest()].copy_from_slice(&from[rest..][..format.rest()]);
            let words = from[first..].as_chunks::<4>().0[..format.words()].iter();
            for (word, line) in words.zip(strip[place.words..].as_chunks_mut::<{ 4 * STRIP }>().0) {
                line[4 * row..4 * row + 4].copy_from_slice(word);
            }
        }
        if let Some(word) = format.word_of_bits() {
            for bits in strip[place.words + 4 * STRIP * word..][..4 * STRIP].as_chunks_mut().0 {
                *bits = turn(u32::from_le_bytes(*bits)).to_le_bytes();
            }
        }
    }
}

/// The bytes of storage block `block` of row `row` of a strip, into the front of `out`.
///
/// # Panics
/// When there is no such block.
pub(crate) fn unpack_block(format: Format, strip: &[u8], row: usize, block: usize, out: &mut [u8]) {
    let blocks = strip.len() / (STRIP * format.block_bytes());
    assert!(row < STRIP && block < blocks, "block {block} of row {row} of a strip with {blocks}");
    let (rest, first) = format.places();
    let place = Place::of(format, blocks, block);
    out[rest..][..format.rest()].copy_from_slice(&strip[place.rest + row * format.rest()..][..format.rest()]);
    let words = out[first..].as_chunks_mut::<4>().0[..format.words()].iter_mut();
    for (index, (word, line)) in words.zip(strip[place.words..].as_chunks::<{ 4 * STRIP }>().0).enumerate() {
        word.copy_from_slice(&line[4 * row..4 * row + 4]);
        if format.word_of_bits() == Some(index) {
            *word = turn_back(u32::from_le_bytes(*word)).to_le_bytes();
        }
    }
}

/// The rows of a strip, one after the other.
///
/// # Panics
/// As [`pack`].
pub fn unpack(format: Format, strip: &[u8], rows: &mut [u8]) {
    let blocks = check(format, rows, strip);
    for (index, out) in rows.chunks_exact_mut(format.block_bytes()).enumerate() {
        unpack_block(format, strip, index / blocks, index % blocks, out);
    }
}

/// Storage blocks of a row.
fn check(format: Format, rows: &[u8], strip: &[u8]) -> usize {
    assert!(format.has_strips(), "{} has no strips", format.name());
    assert_eq!(rows.len(), strip.len(), "a strip is as long as its rows");
    assert!(rows.len().is_multiple_of(STRIP * format.block_bytes()), "{} bytes are no sixteen rows", rows.len());
    rows.len() / (STRIP * format.block_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_come_out_of_a_strip_as_they_went_in(
            format in prop::sample::select(Format::ALL.iter().copied().filter(|f| f.has_strips()).collect::<Vec<_>>()),
            blocks in 1_usize..20, seed: u64,
        ) {
            let mut state = seed | 1;
            let rows: Vec<u8> = (0..STRIP * blocks * format.block_bytes())
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            let mut strip = vec![0x55; rows.len()];
            pack(format, &rows, &mut strip);
            let mut by_words = vec![0xaa; rows.len()];
            pack_words(format, &rows, &mut by_words, blocks);
            prop_assert_eq!(&strip, &by_words);
            let mut back = vec![0xaa; rows.len()];
            unpack(format, &strip, &mut back);
            prop_assert_eq!(&rows, &back);
            // A permutation of the bits: as many of them are set.
            let ones = |bytes: &[u8]| bytes.iter().map(|b| b.count_ones()).sum::<u32>();
            prop_assert_eq!(ones(&rows), ones(&strip));
        }
    }

    #[test]
    fn a_strip_is_laid_out_as_documented() {
        // Ten blocks of Q5_0: a group of eight and one of two; 22 bytes: 2, then words of bits and of codes.
        let blocks = 10;
        let rows: Vec<u8> = (0..STRIP * blocks * 22).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut strip = vec![0; rows.len()];
        pack(Format::Q5_0, &rows, &mut strip);
        let (row, block) = (11, 9);
        let from = &rows[(row * blocks + block) * 22..][..22];
        let group = STRIP * 8 * 22;
        assert_eq!(strip[group + (STRIP + row) * 2..][..2], from[..2]);
        let word = |index: usize| &strip[group + STRIP * 2 * 2 + ((5 + index) * STRIP + row) * 4..][..4];
        assert_eq!(word(4), &from[18..22]);
        let bits = u32::from_le_bytes([from[2], from[3], from[4], from[5]]);
        for column in 0..32 {
            assert_eq!(word(0)[column % 4] >> (column / 4) & 1, (bits >> column & 1) as u8);
        }
        // Q6_K: its scale is at its end.
        let rows: Vec<u8> = (0..STRIP * 210).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut strip = vec![0; rows.len()];
        pack(Format::Q6_K, &rows, &mut strip);
        assert_eq!(strip[2 * row..][..2], rows[row * 210 + 208..][..2]);
        assert_eq!(strip[32 + (3 * STRIP + row) * 4..][..4], rows[row * 210 + 12..][..4]);
    }
}
