//! What the kernels know of a format: how a group of a row (256 weights, fewer at the end of a row) becomes integers.

use core::arch::x86_64::*;

use crate::formats::Format;

/// Integer scales of a group, sixteen int16: of its half blocks, or of its eight blocks and then their minima.
pub(super) type Scales = __m256i;

/// A quantised format, as `Block` in [`crate::formats`]: `scale * codes + offset * steps`.
///
/// # Safety
/// Of all functions: the CPU has AVX2, FMA and F16C, and every `group` points to the bytes of a group of a row. Only
/// the bytes of its storage blocks up to the one that is asked for are read.
pub(super) trait Decode {
    const FORMAT: Format;
    /// Storage bytes of a whole group.
    const BYTES: usize = 256 / Self::FORMAT.block() * Self::FORMAT.block_bytes();

    /// What the other functions need of the integer scales.
    unsafe fn scales(group: *const u8) -> Scales;

    /// The codes of block `block` (below 8): even columns, odd columns. Cheap when `block` is known at compile time.
    unsafe fn block(group: *const u8, scales: &Scales, block: usize) -> [__m256i; 2];

    /// What is added to the codes of [`Self::bytes`] to make them unsigned.
    const BIAS: i32 = 0;
    /// The largest of these bytes.
    const MOST: i32;

    /// Codes of block `block` before the integer scales, in column order, unsigned.
    unsafe fn bytes(group: *const u8, block: usize) -> __m256i;

    /// The integer scales of block `block` for its columns in order. Formats without them do not call this.
    unsafe fn byte_scales(scales: &Scales, block: usize) -> __m256i {
        let _ = block;
        *scales
    }

    /// The scale of run `run`, a lane for each of eight rows.
    unsafe fn run_scale(groups: &[*const u8; 8], run: usize) -> __m256;

    /// offset * step of the first `blocks` blocks (or half blocks, [`Format::has_half_offsets`]), a lane for each of
    /// eight rows. Formats without an offset write nothing.
    unsafe fn offsets(_groups: &[*const u8; 8], _scales: &[Scales; 8], _blocks: usize, _to: &mut Offsets) {}
}

/// [half block or block][row].
pub(super) type Offsets = [__m256; 16];

/// Whether pairs of products of bytes with 8-bit activations fit int16: `vpmaddubsw` saturates.
pub(super) const fn fits_pairs<D: Decode>() -> bool {
    D::MOST * 127 * 2 <= i16::MAX as i32
}

/// Offsets of a group with `blocks` blocks.
pub(super) const fn parts<D: Decode>(blocks: usize) -> usize {
    match (D::FORMAT.has_offset(), D::FORMAT.has_half_offsets()) {
        (false, _) => 0,
        (true, false) => blocks,
        (true, true) => 2 * blocks,
    }
}
