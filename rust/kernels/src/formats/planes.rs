//! Strips of `Q8_0` in two planes: its upper five bits, which alone are a coarse matrix in strips of `Q5_0`, and its lower three.
//!
//! A block of codes q with a scale d becomes codes `u = 8 * c + l` of a byte, in the first of three ways that fits:
//! ```text
//! u = 131 + q     no q is above 124
//! u = 131 - q     no q is below -124; the scale is -d
//! u = 128 + q
//! ```
//! `c` and the scale are a block of `Q5_0`: an eighth of the weights, of which each is off by `l - 3` (`l` in the third way) codes.
//! A strip of the upper plane is that of `Q5_0`. One of the lower plane has, in groups of eight blocks, a line of 64 bytes with a
//! word for each block, and then for each block three words of every row, 64 bytes a line. Of the eight quads of columns `4 * k..4 * k + 4`, byte i of these words has column i of
//! ```text
//! word 0     l of quad 0 | l of quad 3 << 3 | lower two bits of l of quad 6 << 6
//! word 1     l of quad 1 | l of quad 4 << 3 | lower two bits of l of quad 7 << 6
//! word 2     l of quad 2 | l of quad 5 << 3 | upper bit of l of quad 6 << 6 | that of quad 7 << 7
//! word of the block     bit i: row i is in the second way; bit 16 + i: in the third one
//! ```
//! The first lines are all that both together are longer than the strip, of whose bits none is lost.

#![allow(clippy::inline_always, reason = "only what is inlined into `dispatch` is compiled for its instruction set")]

use super::strips::{Place, pack};
use super::{BLOCK, Format, STRIP};
use crate::isa::Isa;
use crate::simd::{Kernel, Simd, dispatch};

/// What the two planes are together.
pub const WHOLE: Format = Format::Q8_0;

/// What the upper plane is.
pub const UPPER: Format = Format::Q5_0;

/// Weights of the matrix are so many times those of its upper plane.
pub const UPPER_IS_PART: f32 = 8.0;

/// Bytes of the two planes of a matrix [rows, cols]. rows: a multiple of sixteen; cols: whole blocks.
#[must_use]
pub const fn nbytes(rows: usize, cols: usize) -> [usize; 2] {
    let blocks = cols / BLOCK;
    let lines = blocks.div_ceil(GROUP) + LOWER_WORDS * blocks;
    [rows * blocks * UPPER.block_bytes(), rows / STRIP * lines * size_of::<Line>()]
}

/// Blocks of a group.
const GROUP: usize = 8;

/// Words of four columns in a block.
const QUADS: usize = BLOCK / 4;

/// Words of a block of a row in the lower plane.
const LOWER_WORDS: usize = 3;

/// A word of each row of a strip.
type Line = [[u8; 4]; STRIP];

/// Where a block is in the lower plane of a strip, in lines: its word's line, and its first one.
#[inline(always)]
const fn lower_lines(block: usize) -> (usize, usize) {
    let group = block / GROUP * (1 + LOWER_WORDS * GROUP);
    (group, group + 1 + LOWER_WORDS * (block % GROUP))
}

/// How far the upper plane of a block of a row is off, in codes of the whole.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Error {
    /// The scale of the block.
    pub scale: f32,
    /// Sum of the squares of what codes are off.
    pub squares: u32,
    /// Sum of the squares of the codes of the upper plane, each eight of the whole.
    pub upper: u32,
}

/// What a row's codes are in both planes, and how far the upper one is off.
struct Split<'a> {
    row: &'a [u8],
    /// Of this row, block after block.
    upper: &'a mut [u8],
    /// Of its strip, in which it has this place.
    lower: &'a mut [u8],
    lane: usize,
    /// Of this row, block after block.
    errors: &'a mut [Error],
}

impl Kernel for Split<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let uppers = self.upper.as_chunks_mut::<{ UPPER.block_bytes() }>().0.iter_mut().zip(self.errors);
        let lower: &mut [Line] = self.lower.as_chunks_mut().0.as_chunks_mut().0;
        let rows = self.row.as_chunks::<{ WHOLE.block_bytes() }>().0.iter();
        for (block, (from, (upper, error))) in rows.zip(uppers).enumerate() {
            let mut codes = [0; BLOCK];
            for (code, &byte) in codes.iter_mut().zip(&from[2..]) {
                *code = byte.cast_signed();
            }
            let least = codes.iter().fold(i8::MAX, |least, &code| least.min(code));
            let most = codes.iter().fold(i8::MIN, |most, &code| most.max(code));
            let is_turned = most > 124 && least >= -124;
            let is_third = most > 124 && !is_turned;
            let (base, sign, middle) = (if is_third { 128_u8 } else { 131 }, if is_turned { 0xff } else { 0 }, 3);
            let middle = if is_third { 0 } else { middle };
            let mut u = [0; BLOCK];
            for (u, &code) in u.iter_mut().zip(&codes) {
                *u = base.wrapping_add((code.cast_unsigned() ^ sign).wrapping_sub(sign));
            }
            let scale = half::f16::from_le_bytes([from[0], from[1]]).to_f32();
            *error = Error { scale, squares: 0, upper: 0 };
            for &u in &u {
                let (off, coarse) = (i32::from(u & 7) - middle, i32::from(u >> 3) - 16);
                error.squares += (off * off).cast_unsigned();
                error.upper += (coarse * coarse).cast_unsigned();
            }
            upper[..2].copy_from_slice(&[from[0], from[1] ^ sign & 0x80]);
            let fifth = u.iter().enumerate().fold(0_u32, |bits, (i, &u)| bits | u32::from(u >> 7) << i);
            upper[2..6].copy_from_slice(&fifth.to_le_bytes());
            for (byte, (low, high)) in upper[6..].iter_mut().zip(u[..BLOCK / 2].iter().zip(&u[BLOCK / 2..])) {
                *byte = low >> 3 & 15 | (high >> 3 & 15) << 4;
            }
            let (ways, first) = lower_lines(block);
            let quads = u.as_chunks::<4>().0;
            for i in 0..4 {
                let l = |quad: usize| quads[quad][i] & 7;
                lower[first][self.lane][i] = l(0) | l(3) << 3 | l(6) << 6;
                lower[first + 1][self.lane][i] = l(1) | l(4) << 3 | l(7) << 6;
                lower[first + 2][self.lane][i] = l(2) | l(5) << 3 | (l(6) & 4) << 4 | (l(7) & 4) << 5;
            }
            let way = (u32::from(is_turned) | u32::from(is_third) << STRIP) << self.lane;
            let word = &mut lower[ways][block % GROUP];
            // Rows of a strip come in their order.
            let before = if self.lane == 0 { 0 } else { u32::from_le_bytes(*word) };
            *word = (before | way).to_le_bytes();
        }
    }
}

