//! Both planes into strips of `Q8_0`.

#![allow(clippy::inline_always, reason = "only what is inlined into `dispatch` is compiled for its instruction set")]

use super::{GROUP, LOWER_WORDS, Line, UPPER, WHOLE, lower_lines, nbytes};
use crate::formats::strips::Place;
use crate::formats::{BLOCK, STRIP};
use crate::isa::Isa;
use crate::simd::{Kernel, Simd, dispatch};

/// Words of four columns in a block.
const QUADS: usize = BLOCK / 4;

/// A word of each of N rows.
type Words<const N: usize> = [u32; N];

/// Codes u of quad K.
#[inline(always)]
fn quad<const K: usize, const N: usize>(
    bits: &Words<N>,
    nibbles: &[Words<N>; 4],
    lower: &[Words<N>; LOWER_WORDS],
) -> Words<N> {
    let mut words = [0; N];
    for i in 0..N {
        let four = if K < 4 { nibbles[K % 4][i] << 3 } else { nibbles[K % 4][i] >> 1 };
        let low = match K {
            0..3 => lower[K % 3][i] & 0x0707_0707,
            3..6 => lower[K % 3][i] >> 3 & 0x0707_0707,
            _ => lower[K % 3][i] >> 6 & 0x0303_0303 | lower[2][i] >> (K - 2) & 0x0404_0404,
        };
        words[i] = bits[i] << (7 - K) & 0x8080_8080 | four & 0x7878_7878 | low;
    }
    words
}

/// What turns codes u of rows to codes q: `(u ^ sign) + base`, byte by byte. ways: a bit for each row, as in the word of all
/// rows. scales: those of the upper plane, which become those of the whole.
#[inline(always)]
fn signs_and_bases<const N: usize>(ways: u32, scales: &mut [u16; N]) -> [Words<N>; 2] {
    let (mut signs, mut bases) = ([0; N], [0; N]);
    for i in 0..N {
        let [turned, third] = [ways >> i & 1, ways >> (STRIP + i) & 1];
        signs[i] = turned.wrapping_neg();
        // 131 less, or 128; or less one, of what has all bits turned.
        bases[i] = (0x7d + 7 * turned + 3 * third) * 0x0101_0101;
        scales[i] ^= (turned << 15) as u16;
    }
    [signs, bases]
}

/// The same byte by byte.
#[inline(always)]
fn bytes<const N: usize>(words: &Words<N>) -> [[u8; 4]; N] {
    let mut bytes = [[0; 4]; N];
    for (bytes, word) in bytes.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
    bytes
}

/// Codes q of a block of rows: four bytes of each row for each quad. bits, nibbles: the words of the upper plane. scales: as in
/// [`signs_and_bases`].
#[inline(always)]
fn codes<const N: usize>(
    bits: &Words<N>,
    nibbles: &[Words<N>; 4],
    lower: &[Words<N>; LOWER_WORDS],
    ways: u32,
    scales: &mut [u16; N],
) -> [[[u8; 4]; N]; QUADS] {
    let mut lines = [[[0; 4]; N]; QUADS];
    macro_rules! quads {
        ($($k:literal)*) => { $( lines[$k] = bytes(&quad::<$k, N>(bits, nibbles, lower)); )* };
    }
    quads!(0 1 2 3 4 5 6 7);
    let [signs, bases] = signs_and_bases(ways, scales).map(|words| bytes(&words));
    for line in &mut lines {
        let both = signs.as_flattened().iter().zip(bases.as_flattened());
        for (u, (sign, base)) in line.as_flattened_mut().iter_mut().zip(both) {
            *u = (*u ^ sign).wrapping_add(*base);
        }
    }
    lines
}

/// The inverse of [`bytes`].
#[inline(always)]
fn words<const N: usize>(bytes: &[[u8; 4]; N]) -> Words<N> {
    let mut words = [0; N];
    for (word, &bytes) in words.iter_mut().zip(bytes) {
        *word = u32::from_le_bytes(bytes);
    }
    words
}

/// Bytes of the lower plane between what is put together and what is asked for meanwhile.
const AHEAD: usize = 8192;

