//! Rows of activations, as f32 and as blocks of integer codes.

use std::cell::UnsafeCell;

use crate::formats::{BLOCK, Format};

use super::{LANES, Mode};

/// Which representations a batch of activations is kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The f32 rows.
    pub f32: bool,
    /// Integer blocks of 32.
    pub blocks: Option<Precision>,
}

/// How fine the integer codes of activations are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// Codes up to 127: one plane.
    Int8,
    /// Codes up to 8128 = 64 * 127: a coarse and a fine plane, which take two integer products.
    Int14,
}

impl Precision {
    /// The largest code.
    #[must_use]
    pub fn max_code(self) -> f32 {
        match self {
            Self::Int8 => 127.0,
            Self::Int14 => 8128.0,
        }
    }
}

impl Needs {
    /// What products with weights of these formats read.
    #[must_use]
    pub fn of(formats: &[Format], mode: Mode) -> Self {
        Self {
            f32: formats.iter().any(|&format| mode.precision(format).is_none()),
            blocks: formats.iter().filter_map(|&format| mode.precision(format)).max(),
        }
    }
}

/// Codes of eight blocks.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Plane {
    pub codes: [[i8; BLOCK]; LANES],
    /// Sums of the codes of each half block.
    pub halves: [[i16; 2]; LANES],
}

/// Eight blocks: `x[32 * b + i]` is about `scales[b] * code` with
/// `code = 64 * coarse.codes[b][i] + fine.codes[b][i]`, or the coarse code alone in int8.
///
/// `sums[b]` is `scales[b]` times the sum of the codes of block b.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Octet {
    pub coarse: Plane,
    pub fine: Plane,
    /// Whole codes, in int14: for products whose weights have 16 bits.
    pub wide: [[i16; BLOCK]; LANES],
    pub scales: [f32; LANES],
    pub sums: [f32; LANES],
}

impl Plane {
    const ZERO: Self = Self { codes: [[0; BLOCK]; LANES], halves: [[0; 2]; LANES] };

    fn add_up(&mut self, block: usize) -> i32 {
        let half = |part: &[i8]| part.iter().map(|&code| i16::from(code)).sum::<i16>();
        let (low, high) = self.codes[block].split_at(BLOCK / 2);
        self.halves[block] = [half(low), half(high)];
        self.halves[block].iter().map(|&half| i32::from(half)).sum()
    }
}

impl Octet {
    const ZERO: Self = Self {
        coarse: Plane::ZERO,
        fine: Plane::ZERO,
        wide: [[0; BLOCK]; LANES],
        scales: [0.0; LANES],
        sums: [0.0; LANES],
    };
}

/// Weight of a coarse code in steps of the fine ones.
pub(crate) const COARSE: i32 = 64;

/// Below this, 8128 / max is not a finite f32: the block counts as zero.
const SMALLEST_MAX: f32 = 3e-35;

/// Adding and subtracting 1.5 * 2^23 rounds |x| < 2^22 to the nearest integer, ties to even, on any CPU.
const ROUND: f32 = 12_582_912.0;

/// A batch of activations [tokens, cols].
///
/// Integer blocks are symmetric: `scale = max |x| / c` with c = [`Precision::max_code`], codes are `x * (c / max |x|)`
/// rounded to nearest, ties to even. A block whose largest value is below 3e-35 is zero. A block with a NaN or an
/// infinity has the scale NaN, so that every result of its token is NaN instead of silently wrong. f32 rows are kept as
/// they are.
///
/// Threads may write different rows at once ([`Self::write_row`]).
#[derive(Default)]
pub struct Activations {
    tokens: usize,
    cols: usize,
    needs: Needs,
    values: Vec<UnsafeCell<f32>>,
    octets: Vec<UnsafeCell<Octet>>,
}

// SAFETY: shared access only reads, except for `write_row`, whose contract excludes races.
unsafe impl Sync for Activations {}

impl Activations {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes room for [tokens, cols] in the representations of `needs`. Memory is reused; the contents of rows are
    /// unspecified until they are written.
    ///
    /// # Panics
    /// When blocks are asked for and `cols` is not a multiple of 32.
    pub fn reset(&mut self, tokens: usize, cols: usize, needs: Needs) {
        assert!(
            needs.blocks.is_none() || cols.is_multiple_of(BLOCK),
            "blocks in rows of {cols} columns: not a multiple of {BLOCK}"
        );
        (self.tokens, self.cols, self.needs) = (tokens, cols, needs);
        let values = if needs.f32 { tokens * self.padded_cols() } else { 0 };
        if self.values.len() < values {
            self.values.resize_with(values, Default::default);
        }
        let octets = if needs.blocks.is_some() { tokens * self.row_octets() } else { 0 };
        if self.octets.len() < octets {
            self.octets.resize_with(octets, || UnsafeCell::new(Octet::ZERO));
        }
    }

