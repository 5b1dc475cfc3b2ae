//! Integer codes of a group of columns: sixteen bits, bytes, or planes of seven bits.

use crate::formats::BLOCK;

use super::activations::Precision;
use super::{GROUP, LANES};

/// 256 columns of a row, or fewer at its end: `x[i]` is about `scale * codes[place(i)]`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Group {
    /// Zero for columns behind the last one.
    pub codes: [i16; GROUP],
    /// Sums of the codes of each half block, and of each block: integers below 2^24.
    pub halves: [f32; 2 * LANES],
    pub blocks: [f32; LANES],
    pub scale: f32,
}

/// The codes of a group in 8 bits, in column order, for [`Precision::Int8`].
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Bytes {
    pub codes: [i8; GROUP],
    /// Sums of the codes of each half block, and of each block.
    pub halves: [i16; 2 * LANES],
    pub blocks: [i16; LANES],
    /// The largest sum of absolute codes of a half block.
    pub norm: i16,
    /// The largest sum of the codes of one sign in a block, without the sign.
    pub side: i16,
    /// As in [`Group`], which inner loops need not read then.
    pub scale: f32,
}

/// The codes of a group in int8, in column order, for weights in strips: four columns of a token are one 32-bit number.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Quads {
    /// A code is `128 * high + low`; one of 8 bits is `low`, and what `high` is then means nothing.
    pub low: [i8; GROUP],
    pub high: [i8; GROUP],
    /// Sums of the codes of each half block, and of each block.
    pub halves: [i32; 2 * LANES],
    pub blocks: [i32; LANES],
    /// The same as 16-bit numbers, of codes of 8 bits: those of a block, or of two of them, are one 32-bit number.
    pub halves16: [i16; 2 * LANES],
    pub blocks16: [i16; LANES],
    /// As in [`Bytes`], of codes of 8 bits.
    pub side: i16,
}

/// A group of columns of T tokens, for weights in strips.
#[derive(Clone, Copy)]
pub(crate) struct Few<'a, const T: usize> {
    pub groups: &'a [Group; T],
    pub quads: &'a [Quads; T],
}

impl Quads {
    pub(crate) const ZERO: Self = Self {
        low: [0; GROUP],
        high: [0; GROUP],
        halves: [0; 2 * LANES],
        blocks: [0; LANES],
        halves16: [0; 2 * LANES],
        blocks16: [0; LANES],
        side: 0,
    };
}

impl Bytes {
    pub(crate) const ZERO: Self =
        Self { codes: [0; GROUP], halves: [0; 2 * LANES], blocks: [0; LANES], norm: 0, side: 0, scale: 0.0 };
}

/// Where the code of a column is kept in [`Group`]: the even columns of a block of 32, then its odd ones.
///
/// Weights come in bytes and halves of bytes. Masks and shifts turn a vector of them into int16 of every other column,
/// without shuffles.
pub(crate) const fn place(column: usize) -> usize {
    column / BLOCK * BLOCK + column % 2 * (BLOCK / 2) + column % BLOCK / 2
}

impl Group {
    pub(super) const ZERO: Self =
        Self { codes: [0; GROUP], halves: [0.0; 2 * LANES], blocks: [0.0; LANES], scale: 0.0 };
}

/// Below this, 8191 / max is not a finite f32: the group counts as zero.
const SMALLEST_MAX: f32 = 3e-35;

/// Adding and subtracting 1.5 * 2^23 rounds |x| < 2^22 to the nearest integer, ties to even, on any CPU.
const ROUND: f32 = 12_582_912.0;

/// The codes of a group again, in one plane or two.
pub(super) fn write_quads(group: &Group, precision: Precision, quads: &mut Quads) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { split_avx2(group, precision, quads) };
    }
    split(group, precision, quads);
}

/// [`split`] in wider vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn split_avx2(group: &Group, precision: Precision, quads: &mut Quads) {
    split(group, precision, quads);
}

