//! Number formats of weights: what the bytes of a row mean.
//!
//! Layouts are those of GGUF files; what these lack (AFQ, HQQ, FP8, F8Q8) is laid out as the modules below say. Every
//! format but the dense ones (F32, F16, BF16, FP8) is seen here as blocks of 32 weights,
//! `w[i] = scale * codes[i] + offset * steps[i / 16]`, with integer codes and steps, and scales and offsets in f32.
//! Integer sub-block scales are folded into the codes, so the same few numbers give the reference dequantisation and the
//! exact integer products of [`crate::matmul`].

mod affine;
mod format;
mod fp8;
mod kquants;
mod legacy;
pub mod planes;
pub mod strips;
mod weights;

use half::f16;

pub use format::{Format, ShapeError};
pub(crate) use fp8::{e4m3, e4m3_bits};
pub use strips::STRIP;
pub use weights::Weights;

/// Weights in one block of the products (a format's storage block is one, two or eight of them).
pub const BLOCK: usize = 32;

/// Thirty-two weights as integers: `w[i] = scale * codes[i] + offset * steps[i / 16]`.
///
/// Integer scales are folded into the codes and steps, so that `scale` is one of the stored f16, the same for a run of
/// blocks ([`Format::run`]). With an f16 for a scale, its products with codes are exact in f32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub codes: [i16; BLOCK],
    pub scale: f32,
    pub offset: f32,
    pub steps: [i16; 2],
}

impl Block {
    /// Block `index` of a row of a quantised format.
    pub(crate) fn decode(format: Format, row: &[u8], index: usize) -> Self {
        let per_storage = format.block() / BLOCK;
        let bytes = format.block_bytes();
        let storage = &row[index / per_storage * bytes..][..bytes];
        let part = index % per_storage;
        match format {
            Format::Q4_0 => legacy::q4_0(storage),
            Format::Q4_1 => legacy::q4_1(storage),
            Format::Q5_0 => legacy::q5_0(storage),
            Format::Q5_1 => legacy::q5_1(storage),
            Format::Q8_0 => legacy::q8_0(storage),
            Format::Q8_1 => legacy::q8_1(storage),
            Format::F8Q8 => legacy::f8q8(storage),
            Format::MXFP4 => legacy::mxfp4(storage),
            Format::Q2_K => kquants::q2_k(storage, part),
            Format::Q3_K => kquants::q3_k(storage, part),
            Format::Q4_K => kquants::q4_k(storage, part),
            Format::Q5_K => kquants::q5_k(storage, part),
            Format::Q6_K => kquants::q6_k(storage, part),
            Format::Q8_K => kquants::q8_k(storage, part),
            Format::AFQ2 => affine::afq2(storage, part),
            Format::AFQ3 => affine::afq3(storage, part),
            Format::AFQ4 => affine::afq4(storage, part),
            Format::AFQ6 => affine::afq6(storage, part),
            Format::AFQ8 => affine::afq8(storage, part),
            Format::HQQ4 => affine::hqq4(storage, part),
            Format::HQQ8 => affine::hqq8(storage, part),
            Format::F32 | Format::F16 | Format::BF16 | Format::FP8 => unreachable!("dense formats have no blocks"),
        }
    }

    fn dequantize(&self, has_offset: bool, out: &mut [f32]) {
        for (i, (value, &code)) in out.iter_mut().zip(&self.codes).enumerate() {
            *value = self.scale * f32::from(code);
            if has_offset {
                *value += self.offset * f32::from(self.steps[i / 16]);
            }
        }
    }
}

/// The f32 stored at `at`.
fn float_at(bytes: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The f16 stored at `at`, exactly.
fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}
