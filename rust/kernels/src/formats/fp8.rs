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
pub(crate) fn e4m3(bits: u8) -> f32 {
    let (exponent, fraction) = (u32::from(bits >> 3 & 15), u32::from(bits & 7));
    let magnitude = match (exponent, fraction) {
        (15, 7) => f32::NAN,
        (0, _) => fraction as f32 / 512.0,
        _ => f32::from_bits((exponent + 120) << 23 | fraction << 20),
    };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The bits of the nearest number, ties to even; of the largest one, 448, for what is beyond it.
#[allow(clippy::inline_always, reason = "compiled for the instruction set of its caller")]
#[inline(always)]
pub(crate) fn e4m3_bits(x: f32) -> u8 {
    // Adding 1.5 * 2^23 rounds to an integer, in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let rounded = (magnitude + 0x7_ffff + (magnitude >> 20 & 1)) >> 20;
    let subnormal = (f32::from_bits(magnitude) * 512.0 + ROUND).to_bits().wrapping_sub(ROUND.to_bits());
    let bits = if magnitude < 0x3c80_0000 { subnormal } else { rounded.wrapping_sub(960) };
    bits.min(0x7e) as u8 | (x.to_bits() >> 24) as u8 & 0x80
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_bits() {
        for bits in (0..=u8::MAX).filter(|bits| bits & 0x7f != 0x7f) {
            assert_eq!(e4m3_bits(e4m3(bits)), bits);
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        assert_eq!([e4m3(0x7e), e4m3(0x01), e4m3(0x88)], [448.0, 1.0 / 512.0, -1.0 / 64.0]);
    }

    #[test]
    fn what_lies_between_goes_to_the_nearest_and_ties_to_even() {
        for bits in 0..0x7e {
            let (low, high) = (e4m3(bits), e4m3(bits + 1));
            let middle = f32::midpoint(low, high);
            assert_eq!(e4m3_bits(middle), bits + bits % 2, "{middle}");
            assert_eq!(e4m3_bits(-middle.next_down()), bits | 0x80, "{middle}");
            assert_eq!(e4m3_bits(middle.next_up()), bits + 1, "{middle}");
        }
        assert_eq!([449.0, 1e30, f32::INFINITY].map(e4m3_bits), [0x7e; 3]);
        assert_eq!(e4m3_bits(-1e-30), 0x80);
    }
}