#[allow(clippy::inline_always, reason = "as for `quantize`")]
#[inline(always)]
fn split(group: &Group, precision: Precision, quads: &mut Quads) {
    let high = |code: i16| if precision == Precision::Int8 { 0 } else { (code + 64) >> 7 };
    let planes = quads.low.as_chunks_mut::<BLOCK>().0.iter_mut().zip(quads.high.as_chunks_mut::<BLOCK>().0);
    for ((low, top), codes) in planes.zip(group.codes.as_chunks::<BLOCK>().0) {
        for i in 0..BLOCK / 2 {
            let [even, odd] = [codes[i], codes[BLOCK / 2 + i]];
            (top[2 * i], top[2 * i + 1]) = (high(even) as i8, high(odd) as i8);
            (low[2 * i], low[2 * i + 1]) = ((even - (high(even) << 7)) as i8, (odd - (high(odd) << 7)) as i8);
        }
    }
    quads.halves = group.halves.map(|sum| sum as i32);
    quads.blocks = group.blocks.map(|sum| sum as i32);
    quads.halves16 = quads.halves.map(|sum| sum as i16);
    quads.blocks16 = quads.blocks.map(|sum| sum as i16);
}

/// The codes of an int8 group again, as bytes.
pub(super) fn write_bytes(group: &Group, bytes: &mut Bytes) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { super::x86::narrow(group, bytes) };
    }
    narrow(group, bytes);
}

/// [`write_bytes`] in plain code.
fn narrow(group: &Group, bytes: &mut Bytes) {
    let blocks = bytes.codes.as_chunks_mut::<BLOCK>().0.iter_mut().zip(group.codes.as_chunks::<BLOCK>().0);
    for (bytes, codes) in blocks {
        for i in 0..BLOCK / 2 {
            (bytes[2 * i], bytes[2 * i + 1]) = (codes[i] as i8, codes[BLOCK / 2 + i] as i8);
        }
    }
    bytes.halves = group.halves.map(|sum| sum as i16);
    bytes.blocks = group.blocks.map(|sum| sum as i16);
    let mut norms = [0; 2 * LANES];
    for (norm, codes) in norms.iter_mut().zip(bytes.codes.as_chunks::<{ BLOCK / 2 }>().0) {
        *norm = codes.iter().map(|code| i16::from(code.unsigned_abs())).sum();
    }
    bytes.norm = norms.iter().fold(0, |most, &norm| most.max(norm));
    let sides = norms.as_chunks().0.iter().zip(&bytes.blocks).map(|([low, high], sum)| (low + high + sum.abs()) / 2);
    bytes.side = sides.fold(0, i16::max);
    bytes.scale = group.scale;
}

pub(super) fn write_group(values: &[f32], precision: Precision, group: &mut Group) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { quantize_avx2(values, precision, group) };
    }
    quantize(values, precision, group);
    sum(group);
}

/// [`quantize`] in wider vectors: the same operations; and [`sum`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn quantize_avx2(values: &[f32], precision: Precision, group: &mut Group) {
    quantize(values, precision, group);
    super::x86::sum(group);
}

/// Quantises up to 256 columns, a multiple of 32; absent ones become zero.
#[allow(clippy::inline_always, reason = "only what is inlined into `quantize_avx2` is compiled for AVX2")]
#[inline(always)]
fn quantize(values: &[f32], precision: Precision, group: &mut Group) {
    let (scale, inverse) = scale_of(values, precision);
    let defined = scale > 0.0;
    let code = |x: f32| {
        let bits = (x * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits());
        if defined { bits as i16 } else { 0 }
    };
    let (codes, absent) = group.codes.split_at_mut(values.len());
    for (codes, values) in codes.as_chunks_mut::<BLOCK>().0.iter_mut().zip(values.as_chunks::<BLOCK>().0) {
        for i in 0..BLOCK / 2 {
            codes[i] = code(values[2 * i]);
            codes[BLOCK / 2 + i] = code(values[2 * i + 1]);
        }
    }
    absent.fill(0);
    group.scale = scale;
}

/// Adds up the codes of each half block and of each block.
fn sum(group: &mut Group) {
    for (sums, codes) in group.halves.as_chunks_mut::<2>().0.iter_mut().zip(group.codes.as_chunks::<BLOCK>().0) {
        for (half, sum) in sums.iter_mut().enumerate() {
            let at = |i: usize| i32::from(codes[8 * half + i]) + i32::from(codes[16 + 8 * half + i]);
            *sum = (0..8).map(at).sum::<i32>() as f32;
        }
    }
    for (sum, [low, high]) in group.blocks.iter_mut().zip(group.halves.as_chunks::<2>().0) {
        *sum = low + high;
    }
}