/// Puts both planes of a strip, or of a group of one, together. They may go on behind it.
struct Join<'a> {
    upper: &'a [u8],
    lower: &'a [u8],
    strip: &'a mut [u8],
}

impl Kernel for Join<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let blocks = self.strip.len() / (STRIP * WHOLE.block_bytes());
        let lower: &[Line] = self.lower.as_chunks().0.as_chunks().0;
        for block in 0..blocks {
            let (ways, first) = lower_lines(block);
            for line in 0..LOWER_WORDS {
                s.prefetch(self.lower, AHEAD + (first + line) * size_of::<Line>());
            }
            let (from, to) = (Place::of(UPPER, blocks, block), Place::of(WHOLE, blocks, block));
            let lines: &[Line; 5] = chunk(self.upper[from.words..].as_chunks().0.as_chunks().0);
            let nibbles = [words(&lines[1]), words(&lines[2]), words(&lines[3]), words(&lines[4])];
            let low: &[Line; LOWER_WORDS] = chunk(&lower[first..]);
            let low = [words(&low[0]), words(&low[1]), words(&low[2])];
            let bytes: &[[u8; 2]; STRIP] = chunk(self.upper[from.rest..].as_chunks().0);
            let mut scales = [0; STRIP];
            for (scale, &bytes) in scales.iter_mut().zip(bytes) {
                *scale = u16::from_le_bytes(bytes);
            }
            let ways = u32::from_le_bytes(lower[ways][block % GROUP]);
            let lines = codes(&words(&lines[0]), &nibbles, &low, ways, &mut scales);
            let rests: &mut [[u8; 2]; STRIP] =
                self.strip[to.rest..].as_chunks_mut().0.first_chunk_mut().expect("a block of the strip");
            for (to, scale) in rests.iter_mut().zip(scales) {
                *to = scale.to_le_bytes();
            }
            let to: &mut [[[u8; 4]; STRIP]; QUADS] = self.strip[to.words..]
                .as_chunks_mut()
                .0
                .as_chunks_mut()
                .0
                .first_chunk_mut()
                .expect("a block of the strip");
            *to = lines;
        }
    }
}

/// The first N elements.
#[inline(always)]
fn chunk<T, const N: usize>(of: &[T]) -> &[T; N] {
    of.first_chunk().expect("a block of a plane")
}

/// The strip, or group of one, whose planes begin like this; what follows in the lower one is asked for.
///
/// # Panics
/// When there is too little of a plane.
pub(crate) fn join(isa: Isa, upper: &[u8], lower: &[u8], strip: &mut [u8]) {
    let blocks = strip.len() / (STRIP * WHOLE.block_bytes());
    assert_eq!(strip.len(), STRIP * blocks * WHOLE.block_bytes(), "a strip");
    let bytes = nbytes(STRIP, BLOCK * blocks);
    assert!(upper.len() >= bytes[0] && lower.len() >= bytes[1], "too little of a plane");
    dispatch(isa, Join { upper, lower, strip });
}

/// Storage block `block` of the `blocks` of row `row` of the strip whose planes begin like this.
pub(crate) fn join_block(
    upper: &[u8],
    lower: &[u8],
    row: usize,
    block: usize,
    blocks: usize,
) -> [u8; WHOLE.block_bytes()] {
    let place = Place::of(UPPER, blocks, block);
    let word = |plane: &[u8], line: usize| u32::from_le_bytes(plane.as_chunks().0[line * STRIP + row]);
    let [bits, nibbles @ ..] = [0, 1, 2, 3, 4].map(|line| [word(&upper[place.words..], line)]);
    let (ways, first) = lower_lines(block);
    let low = [0, 1, 2].map(|line| [word(lower, first + line)]);
    let ways = u32::from_le_bytes(lower.as_chunks().0[ways * STRIP + block % GROUP]);
    let mut scale = [u16::from_le_bytes(upper[place.rest..].as_chunks().0[row])];
    let quads = codes(&bits, &nibbles, &low, ways >> row, &mut scale);
    let mut storage = [0; WHOLE.block_bytes()];
    storage[..2].copy_from_slice(&scale[0].to_le_bytes());
    storage[2..].copy_from_slice(quads.as_flattened().as_flattened());
    storage
}
