//! Affine formats: 64 weights share a scale and a bias (AFQ) or a zero point (HQQ), and have unsigned codes.
//!
//! ```text
//! AFQn: w = scale * code + bias              MLX, and mistral.rs' AFQ with its default groups of 64
//! HQQn: w = scale * (code - zero)            Badri & Shaji, "Half-quadratic quantization", 2023
//! ```
//! A storage block holds the scale (f16), the bias or the zero point (f16), and the codes of weights 0..64:
//!
//! | format     | bytes | bits a weight | codes                                                                   |
//! |------------|------:|--------------:|-------------------------------------------------------------------------|
//! | AFQ2       |    20 |           2.5 | 16 bytes: bits 2k, 2k + 1 of byte i are weight i + 16k (k = 0..4)       |
//! | AFQ3       |    28 |           3.5 | low two bits as in AFQ2, then 8 bytes: bit i (little-endian) is bit 2 of weight i |
//! | AFQ4, HQQ4 |    36 |           4.5 | 32 bytes: byte i is weight i (low half) and weight i + 32 (high half)   |
//! | AFQ6       |    52 |           6.5 | low four bits as in AFQ4, then 16 bytes: bits 4 and 5 as in AFQ2        |
//! | AFQ8, HQQ8 |    68 |           8.5 | 64 bytes                                                                |
//!
//! MLX and mistral.rs keep codes as one stream of bits (weight i at bit n * i of the row, little-endian) and scales and
//! biases in arrays of their own: the same numbers in another order. Scales and biases in bf16 fit into f16 without loss
//! from 2^-17 up to 65504 in magnitude. Codes of eight bits are taken less 128 here, so that they fit int8, and the
//! offset makes up for it.

use super::{BLOCK, Block, half_at};

/// Where the codes begin.
const CODES: usize = 4;

/// What codes of eight bits are less by.
const CENTRE: f32 = 128.0;

fn two_bits(bytes: &[u8], part: usize) -> [i16; BLOCK] {
    std::array::from_fn(|i| i16::from(bytes[i % 16] >> (4 * part + 2 * (i / 16)) & 3))
}

fn four_bits(bytes: &[u8], part: usize) -> [i16; BLOCK] {
    std::array::from_fn(|i| i16::from(bytes[i] >> (4 * part) & 15))
}

fn eight_bits(bytes: &[u8], part: usize) -> [i16; BLOCK] {
    std::array::from_fn(|i| i16::from(bytes[BLOCK * part + i]) - 128)
}

fn biased(bytes: &[u8], codes: [i16; BLOCK]) -> Block {
    Block { codes, scale: half_at(bytes, 0), offset: half_at(bytes, 2), steps: [1, 1] }
}

/// `codes` are less by `centre` than the stored ones.
fn zeroed(bytes: &[u8], codes: [i16; BLOCK], centre: f32) -> Block {
    let (scale, zero) = (half_at(bytes, 0), half_at(bytes, 2));
    Block { codes, scale, offset: scale * (centre - zero), steps: [1, 1] }
}

pub(super) fn afq2(bytes: &[u8], part: usize) -> Block {
    biased(bytes, two_bits(&bytes[CODES..], part))
}

pub(super) fn afq3(bytes: &[u8], part: usize) -> Block {
    let low = two_bits(&bytes[CODES..], part);
    let high = &bytes[CODES + 16 + 4 * part..];
    biased(bytes, std::array::from_fn(|i| low[i] | i16::from(high[i / 8] >> (i % 8) & 1) << 2))
}

pub(super) fn afq4(bytes: &[u8], part: usize) -> Block {
    biased(bytes, four_bits(&bytes[CODES..], part))
}

pub(super) fn afq6(bytes: &[u8], part: usize) -> Block {
    let (low, high) = (four_bits(&bytes[CODES..], part), two_bits(&bytes[CODES + 32..], part));
    biased(bytes, std::array::from_fn(|i| low[i] | high[i] << 4))
}

pub(super) fn afq8(bytes: &[u8], part: usize) -> Block {
    let block = biased(bytes, eight_bits(&bytes[CODES..], part));
    Block { offset: CENTRE * block.scale + block.offset, ..block }
}

pub(super) fn hqq4(bytes: &[u8], part: usize) -> Block {
    zeroed(bytes, four_bits(&bytes[CODES..], part), 0.0)
}

pub(super) fn hqq8(bytes: &[u8], part: usize) -> Block {
    zeroed(bytes, eight_bits(&bytes[CODES..], part), CENTRE)
}
