//! Formats whose storage block is one block of 32: f16 scale (and base), then the codes.
//!
//! Four-bit codes: byte i holds weight i in its low half and weight i + 16 in its high half.

use super::{BLOCK, Block, half_at};

fn nibbles(bytes: &[u8]) -> [i16; BLOCK] {
    std::array::from_fn(|i| i16::from(if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 }))
}

/// Nibbles with a fifth bit: bit i of the little-endian word before them belongs to weight i.
fn five_bits(bytes: &[u8]) -> [i16; BLOCK] {
    let high = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let low = nibbles(&bytes[4..]);
    std::array::from_fn(|i| low[i] | ((high >> i & 1) as i16) << 4)
}

fn centred(codes: [i16; BLOCK], bias: i16, scale: f32) -> Block {
    Block { codes: codes.map(|code| code - bias), scale, offset: 0.0, steps: [0, 0] }
}

pub(super) fn q4_0(bytes: &[u8]) -> Block {
    centred(nibbles(&bytes[2..]), 8, half_at(bytes, 0))
}

pub(super) fn q4_1(bytes: &[u8]) -> Block {
    Block { codes: nibbles(&bytes[4..]), scale: half_at(bytes, 0), offset: half_at(bytes, 2), steps: [1, 1] }
}

pub(super) fn q5_0(bytes: &[u8]) -> Block {
    centred(five_bits(&bytes[2..]), 16, half_at(bytes, 0))
}

pub(super) fn q5_1(bytes: &[u8]) -> Block {
    Block { codes: five_bits(&bytes[4..]), scale: half_at(bytes, 0), offset: half_at(bytes, 2), steps: [1, 1] }
}

pub(super) fn q8_0(bytes: &[u8]) -> Block {
    centred(std::array::from_fn(|i| i16::from(bytes[2 + i].cast_signed())), 0, half_at(bytes, 0))
}
