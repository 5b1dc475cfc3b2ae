//! Activations of many tokens in the order in which a matrix unit reads them: tiles of sixteen tokens.
//!
//! A code q of 14 bits is `128 * high + low`, both of which fit int8; of 8 bits it is `low`.

use super::activations::Precision;
use super::codes::{Group, place};
use super::{GROUP, LANES};

/// Tokens of a tile.
pub(crate) const TOKENS: usize = 16;

/// Columns of a step.
pub(crate) const COLS: usize = 64;

/// Steps of a group.
pub(crate) const STEPS: usize = GROUP / COLS;

/// One plane of 64 columns: [four columns][token][column].
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Step(pub [[[i8; 4]; TOKENS]; COLS / 4]);

impl Step {
    pub(crate) const ZERO: Self = Self([[[0; 4]; TOKENS]; COLS / 4]);
}

/// What a group of columns has besides its codes, as in [`Group`], a lane for each token.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Sums {
    pub scale: [f32; TOKENS],
    pub blocks: [[f32; TOKENS]; LANES],
    pub halves: [[f32; TOKENS]; 2 * LANES],
    /// The same in pairs of 16-bit numbers, of codes of 8 bits.
    pub blocks16: [[[i16; 2]; TOKENS]; LANES / 2],
    pub halves16: [[[i16; 2]; TOKENS]; LANES],
}

impl Sums {
    pub(crate) const ZERO: Self = Self {
        scale: [0.0; TOKENS],
        blocks: [[0.0; TOKENS]; LANES],
        halves: [[0.0; TOKENS]; 2 * LANES],
        blocks16: [[[0; 2]; TOKENS]; LANES / 2],
        halves16: [[[0; 2]; TOKENS]; LANES],
    };

    /// Sets the lane of `token`.
    pub(super) fn set(&mut self, token: usize, group: &Group) {
        self.scale[token] = group.scale;
        for (to, &from) in self.blocks.iter_mut().zip(&group.blocks) {
            to[token] = from;
        }
        for (to, &from) in self.halves.iter_mut().zip(&group.halves) {
            to[token] = from;
        }
        for (to, from) in self.blocks16.iter_mut().zip(group.blocks.as_chunks().0) {
            to[token] = from.map(|sum| sum as i16);
        }
        for (to, from) in self.halves16.iter_mut().zip(group.halves.as_chunks().0) {
            to[token] = from.map(|sum| sum as i16);
        }
    }
}

/// Planes of `precision`: low, and high for 14 bits.
pub(crate) const fn planes(precision: Precision) -> usize {
    match precision {
        Precision::Int8 => 1,
        Precision::Int14 => 2,
    }
}

/// Sets the codes of `token` in the planes of a group: its low steps, then its high ones.
pub(super) fn set_codes(steps: &mut [Step], token: usize, group: &Group) {
    for column in 0..GROUP {
        let code = group.codes[place(column)];
        let high = if steps.len() > STEPS { (code + 64) >> 7 } else { 0 };
        let (step, quad, at) = (column / COLS, column % COLS / 4, column % 4);
        steps[step].0[quad][token][at] = (code - (high << 7)) as i8;
        if let Some(step) = steps.get_mut(STEPS + step) {
            step.0[quad][token][at] = high as i8;
        }
    }
}

/// Sets a whole tile.
pub(super) fn pack(groups: &[Group; TOKENS], sums: &mut Sums, steps: &mut [Step]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
        // SAFETY: the CPU has the features.
        return unsafe { super::x86::pack(groups, sums, steps) };
    }
    for (token, group) in groups.iter().enumerate() {
        sums.set(token, group);
        set_codes(steps, token, group);
    }
}
