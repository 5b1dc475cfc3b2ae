//! Formats whose storage block is one block of 32.

use half::f16;

use crate::formats::BLOCK;

/// An f16 scale, then 32 signed codes; the largest weight of a block is code 127 or -127.
pub(super) fn q8_0(rows: &[f32], out: &mut [u8]) {
    for (block, out) in rows.as_chunks::<BLOCK>().0.iter().zip(out.as_chunks_mut::<34>().0) {
        let max = block.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        let scale = max / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        out[..2].copy_from_slice(&f16::from_f32(scale.min(f16::MAX.to_f32())).to_le_bytes());
        for (code, x) in out[2..].iter_mut().zip(block) {
            *code = ((x * inverse).round_ties_even() as i8).cast_unsigned();
        }
    }
}
