//! Multiply-accumulates in plain Rust, vectorised as far as the compiler knows how for the target's base features.

use std::hint::black_box;

use super::{Chains, Family};

/// Accumulators side by side: 12 registers of 128 bits.
const LANES: usize = 48;

/// Different factors, so that no product is the same in every step.
const FACTORS: usize = 16;

pub(super) const ALL: [Chains; 3] = [
    Chains { family: Family::F32, instructions: "portable", macs: LANES as u64, run: f32_chains },
    Chains { family: Family::Int16, instructions: "portable", macs: LANES as u64, run: int16_chains },
    Chains { family: Family::Int8, instructions: "portable", macs: LANES as u64, run: int8_chains },
];

fn f32_chains(steps: u32) {
    chains(steps, 1.0_f32, |sum: f32, a, b| sum + a * b);
}

fn int16_chains(steps: u32) {
    chains(steps, 1_i16, |sum: i32, a, b| sum.wrapping_add(i32::from(a) * i32::from(b)));
}

fn int8_chains(steps: u32) {
    chains(steps, 1_i8, |sum: i32, a, b| sum.wrapping_add(i32::from(a) * i32::from(b)));
}

/// A column of factors times a row of them, summed up.
#[inline]
fn chains<S: Copy + Default, F: Copy>(steps: u32, factor: F, add: impl Fn(S, F, F) -> S) {
    let (column, row) = (black_box([factor; FACTORS]), black_box([factor; LANES]));
    let mut sums = [S::default(); LANES];
    for step in 0..steps as usize {
        let a = column[step % FACTORS];
        for (sum, b) in sums.iter_mut().zip(row) {
            *sum = add(*sum, a, b);
        }
    }
    black_box(sums);
}