/// Puts sixteen rows of [`WHOLE`], one after the other in `rows`, into a strip of each plane. errors: of every block of every
/// row.
///
/// # Panics
/// When lengths do not fit each other.
pub(crate) fn split(isa: Isa, rows: &[u8], upper: &mut [u8], lower: &mut [u8], errors: &mut [Error]) {
    let blocks = errors.len() / STRIP;
    assert_eq!(rows.len(), STRIP * blocks * WHOLE.block_bytes(), "rows and errors");
    assert_eq!([upper.len(), lower.len()], nbytes(STRIP, BLOCK * blocks), "a strip of each plane");
    let mut coarse = vec![0; upper.len()];
    for lane in 0..STRIP {
        dispatch(
            isa,
            Split {
                row: &rows[lane * blocks * WHOLE.block_bytes()..][..blocks * WHOLE.block_bytes()],
                upper: &mut coarse[lane * blocks * UPPER.block_bytes()..][..blocks * UPPER.block_bytes()],
                lower: &mut *lower,
                lane,
                errors: &mut errors[lane * blocks..][..blocks],
            },
        );
    }
    pack(UPPER, &coarse, upper);
}

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
pub(super) fn join_block(
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::formats::Weights;

    /// Codes of a block: any, or of one of the three ways.
    fn block() -> impl Strategy<Value = Vec<i8>> {
        let codes = |range: std::ops::RangeInclusive<i8>| prop::collection::vec(range, BLOCK);
        prop_oneof![codes(-128..=127), codes(-128..=124), codes(-124..=127), codes(-3..=3)]
    }

    proptest! {
        #[test]
        fn planes_together_are_the_strip(
            blocks in 1_usize..20,
            codes in prop::collection::vec(block(), 1..40),
            scales: [u16; 37],
        ) {
            let mut rows = Vec::new();
            for index in 0..STRIP * blocks {
                rows.extend_from_slice(&scales[index % scales.len()].to_le_bytes());
                rows.extend(codes[index % codes.len()].iter().map(|code| code.cast_unsigned()));
            }
            let mut strip = vec![0; rows.len()];
            pack(WHOLE, &rows, &mut strip);
            let mut errors = vec![Error::default(); STRIP * blocks];
            let mut first = None;
            for isa in Isa::available() {
                let (mut upper, mut lower) = (vec![0x55; STRIP * blocks * 22], vec![0xaa; nbytes(STRIP, BLOCK * blocks)[1]]);
                split(isa, &rows, &mut upper, &mut lower, &mut errors);
                let mut joined = vec![0x55; rows.len()];
                join(isa, &upper, &lower, &mut joined);
                prop_assert_eq!(&joined, &strip);
                for (index, block) in rows.as_chunks::<34>().0.iter().enumerate() {
                    prop_assert_eq!(&join_block(&upper, &lower, index / blocks, index % blocks, blocks), block);
                }
                prop_assert_eq!(first.get_or_insert_with(|| (upper.clone(), lower.clone())), &(upper, lower));
            }
            // The upper plane is as far off as was said.
            let (upper, _) = first.unwrap();
            let whole = Weights::new(&rows, WHOLE, STRIP, blocks * BLOCK).unwrap();
            let coarse = Weights::with_strips(&upper, &[], UPPER, STRIP, blocks * BLOCK).unwrap();
            for row in 0..STRIP {
                let (mut a, mut b) = (vec![0.0; blocks * BLOCK], vec![0.0; blocks * BLOCK]);
                whole.dequantize_row(row, &mut a);
                coarse.dequantize_row(row, &mut b);
                for ((a, b), error) in a.chunks(BLOCK).zip(b.chunks(BLOCK)).zip(&errors[row * blocks..]) {
                    prop_assert!(error.squares <= 32 * 49);
                    let scale = error.scale;
                    if scale == 0.0 || !scale.is_finite() {
                        continue;
                    }
                    let off = |(a, b): (&f32, &f32)| ((a - UPPER_IS_PART * b) / scale).powi(2);
                    let squares: f32 = a.iter().zip(b).map(off).sum();
                    let upper: f32 = b.iter().map(|b| (b / scale).powi(2)).sum();
                    prop_assert_eq!((squares, upper), (error.squares as f32, error.upper as f32));
                }
            }
        }
    }
}
