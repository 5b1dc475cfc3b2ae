//! K-quants: storage blocks of 256 weights, integer scales per 16 or 32 weights under one f16 scale.
//!
//! Each function decodes block `part` (0..8) of a storage block. Products are exact in f32: 11 bits of f16 times at most
//! 13 bits of code and integer scale.

use super::{BLOCK, Block, float_at, half_at};

/// Sixteen bytes of (scale, minimum) nibbles, 64 bytes of 2-bit codes, scale, scale of minima.
pub(super) fn q2_k(bytes: &[u8], part: usize) -> Block {
    let (group, shift) = (part / 4, part % 4 * 2);
    let scales = [bytes[2 * part], bytes[2 * part + 1]];
    Block {
        codes: std::array::from_fn(|i| {
            i16::from(bytes[16 + 32 * group + i] >> shift & 3) * i16::from(scales[i / 16] & 15)
        }),
        scale: half_at(bytes, 80),
        offset: -half_at(bytes, 82),
        steps: scales.map(|s| i16::from(s >> 4)),
    }
}

/// 32 bytes of third bits (bit `part` of byte i), 64 bytes of 2-bit codes, 12 bytes of 6-bit scales, scale.
pub(super) fn q3_k(bytes: &[u8], part: usize) -> Block {
    let (group, shift) = (part / 4, part % 4 * 2);
    let scales = [q3_k_scale(&bytes[96..108], 2 * part), q3_k_scale(&bytes[96..108], 2 * part + 1)];
    Block {
        codes: std::array::from_fn(|i| {
            let code = bytes[32 + 32 * group + i] >> shift & 3 | (bytes[i] >> part & 1) << 2;
            (i16::from(code) - 4) * scales[i / 16]
        }),
        scale: half_at(bytes, 108),
        offset: 0.0,
        steps: [0, 0],
    }
}

/// Scale `index` of 16: low nibbles in bytes 0..8 (low halves, then high halves), top bit pairs in bytes 8..12.
fn q3_k_scale(bytes: &[u8], index: usize) -> i16 {
    let low = if index < 8 { bytes[index] & 15 } else { bytes[index - 8] >> 4 };
    let high = bytes[8 + index % 4] >> (2 * (index / 4)) & 3;
    i16::from(low | high << 4) - 32
}

/// Scale and minimum `part` of the twelve bytes that `Q4_K` and `Q5_K` share.
fn scale_and_min(bytes: &[u8], part: usize) -> (u8, u8) {
    if part < 4 {
        (bytes[part] & 63, bytes[part + 4] & 63)
    } else {
        (bytes[part + 4] & 15 | bytes[part - 4] >> 6 << 4, bytes[part + 4] >> 4 | bytes[part] >> 6 << 4)
    }
}

fn scaled(bytes: &[u8], part: usize, codes: [i16; BLOCK]) -> Block {
    let (scale, min) = scale_and_min(&bytes[4..16], part);
    Block {
        codes: codes.map(|code| code * i16::from(scale)),
        scale: half_at(bytes, 0),
        offset: -half_at(bytes, 2),
        steps: [i16::from(min); 2],
    }
}

/// Nibbles of 32 bytes: the low halves are one block, the high halves the next.
fn nibble(bytes: &[u8], part: usize, i: usize) -> u8 {
    bytes[32 * (part / 2) + i] >> (4 * (part % 2)) & 15
}

/// Scale, scale of minima, 12 bytes of 6-bit scales and minima, 128 bytes of nibbles.
pub(super) fn q4_k(bytes: &[u8], part: usize) -> Block {
    scaled(bytes, part, std::array::from_fn(|i| i16::from(nibble(&bytes[16..], part, i))))
}

/// As `Q4_K` with 32 bytes of fifth bits (bit `part` of byte i) before the nibbles.
pub(super) fn q5_k(bytes: &[u8], part: usize) -> Block {
    scaled(
        bytes,
        part,
        std::array::from_fn(|i| i16::from(nibble(&bytes[48..], part, i) | (bytes[16 + i] >> part & 1) << 4)),
    )
}

/// 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales, scale.
pub(super) fn q6_k(bytes: &[u8], part: usize) -> Block {
    let (group, quarter) = (part / 4, part % 4);
    Block {
        codes: std::array::from_fn(|i| {
            let low = bytes[64 * group + 32 * (quarter % 2) + i] >> (4 * (quarter / 2)) & 15;
            let high = bytes[128 + 32 * group + i] >> (2 * quarter) & 3;
            let scale = bytes[192 + 2 * part + i / 16].cast_signed();
            (i16::from(low | high << 4) - 32) * i16::from(scale)
        }),
        scale: half_at(bytes, 208),
        offset: 0.0,
        steps: [0, 0],
    }
}

/// Scale (f32), 256 signed bytes, the sums of each sixteen of them (i16), which weights have no use for.
pub(super) fn q8_k(bytes: &[u8], part: usize) -> Block {
    Block {
        codes: std::array::from_fn(|i| i16::from(bytes[4 + BLOCK * part + i].cast_signed())),
        scale: float_at(bytes, 0),
        offset: 0.0,
        steps: [0, 0],
    }
}
