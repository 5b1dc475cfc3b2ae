//! Formats whose storage block is one block of 32: f16 scale (and base), then the codes.
//!
//! Four-bit codes: byte i holds weight i in its low half and weight i + 16 in its high half.
//!
//! [`MXFP4`](super::Format::MXFP4) (OCP Microscaling specification; bytes as in GGUF) has a power of two as its scale,
//! [`F8Q8`](super::Format::F8Q8) (mistral.rs, the same bytes as in UQFF files) an E4M3 number.

use super::fp8::e4m3;
use super::{BLOCK, Block, half_at};

/// What the four bits of MXFP4 (E2M1) mean, twice: sign, then 0, 0.5, 1, 1.5, 2, 3, 4, 6.
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

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
    signed(&bytes[2..], half_at(bytes, 0))
}

fn signed(bytes: &[u8], scale: f32) -> Block {
    centred(std::array::from_fn(|i| i16::from(bytes[i].cast_signed())), 0, scale)
}

/// As `Q8_0` with a second f16 behind the scale: scale * sum of the codes, which weights have no use for.
pub(super) fn q8_1(bytes: &[u8]) -> Block {
    signed(&bytes[4..], half_at(bytes, 0))
}

/// As `Q8_0`, but the scale is an E4M3 number (one byte) over 448, the largest of them.
pub(super) fn f8q8(bytes: &[u8]) -> Block {
    signed(&bytes[1..], e4m3(bytes[0]) / 448.0)
}

/// An exponent (E8M0: 2^(byte - 127)), then nibbles of E2M1 numbers. Codes are twice the numbers, and the scale half of
/// that; 255, which is NaN by the specification, is 2^127 as in ggml.
pub(super) fn mxfp4(bytes: &[u8]) -> Block {
    let codes = nibbles(&bytes[1..]).map(|nibble| i16::from(E2M1[nibble as usize]));
    centred(codes, 0, half_e8m0(bytes[0]))
}

/// 2^(exponent - 128).
fn half_e8m0(exponent: u8) -> f32 {
    let exponent = u32::from(exponent);
    f32::from_bits(if exponent < 2 { 0x0020_0000 << exponent } else { (exponent - 1) << 23 })
}
