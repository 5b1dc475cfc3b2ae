//! What the kernels know of a format: how a group of a row (256 weights, fewer at the end of a row) becomes integers.

use core::arch::x86_64::*;

use crate::formats::{BLOCK, Format};
use crate::matmul::LANES;
use crate::matmul::codes::Group;

use super::lanes::{gather_f16, widen, widen_signed};

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

    /// Where the scale is in a storage block.
    const SCALE: usize = 0;
    /// Whether sixteen rows are strips of two planes: they have codes and scales of their own, and biases for each row.
    const IN_PLANES: bool = false;
    /// What is added to the codes of [`Self::bytes`] to make them unsigned.
    const BIAS: i32 = 0;
    /// The largest of these bytes.
    const MOST: i32;

    /// The integer scales; anything in formats without them.
    unsafe fn scales(group: *const u8) -> Scales;

    /// Codes of block `block` (below 8) before the integer scales, in column order, unsigned. Cheap when `block` is
    /// known at compile time.
    unsafe fn bytes(group: *const u8, block: usize) -> __m256i;

    /// [`Self::bytes`] of blocks `2 * pair` and `2 * pair + 1`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
    unsafe fn pair(group: *const u8, pair: usize) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { both(Self::bytes(group, 2 * pair), Self::bytes(group, 2 * pair + 1)) }
    }

    /// The scale at byte `at` of each of eight groups: an f16 if nothing else is said.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scale(groups: &[*const u8; 8], at: usize) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { gather_f16(groups, at) }
    }

    /// Offsets of the first `blocks` blocks, a lane for each of eight rows; only the first one, which all share, in formats
    /// with steps. Formats without an offset write nothing.
    unsafe fn offsets(_groups: &[*const u8; 8], _blocks: usize, _to: &mut Offsets) {}

    /// Steps of the blocks (or half blocks, [`Format::has_half_offsets`]) of a whole group, a lane for each of eight rows.
    /// Formats without them write nothing.
    unsafe fn steps(_groups: &[*const u8; 8], _scales: &[Scales; 8], _to: &mut Steps) {}
}

#[inline]
#[target_feature(enable = "avx512f,avx2")]
pub(super) fn both(low: __m256i, high: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// [block][row].
pub(super) type Offsets = [__m256; 8];

/// [half block or block][row], int32.
pub(super) type Steps = [__m256i; 16];

/// The codes of block `block`, bias and integer scales applied: even columns, odd columns.
///
/// # Safety
/// As for the functions of [`Decode`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn codes<D: Decode>(group: *const u8, scales: Scales, block: usize) -> [__m256i; 2] {
    // SAFETY: the caller's promise.
    let bytes = unsafe { D::bytes(group, block) };
    scaled::<D>(bytes, if D::FORMAT.has_integer_scales() { column_scales::<D>(scales, block) } else { scales })
}

/// Bytes with their bias taken off, times int16 scales if the format has them: even columns, odd columns.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scaled<D: Decode>(bytes: __m256i, scale: __m256i) -> [__m256i; 2] {
    let codes =
        if D::BIAS == 0 { widen(bytes) } else { widen_signed(_mm256_sub_epi8(bytes, _mm256_set1_epi8(D::BIAS as i8))) };
    if !D::FORMAT.has_integer_scales() {
        return codes;
    }
    [_mm256_mullo_epi16(codes[0], scale), _mm256_mullo_epi16(codes[1], scale)]
}

/// The integer scales of the columns of a block, in pairs of columns, or of every other column: halves of the block
/// are halves of the vector in each case.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn column_scales<D: Decode>(scales: Scales, block: usize) -> __m256i {
    if D::FORMAT.has_half_scales() {
        let pair = _mm256_permutevar8x32_epi32(scales, _mm256_set1_epi32(block as i32));
        let (first, second) = (0x0100_0100_0100_0100, 0x0302_0302_0302_0302);
        _mm256_shuffle_epi8(pair, _mm256_setr_epi64x(first, first, second, second))
    } else {
        let word = 0x0100 + 0x0202 * block as i16;
        let blocks = _mm256_permute4x64_epi64::<0x44>(scales);
        _mm256_shuffle_epi8(blocks, _mm256_set1_epi16(word))
    }
}

/// The scale of run `run`, a lane for each of eight rows.
///
/// # Safety
/// As for the functions of [`Decode`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run_scale<D: Decode>(groups: &[*const u8; 8], run: usize) -> __m256 {
    // All runs of a K-quant's group lie in its one storage block; elsewhere each block is a run.
    let storage = run * BLOCK / D::FORMAT.block();
    // SAFETY: the caller's promise.
    unsafe { D::scale(groups, storage * D::FORMAT.block_bytes() + D::SCALE) }
}

/// Whether pairs of products of bytes with 8-bit activations fit int16: `vpmaddubsw` saturates.
pub(super) const fn fits_pairs<D: Decode>() -> bool {
    D::MOST * 127 * 2 <= i16::MAX as i32
}

/// Quads of columns whose products with codes of activations up to `largest` fit int16 together, and share an integer scale.
pub(super) const fn quads_of_sum<D: Decode>(largest: i32) -> usize {
    let most = if D::FORMAT.has_half_scales() { 4 } else { 8 };
    let mut quads = 2;
    while quads < most && 2 * quads as i32 * 2 * largest * D::MOST <= i16::MAX as i32 {
        quads *= 2;
    }
    quads
}

/// Offsets that a group with `blocks` blocks has, apart from steps.
pub(super) const fn offsets<D: Decode>(blocks: usize) -> usize {
    if D::FORMAT.has_offset() && !D::FORMAT.has_steps() { blocks } else { 0 }
}

/// Steps of a group.
pub(super) const fn steps<D: Decode>() -> usize {
    match (D::FORMAT.has_steps(), D::FORMAT.has_half_offsets()) {
        (false, _) => 0,
        (true, false) => LANES,
        (true, true) => 2 * LANES,
    }
}

/// The sum of codes that steps `part` are multiplied with.
#[inline]
pub(super) fn sum_of<D: Decode>(x: &Group, part: usize) -> f32 {
    if D::FORMAT.has_half_offsets() { x.halves[part] } else { x.blocks[part % LANES] }
}

/// Which integer scale belongs to each pair of columns of blocks `2 * step` and `2 * step + 1`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn scale_places<D: Decode>(step: usize) -> __m512i {
    let places = if D::FORMAT.has_half_scales() { PLACES_OF_HALVES[step] } else { PLACES_OF_BLOCKS[step] };
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(places.as_ptr().cast()) }
}

const PLACES_OF_BLOCKS: [[u16; 32]; 4] = places(16);
const PLACES_OF_HALVES: [[u16; 32]; 4] = places(8);

/// [step][pair of columns], with a scale for `pairs` pairs.
const fn places(pairs: usize) -> [[u16; 32]; 4] {
    let mut places = [[0; 32]; 4];
    let mut at = 0;
    while at < 128 {
        places[at / 32][at % 32] = (at / pairs) as u16;
        at += 1;
    }
    places
}
