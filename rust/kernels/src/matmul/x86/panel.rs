//! Sixteen weight rows unpacked for the GEMM: four columns of a row are one 32-bit lane, rows are lanes.

use core::arch::x86_64::*;

use crate::formats::{BLOCK, Weights};
use crate::matmul::LANES;

use super::gemv::decode_cut;
use super::lanes::{each8, transpose, widen_signed};
use super::octet::{Decode, Octet, Sum};

/// Rows of a panel.
pub(super) const ROWS: usize = 16;

/// Eight blocks of sixteen rows. Fields that a format does not use are left as they were.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Octets {
    /// [block][four columns][row] -> 4 codes.
    pub codes: [[Lines; 8]; LANES],
    /// [block][two columns][row] -> 2 codes as int16, bias and integer scales applied; instead of `codes` where WIDE.
    pub wide: [[Lines; 16]; LANES],
    /// [block][row], f32.
    pub scale: [Lines; LANES],
    /// [block][row], f32.
    pub offset: [Lines; LANES],
    /// [block][half][row] -> the half's integer scale twice (int16), for `Sum::Halves`.
    pub pairs: [[Lines; 2]; LANES],
    /// [block][row] -> BIAS times both integer scales (int16).
    pub bias: [Lines; LANES],
    /// [block][row] -> both steps (int16).
    pub steps: [Lines; LANES],
}

/// 32 bits for each row of a panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Lines([[u8; 32]; 2]);

impl Lines {
    /// Rows 0..8 or 8..16.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn load(&self, half: usize) -> __m256i {
        // SAFETY: the array has 32 bytes, 32-byte aligned.
        unsafe { _mm256_load_si256(self.0[half].as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn store(&mut self, half: usize, v: __m256i) {
        // SAFETY: the array has 32 bytes, 32-byte aligned.
        unsafe { _mm256_store_si256(self.0[half].as_mut_ptr().cast(), v) }
    }
}

const EMPTY: Lines = Lines([[0; 32]; 2]);
const NO_OCTETS: Octets = Octets {
    codes: [[EMPTY; 8]; LANES],
    wide: [[EMPTY; 16]; LANES],
    scale: [EMPTY; LANES],
    offset: [EMPTY; LANES],
    pairs: [[EMPTY; 2]; LANES],
    bias: [EMPTY; LANES],
    steps: [EMPTY; LANES],
};

/// A panel of any number of columns; memory is kept.
#[derive(Default)]
pub(super) struct Panel {
    octets: Vec<Octets>,
}

impl Panel {
    /// Unpacks rows `first..first + count` (at most 16). Lanes of absent rows hold anything.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn unpack<D: Decode, const WIDE: bool>(
        &mut self,
        weights: &Weights<'_>,
        first: usize,
        count: usize,
    ) -> &[Octets] {
        let blocks = weights.cols() / BLOCK;
        let octets = blocks.div_ceil(LANES);
        let row_bytes = weights.row(first).len();
        if self.octets.len() < octets {
            self.octets.resize(octets, NO_OCTETS);
        }
        for half in 0..count.div_ceil(8) {
            // Absent rows repeat the last one: their results are never written.
            let rows = each8!(|J| weights.rows_from(first + (8 * half + J).min(count - 1)));
            for (o, octet) in self.octets[..octets].iter_mut().enumerate() {
                for row in rows {
                    // The same place of the next panel: it arrives while this one is used.
                    let next = row.as_ptr().wrapping_add(o * D::BYTES + ROWS * row_bytes);
                    for line in 0..D::BYTES.div_ceil(64) {
                        _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(64 * line).cast());
                    }
                }
                let decoded = each8!(|J| decode_cut::<D>(&rows[J][o * D::BYTES..]));
                store::<D, WIDE>(octet, &decoded, half);
            }
        }
        &self.octets[..octets]
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store<D: Decode, const WIDE: bool>(octet: &mut Octets, rows: &[Octet; 8], half: usize) {
    for block in 0..LANES {
        if WIDE {
            store_wide::<D>(&mut octet.wide[block], rows, block, half);
            continue;
        }
        let columns = transpose(&each8!(|J| rows[J].codes[block]));
        for (lines, &codes) in octet.codes[block].iter_mut().zip(&columns) {
            lines.store(half, codes);
        }
    }
    let scale = transpose(&each8!(|J| _mm256_castps_si256(rows[J].scale)));
    for (lines, &v) in octet.scale.iter_mut().zip(&scale) {
        lines.store(half, v);
    }
    if D::OFFSET {
        let offset = transpose(&each8!(|J| _mm256_castps_si256(rows[J].offset)));
        for (lines, &v) in octet.offset.iter_mut().zip(&offset) {
            lines.store(half, v);
        }
    }
    if D::STEPS {
        let steps = transpose(&each8!(|J| rows[J].steps));
        for (lines, &v) in octet.steps.iter_mut().zip(&steps) {
            lines.store(half, v);
        }
    }
    if D::SUM == Sum::Halves && !WIDE {
        let pairs = transpose(&each8!(|J| rows[J].pairs));
        for (block, &v) in pairs.iter().enumerate() {
            let (low, high) = (_mm256_set1_epi32(0xffff), _mm256_srli_epi32::<16>(v));
            let low = _mm256_and_si256(v, low);
            octet.pairs[block][0].store(half, _mm256_or_si256(low, _mm256_slli_epi32::<16>(low)));
            octet.pairs[block][1].store(half, _mm256_or_si256(high, _mm256_slli_epi32::<16>(high)));
            octet.bias[block].store(half, _mm256_mullo_epi16(v, _mm256_set1_epi16(D::BIAS)));
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store_wide<D: Decode>(lines: &mut [Lines; 16], rows: &[Octet; 8], block: usize, half: usize) {
    for part in 0..2 {
        let columns = transpose(&each8!(|J| wide_codes::<D>(&rows[J], block, part)));
        for (lines, &codes) in lines[8 * part..].iter_mut().zip(&columns) {
            lines.store(half, codes);
        }
    }
}

/// Sixteen weights of a block as int16: (code - BIAS) times the half block's integer scale.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn wide_codes<D: Decode>(row: &Octet, block: usize, part: usize) -> __m256i {
    if D::SUM == Sum::Signed {
        return widen_signed(row.codes[block], part);
    }
    let bytes = row.codes[block];
    let bytes = if part == 0 { _mm256_castsi256_si128(bytes) } else { _mm256_extracti128_si256::<1>(bytes) };
    let codes = _mm256_sub_epi16(_mm256_cvtepu8_epi16(bytes), _mm256_set1_epi16(D::BIAS));
    let pair = _mm256_permutevar8x32_epi32(row.pairs, _mm256_set1_epi32(block as i32));
    let scale = _mm256_shuffle_epi8(pair, _mm256_set1_epi16(if part == 0 { 0x0100 } else { 0x0302 }));
    _mm256_mullo_epi16(codes, scale)
}