    /// Rows in the batch.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Values in a row.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The representations that are kept.
    #[must_use]
    pub fn needs(&self) -> Needs {
        self.needs
    }

    fn padded_cols(&self) -> usize {
        self.cols.next_multiple_of(LANES)
    }

    fn row_octets(&self) -> usize {
        self.cols.div_ceil(BLOCK * LANES)
    }

    /// Stores `row` as row `token`.
    ///
    /// # Panics
    /// When `token` is not a row or `row` is not `cols` long.
    pub fn set_row(&mut self, token: usize, row: &[f32]) {
        // SAFETY: the exclusive borrow excludes every other access.
        unsafe { self.write_row(token, row) }
    }

    /// Stores `row` as row `token`, from any thread.
    ///
    /// # Safety
    /// Nobody else reads or writes row `token` during the call, and reads later are ordered after it.
    ///
    /// # Panics
    /// When `token` is not a row or `row` is not `cols` long.
    pub unsafe fn write_row(&self, token: usize, row: &[f32]) {
        assert!(token < self.tokens, "token {token} of {}", self.tokens);
        assert_eq!(row.len(), self.cols, "a row has {} values", self.cols);
        if self.needs.f32 {
            let padded = self.padded_cols();
            let cells = &self.values[token * padded..][..padded];
            // SAFETY: UnsafeCell<f32> has the layout of f32, the slice bounds were checked, and the caller has sole
            // access to the row.
            let values = unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(cells.as_ptr()), padded) };
            values[..self.cols].copy_from_slice(row);
            values[self.cols..].fill(0.0);
        }
        if let Some(precision) = self.needs.blocks {
            let count = self.row_octets();
            let cells = &self.octets[token * count..][..count];
            // SAFETY: as above, for UnsafeCell<Octet>.
            let octets = unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(cells.as_ptr()), count) };
            for (octet, values) in octets.iter_mut().zip(row.chunks(BLOCK * LANES)) {
                quantize(values, precision, octet);
            }
        }
    }

    /// Row `token` as f32, with zeros to a multiple of 8 columns.
    pub(super) fn values(&self, token: usize) -> &[f32] {
        assert!(self.needs.f32 && token < self.tokens, "these activations have no f32 rows");
        let padded = self.padded_cols();
        let cells = &self.values[token * padded..][..padded];
        // SAFETY: same layout and bounds; the contract of `write_row` excludes a writer.
        unsafe { std::slice::from_raw_parts(UnsafeCell::raw_get(cells.as_ptr()), padded) }
    }

    /// Row `token` in blocks, with zero blocks to a multiple of 8.
    pub(super) fn octets(&self, token: usize) -> &[Octet] {
        assert!(self.needs.blocks.is_some() && token < self.tokens, "these activations have no integer blocks");
        let count = self.row_octets();
        let cells = &self.octets[token * count..][..count];
        // SAFETY: same layout and bounds; the contract of `write_row` excludes a writer.
        unsafe { std::slice::from_raw_parts(UnsafeCell::raw_get(cells.as_ptr()), count) }
    }
}

/// Quantises up to eight blocks; absent ones become zero.
fn quantize(values: &[f32], precision: Precision, octet: &mut Octet) {
    let (blocks, rest) = values.as_chunks::<BLOCK>();
    debug_assert!(rest.is_empty());
    for (b, block) in blocks.iter().enumerate() {
        let (scale, inverse) = scale_of(block, precision);
        let defined = scale > 0.0;
        let code = |x: f32| {
            let bits = (x * inverse + ROUND).to_bits() as i32;
            if defined { bits.wrapping_sub(ROUND.to_bits() as i32) } else { 0 }
        };
        let (coarse, fine) = (&mut octet.coarse, &mut octet.fine);
        octet.scales[b] = scale;
        let sum = match precision {
            Precision::Int8 => {
                for (to, &x) in coarse.codes[b].iter_mut().zip(block) {
                    *to = code(x) as i8;
                }
                coarse.add_up(b)
            }
            Precision::Int14 => {
                for (wide, &x) in octet.wide[b].iter_mut().zip(block) {
                    *wide = code(x) as i16;
                }
                for ((coarse, fine), &code) in coarse.codes[b].iter_mut().zip(&mut fine.codes[b]).zip(&octet.wide[b]) {
                    // Rounded division: the fine code is within -32..32, the coarse one within -127..=127.
                    let high = (code + COARSE as i16 / 2) >> COARSE.ilog2();
                    (*coarse, *fine) = (high as i8, (code - COARSE as i16 * high) as i8);
                }
                COARSE * coarse.add_up(b) + fine.add_up(b)
            }
        };
        octet.sums[b] = scale * sum as f32;
    }
    for b in blocks.len()..LANES {
        for plane in [&mut octet.coarse, &mut octet.fine] {
            plane.codes[b] = [0; BLOCK];
            plane.halves[b] = [0; 2];
        }
        octet.wide[b] = [0; BLOCK];
        (octet.scales[b], octet.sums[b]) = (0.0, 0.0);
    }
}

