//! `Q8_0` into both planes.

#![allow(clippy::inline_always, reason = "only what is inlined into `dispatch` is compiled for its instruction set")]

use super::{GROUP, Line, UPPER, WHOLE, lower_lines, nbytes};
use crate::formats::strips::pack;
use crate::formats::{BLOCK, STRIP};
use crate::isa::Isa;
use crate::simd::{Kernel, Simd, dispatch};

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
            let (base, middle) = if is_third { (128_u8, 0) } else { (131, 3) };
            let sign = if is_turned { 0xff } else { 0 };
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
