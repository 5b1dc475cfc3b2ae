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
//! word for each block, and then for each block three words of every row, 64 bytes a line. Of the eight quads of columns
//! `4 * k..4 * k + 4`, byte i of these words has column i of
//! ```text
//! word 0     l of quad 0 | l of quad 3 << 3 | lower two bits of l of quad 6 << 6
//! word 1     l of quad 1 | l of quad 4 << 3 | lower two bits of l of quad 7 << 6
//! word 2     l of quad 2 | l of quad 5 << 3 | upper bit of l of quad 6 << 6 | that of quad 7 << 7
//! word of the block     bit i: row i is in the second way; bit 16 + i: in the third one
//! ```
//! The first lines are all that both together are longer than the strip, of whose bits none is lost.

mod join;
mod split;

use super::{BLOCK, Format, STRIP};

pub(crate) use join::join;
pub(super) use join::join_block;
pub(crate) use split::{Error, split};

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

/// Words of a block of a row in the lower plane.
const LOWER_WORDS: usize = 3;

/// A word of each row of a strip.
type Line = [[u8; 4]; STRIP];

/// The first line of a block of a group in the lower plane.
#[allow(clippy::inline_always, reason = "compiled for the instruction set of its caller")]
#[inline(always)]
const fn line_of(block: usize) -> usize {
    1 + LOWER_WORDS * block
}

/// Where a block is in the lower plane of a strip, in lines: its word's line, and its first one.
#[allow(clippy::inline_always, reason = "as above")]
#[inline(always)]
const fn lower_lines(block: usize) -> (usize, usize) {
    let group = block / GROUP * line_of(GROUP);
    (group, group + line_of(block % GROUP))
}

/// Where a line of a block of a group is in the lower plane, in bytes from the group on.
#[cfg(target_arch = "x86_64")]
#[allow(clippy::inline_always, reason = "as above")]
#[inline(always)]
pub(crate) const fn lower_place(block: usize, line: usize) -> usize {
    (line_of(block) + line) * size_of::<Line>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::formats::Weights;
    use crate::formats::strips::pack;
    use crate::isa::Isa;

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