/// Scale of a block and what its values are multiplied with.
fn scale_of(block: &[f32; BLOCK], precision: Precision) -> (f32, f32) {
    // Bits of |x| order like |x|, with NaN above infinity: no NaN gets lost on the way.
    let max = f32::from_bits(block.iter().map(|x| x.to_bits() & 0x7fff_ffff).fold(0, u32::max));
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

    fn one_block(values: [f32; BLOCK], precision: Precision) -> Octet {
        let mut octet = Octet::ZERO;
        octet.coarse.codes = [[7; BLOCK]; LANES];
        octet.scales = [1.0; LANES];
        quantize(&values, precision, &mut octet);
        octet
    }

    fn code(octet: &Octet, i: usize) -> i32 {
        COARSE * i32::from(octet.coarse.codes[0][i]) + i32::from(octet.fine.codes[0][i])
    }

    #[test]
    fn int8_codes_are_rounded_to_nearest_even_and_sums_are_exact() {
        let mut values = [0.0; BLOCK];
        values[..6].copy_from_slice(&[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]);
        values[16] = -127.0;
        values[31] = 3.49;
        let octet = one_block(values, Precision::Int8);
        assert_eq!(octet.coarse.codes[0][..6], [127, 0, 2, 2, 0, -2]);
        assert_eq!((octet.coarse.codes[0][16], octet.coarse.codes[0][31]), (-127, 3));
        assert_eq!(octet.scales[0].to_bits(), 1.0_f32.to_bits());
        assert_eq!(octet.coarse.halves[0], [129, -124]);
        assert_eq!(octet.sums[0].to_bits(), 5.0_f32.to_bits());
        assert_eq!(octet.coarse.codes[1..], [[0; BLOCK]; 7], "absent blocks are cleared");
        assert_eq!(octet.scales[1..], [0.0; 7]);
    }

    #[test]
    fn int14_codes_come_in_two_planes() {
        let mut values = [0.0; BLOCK];
        let codes = [8128, -8128, 31, 32, 33, -31, -32, -33, 8095, 95, 96, -96, 1, -1, 64, 4097];
        for (value, code) in values.iter_mut().zip(codes) {
            *value = code as f32;
        }
        let octet = one_block(values, Precision::Int14);
        for (i, expected) in codes.into_iter().enumerate() {
            assert_eq!((code(&octet, i), i32::from(octet.wide[0][i])), (expected, expected));
            assert!((-32..32).contains(&octet.fine.codes[0][i]) && octet.coarse.codes[0][i] > -128);
        }
        assert_eq!(octet.scales[0].to_bits(), 1.0_f32.to_bits());
        assert_eq!(octet.sums[0].to_bits(), (codes.iter().sum::<i32>() as f32).to_bits());
    }

    #[test]
    fn extreme_blocks_stay_defined() {
        for precision in [Precision::Int8, Precision::Int14] {
            for x in [f32::MAX, -f32::MAX, 4e-35, -1.0] {
                let octet = one_block([x; BLOCK], precision);
                assert_eq!(octet.coarse.codes[0], [if x > 0.0 { 127 } else { -127 }; BLOCK], "{x}");
                assert_eq!(octet.fine.codes[0], [0; BLOCK], "{x}");
            }
            for x in [1e-40, -f32::MIN_POSITIVE, 0.0, -0.0] {
                let octet = one_block([x; BLOCK], precision);
                assert_eq!((octet.coarse.codes[0], octet.scales[0]), ([0; BLOCK], 0.0), "{x}");
            }
            for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
                let mut values = [1.0; BLOCK];
                values[9] = x;
                let octet = one_block(values, precision);
                assert!(octet.scales[0].is_nan() && octet.sums[0].is_nan(), "{x}");
                assert_eq!(octet.coarse.codes[0], [0; BLOCK]);
            }
        }
    }
}
