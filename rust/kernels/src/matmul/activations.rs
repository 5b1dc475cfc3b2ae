//! Rows of activations, as f32 and as int8 blocks.

use std::cell::UnsafeCell;

use crate::formats::{BLOCK, Format};

use super::{LANES, Mode};

/// Which representations a batch of activations is kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The f32 rows.
    pub f32: bool,
    /// Int8 blocks of 32.
    pub int8: bool,
}

impl Needs {
    /// What products with weights of these formats read.
    #[must_use]
    pub fn of(formats: &[Format], mode: Mode) -> Self {
        Self {
            f32: formats.iter().any(|&format| !mode.is_int8(format)),
            int8: formats.iter().any(|&format| mode.is_int8(format)),
        }
    }
}

/// Eight int8 blocks: `x[32 * b + i]` is about `scales[b] * codes[b][i]`.
///
/// `halves` are the sums of the codes of each half block, `sums[b]` is `scales[b]` times the sum of block b.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Octet {
    pub codes: [[i8; BLOCK]; LANES],
    pub scales: [f32; LANES],
    pub sums: [f32; LANES],
    pub halves: [[i16; 2]; LANES],
}

impl Octet {
    const ZERO: Self =
        Self { codes: [[0; BLOCK]; LANES], scales: [0.0; LANES], sums: [0.0; LANES], halves: [[0; 2]; LANES] };
}

/// Below this, 127 / max is not a finite f32: the block counts as zero.
const SMALLEST_MAX: f32 = 4e-37;

/// Adding and subtracting 1.5 * 2^23 rounds |x| < 2^22 to the nearest integer, ties to even, on any CPU.
const ROUND: f32 = 12_582_912.0;

/// A batch of activations [tokens, cols].
///
/// Int8 blocks are symmetric: `scale = max |x| / 127`, codes are `x * (127 / max |x|)` rounded to nearest, ties to even.
/// A block whose largest value is below 4e-37 is zero. A block with a NaN or an infinity has the scale NaN, so that
/// every result of its token is NaN instead of silently wrong. f32 rows are kept as they are.
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
    /// When int8 is asked for and `cols` is not a multiple of 32.
    pub fn reset(&mut self, tokens: usize, cols: usize, needs: Needs) {
        assert!(!needs.int8 || cols.is_multiple_of(BLOCK), "int8 rows of {cols} columns: not a multiple of {BLOCK}");
        (self.tokens, self.cols, self.needs) = (tokens, cols, needs);
        let values = if needs.f32 { tokens * self.padded_cols() } else { 0 };
        if self.values.len() < values {
            self.values.resize_with(values, Default::default);
        }
        let octets = if needs.int8 { tokens * self.row_octets() } else { 0 };
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
        if self.needs.int8 {
            let count = self.row_octets();
            let cells = &self.octets[token * count..][..count];
            // SAFETY: as above, for UnsafeCell<Octet>.
            let octets = unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(cells.as_ptr()), count) };
            for (octet, values) in octets.iter_mut().zip(row.chunks(BLOCK * LANES)) {
                quantize(values, octet);
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

    /// Row `token` as int8, with zero blocks to a multiple of 8.
    pub(super) fn octets(&self, token: usize) -> &[Octet] {
        assert!(self.needs.int8 && token < self.tokens, "these activations have no int8 rows");
        let count = self.row_octets();
        let cells = &self.octets[token * count..][..count];
        // SAFETY: same layout and bounds; the contract of `write_row` excludes a writer.
        unsafe { std::slice::from_raw_parts(UnsafeCell::raw_get(cells.as_ptr()), count) }
    }
}

/// Quantises up to eight blocks; absent ones become zero.
fn quantize(values: &[f32], octet: &mut Octet) {
    let (blocks, rest) = values.as_chunks::<BLOCK>();
    debug_assert!(rest.is_empty());
    for (b, block) in blocks.iter().enumerate() {
        let (scale, inverse) = scale_of(block);
        let codes = &mut octet.codes[b];
        for (code, &x) in codes.iter_mut().zip(block) {
            *code = ((x * inverse + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32) as i8;
        }
        if scale == 0.0 || scale.is_nan() {
            codes.fill(0);
        }
        let half = |part: &[i8]| part.iter().map(|&code| i16::from(code)).sum::<i16>();
        octet.scales[b] = scale;
        octet.halves[b] = [half(&codes[..16]), half(&codes[16..])];
        octet.sums[b] = scale * f32::from(octet.halves[b][0] + octet.halves[b][1]);
    }
    for b in blocks.len()..LANES {
        octet.codes[b] = [0; BLOCK];
        octet.scales[b] = 0.0;
        octet.sums[b] = 0.0;
        octet.halves[b] = [0; 2];
    }
}

/// Scale of a block and what its values are multiplied with.
fn scale_of(block: &[f32; BLOCK]) -> (f32, f32) {
    // Bits of |x| order like |x|, with NaN above infinity: no NaN gets lost on the way.
    let max = f32::from_bits(block.iter().map(|x| x.to_bits() & 0x7fff_ffff).fold(0, u32::max));
    if !max.is_finite() {
        (f32::NAN, 0.0)
    } else if max < SMALLEST_MAX {
        (0.0, 0.0)
    } else {
        (max / 127.0, 127.0 / max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_block(values: [f32; BLOCK]) -> Octet {
        let mut octet = Octet::ZERO;
        octet.codes = [[7; BLOCK]; LANES];
        octet.scales = [1.0; LANES];
        quantize(&values, &mut octet);
        octet
    }

    #[test]
    fn codes_are_rounded_to_nearest_even_and_sums_are_exact() {
        let mut values = [0.0; BLOCK];
        values[..6].copy_from_slice(&[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]);
        values[16] = -127.0;
        values[31] = 3.49;
        let octet = one_block(values);
        assert_eq!(octet.codes[0][..6], [127, 0, 2, 2, 0, -2]);
        assert_eq!((octet.codes[0][16], octet.codes[0][31]), (-127, 3));
        assert_eq!(octet.scales[0].to_bits(), 1.0_f32.to_bits());
        assert_eq!(octet.halves[0], [129, -124]);
        assert_eq!(octet.sums[0].to_bits(), 5.0_f32.to_bits());
        assert_eq!(octet.codes[1..], [[0; BLOCK]; 7], "absent blocks are cleared");
        assert_eq!(octet.scales[1..], [0.0; 7]);
    }

    #[test]
    fn extreme_blocks_stay_defined() {
        for x in [f32::MAX, -f32::MAX, 5e-37, -1.0] {
            let octet = one_block([x; BLOCK]);
            assert_eq!(octet.codes[0], [if x > 0.0 { 127 } else { -127 }; BLOCK], "{x}");
        }
        for x in [1e-40, -f32::MIN_POSITIVE, 0.0, -0.0] {
            let octet = one_block([x; BLOCK]);
            assert_eq!((octet.codes[0], octet.scales[0]), ([0; BLOCK], 0.0), "{x}");
        }
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
            let mut values = [1.0; BLOCK];
            values[9] = x;
            let octet = one_block(values);
            assert!(octet.scales[0].is_nan() && octet.sums[0].is_nan(), "{x}");
            assert_eq!(octet.codes[0], [0; BLOCK]);
        }
    }
}
