//! Which candidates each format tries: data.

use crate::formats::Format;

use super::centred::Codes;
use super::group::Rule;

/// How a format stores a sub-block.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    Offset {
        /// The largest code.
        most: f32,
        /// Largest multiple of the storage block's scale and minimum; 0: the sub-block has an f16 of its own for each.
        multiples: f32,
        /// Pairs of (stretch, anchor): tried freely, then again among the multiples.
        first: &'static [[(f32, f32); 2]],
        second: &'static [[(f32, f32); 2]],
    },
    Centred {
        codes: Codes,
        /// Multiples of the storage block's scale go from minus this to one less; 0: the sub-block has its own f16.
        multiples: f32,
        /// Pairs of codes of the largest weight: tried freely, then again among the multiples.
        first: &'static [[f32; 2]],
        second: &'static [[f32; 2]],
    },
}

#[derive(Clone, Copy)]
pub(super) struct Plan {
    /// Weights of a sub-block.
    pub len: usize,
    pub rule: Rule,
    pub shape: Shape,
}

const fn centred(most: f32) -> Codes {
    Codes { least: -most, most: most - 1.0 }
}

impl Plan {
    /// None for formats without blocks, and for those that other quantizers write.
    pub(super) fn of(format: Format) -> Option<Self> {
        let shape = match format {
            Format::Q4_1 => Shape::Offset { most: 15.0, multiples: 0.0, first: BASE, second: &[] },
            Format::Q5_1 => Shape::Offset { most: 31.0, multiples: 0.0, first: BASE, second: &[] },
            Format::Q2_K => Shape::Offset { most: 3.0, multiples: 15.0, first: Q2_FIRST, second: Q2_SECOND },
            Format::Q4_K => Shape::Offset { most: 15.0, multiples: 63.0, first: FIRST, second: SECOND },
            Format::Q5_K => Shape::Offset { most: 31.0, multiples: 63.0, first: FIRST, second: SECOND },
            Format::Q4_0 => Shape::Centred { codes: centred(8.0), multiples: 0.0, first: Q4_0, second: &[] },
            Format::Q5_0 => Shape::Centred { codes: centred(16.0), multiples: 0.0, first: Q5_0, second: &[] },
            Format::Q8_0 => {
                Shape::Centred { codes: Codes { least: -127.0, most: 127.0 }, multiples: 0.0, first: Q8_0, second: &[] }
            }
            Format::Q3_K => Shape::Centred { codes: centred(4.0), multiples: 32.0, first: Q3_FIRST, second: Q3_SECOND },
            Format::Q6_K => {
                Shape::Centred { codes: centred(32.0), multiples: 128.0, first: Q6_FIRST, second: Q6_SECOND }
            }
            _ => return None,
        };
        let len = if matches!(format, Format::Q2_K | Format::Q3_K | Format::Q6_K) { 16 } else { 32 };
        let rule = match format {
            Format::Q2_K | Format::Q4_K | Format::Q5_K => Rule::Magnitude,
            Format::Q3_K | Format::Q6_K => Rule::Square,
            _ => Rule::Plain,
        };
        Some(Self { len, rule, shape })
    }
}

const BASE: &[[(f32, f32); 2]] =
    &[[(0.0, 0.0), (-0.5, 0.5)], [(-0.9, 0.0), (-0.6, 0.0)], [(-0.3, 0.0), (0.3, 0.0)], [(0.6, 0.0), (0.9, 0.0)]];
// A stretch of -1 finds weights that once were quantised and did not use the last code.
const FIRST: &[[(f32, f32); 2]] = &[[(0.0, 0.0), (-0.5, 0.0)], [(-1.0, 0.0), (0.7, 0.5)]];
const SECOND: &[[(f32, f32); 2]] = &[[(0.0, 0.0), (-1.0, 0.0)], [(-0.5, 0.0), (0.5, 0.0)]];
const Q2_FIRST: &[[(f32, f32); 2]] = &[[(0.0, 0.0), (-0.5, 0.0)], [(-0.5, 0.5), (0.5, 0.5)]];
const Q2_SECOND: &[[(f32, f32); 2]] =
    &[[(-0.9, 0.0), (-0.6, 0.0)], [(-0.3, 0.0), (0.3, 0.0)], [(0.6, 0.0), (0.9, 0.0)]];
const Q4_0: &[[f32; 2]] = &[[-8.0, 7.0], [-7.5, 7.5], [-8.5, -7.0], [-7.75, 8.0], [-8.25, 6.5], [7.25, 8.5]];
const Q5_0: &[[f32; 2]] =
    &[[-16.0, 15.0], [-15.5, 15.5], [-16.5, -15.0], [-15.75, 16.0], [-16.25, 14.5], [15.25, 16.5]];
const Q8_0: &[[f32; 2]] = &[[127.0, 126.75], [127.25, 126.5]];
const Q3_FIRST: &[[f32; 2]] = &[[-4.0, -3.5], [3.0, 3.5], [-4.5, 4.0]];
const Q3_SECOND: &[[f32; 2]] = &[[-3.2, -3.8], [-4.2, 4.2], [2.8, 3.2], [3.8, -4.6]];
const Q6_FIRST: &[[f32; 2]] = &[[-32.0, 31.0]];
const Q6_SECOND: &[[f32; 2]] = &[[-31.4, 30.4], [30.8, 31.3]];
