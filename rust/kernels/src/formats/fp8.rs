//! E4M3 numbers: sign, four bits of exponent (bias 7), three of fraction; no infinities, 0x7f and 0xff are NaN.
//!
//! Source: Micikevicius et al., "FP8 formats for deep learning", 2022.
//!
//! `FP8` stores 64 weights in 68 bytes: scale (f32), then E4M3 numbers in column order: `w = scale * number`. Files with a
//! scale for each tensor, row or block of columns fit without loss: blocks repeat it.

use super::float_at;

/// Bytes of the scale of a block.
const SCALE: usize = 4;

/// Weights of a block.
const WEIGHTS: usize = 64;

/// The number whose bits are `bits`.
pub(super) fn e4m3(bits: u8) -> f32 {
    let (exponent, fraction) = (u32::from(bits >> 3 & 15), u32::from(bits & 7));
    let magnitude = match (exponent, fraction) {
        (15, 7) => f32::NAN,
        (0, _) => fraction as f32 / 512.0,
        _ => f32::from_bits((exponent + 120) << 23 | fraction << 20),
    };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The weights of whole blocks.
pub(super) fn values(bytes: &[u8], out: &mut [f32]) {
    for (block, values) in bytes.chunks_exact(SCALE + WEIGHTS).zip(out.chunks_exact_mut(WEIGHTS)) {
        let scale = float_at(block, 0);
        for (value, &bits) in values.iter_mut().zip(&block[SCALE..]) {
            *value = scale * e4m3(bits);
        }
    }
}