/// Scale of a group and what its values are multiplied with.
#[allow(clippy::inline_always, reason = "as for `quantize`")]
#[inline(always)]
fn scale_of(values: &[f32], precision: Precision) -> (f32, f32) {
    // Bits of |x| order like |x|, with NaN above infinity: no NaN gets lost on the way.
    let max = f32::from_bits(values.iter().map(|x| x.to_bits() & 0x7fff_ffff).fold(0, u32::max));
    if !max.is_finite() {
        (f32::NAN, 0.0)
    } else if max < SMALLEST_MAX {
        (0.0, 0.0)
    } else {
        (max / precision.max_code(), precision.max_code() / max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(values: &[f32], precision: Precision) -> Group {
        let mut group = Group { codes: [7; GROUP], scale: 1.0, ..Group::ZERO };
        write_group(values, precision, &mut group);
        let mut plain = Group { codes: [7; GROUP], scale: 1.0, ..Group::ZERO };
        quantize(values, precision, &mut plain);
        sum(&mut plain);
        assert_eq!((plain.codes, plain.halves), (group.codes, group.halves));
        assert_eq!((plain.blocks, plain.scale.to_bits()), (group.blocks, group.scale.to_bits()));
        group
    }

    #[test]
    fn codes_are_rounded_to_nearest_even_and_sums_are_exact() {
        for (precision, max) in [(Precision::Int8, 127), (Precision::Int14, 8191)] {
            let mut values = [0.0; 2 * BLOCK];
            values[..6].copy_from_slice(&[max as f32, 0.5, 1.5, 2.5, -0.5, -1.5]);
            values[16] = -max as f32;
            values[31] = 3.49;
            values[40] = -9.0;
            let group = group(&values, precision);
            let code = |column: usize| group.codes[place(column)];
            assert_eq!([0, 1, 2, 3, 4, 5].map(code), [max, 0, 2, 2, 0, -2]);
            assert_eq!([16, 31, 40].map(code), [-max, 3, -9]);
            assert_eq!(group.codes[64..], [0; GROUP - 64], "absent columns are cleared");
            assert_eq!(group.scale.to_bits(), 1.0_f32.to_bits());
            assert_eq!(group.halves[..3], [f32::from(max) + 2.0, 3.0 - f32::from(max), -9.0]);
            if precision == Precision::Int8 {
                let mut bytes = Bytes::ZERO;
                write_bytes(&group, &mut bytes);
                assert_eq!((bytes.norm, bytes.side, bytes.scale.to_bits()), (133, 134, 1.0_f32.to_bits()));
                assert!((0..GROUP).all(|column| i16::from(bytes.codes[column]) == code(column)));
                assert_eq!(
                    (bytes.halves[..3].to_vec(), bytes.blocks[..3].to_vec()),
                    (vec![129, -124, -9], vec![5, -9, 0])
                );
            }
            assert_eq!(group.blocks, [5.0, -9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        }
    }

    #[test]
    fn bytes_are_the_same_in_vectors() {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        for (columns, large) in [(GROUP, 0.0), (BLOCK, 0.0), (GROUP, 1.0), (GROUP, -1.0), (5 * BLOCK, 0.4)] {
            let values: Vec<f32> = (0..columns).map(|_| if large == 0.0 { next() } else { large }).collect();
            let group = group(&values, Precision::Int8);
            let (mut vectors, mut plain) = (Bytes::ZERO, Bytes::ZERO);
            write_bytes(&group, &mut vectors);
            narrow(&group, &mut plain);
            assert_eq!((vectors.codes, vectors.halves, vectors.blocks), (plain.codes, plain.halves, plain.blocks));
            assert_eq!((vectors.norm, vectors.side), (plain.norm, plain.side));
            assert_eq!(vectors.scale.to_bits(), plain.scale.to_bits());
        }
    }

    #[test]
    fn extreme_groups_stay_defined() {
        for (precision, most) in [(Precision::Int8, 127), (Precision::Int14, 8191)] {
            for x in [f32::MAX, -f32::MAX, 4e-35, -1.0] {
                let group = group(&[x; GROUP], precision);
                assert_eq!(group.codes, [if x > 0.0 { most } else { -most }; GROUP], "{x}");
            }
            for x in [1e-40, -f32::MIN_POSITIVE, 0.0, -0.0] {
                let group = group(&[x; BLOCK], precision);
                assert_eq!((group.codes, group.scale), ([0; GROUP], 0.0), "{x}");
            }
            for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
                let mut values = [1.0; GROUP];
                values[99] = x;
                let group = group(&values, precision);
                assert!(group.scale.is_nan(), "{x}");
                assert_eq!((group.codes, group.blocks), ([0; GROUP], [0.0; LANES]));
            }
        }
    }
}
