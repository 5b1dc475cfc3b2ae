//! A group of sixteen weight rows unpacked for the GEMM: two columns of a row are one 32-bit lane, rows are lanes.

use core::arch::x86_64::*;

use super::decode::{Decode, Offsets, Steps, codes, run_scale, steps};
use super::lanes::{each8, transpose};

mod strips;

/// Rows of a panel.
pub(super) const ROWS: usize = 16;

/// One group of sixteen rows: 8 KiB of codes, which stay in the L1 cache while all tokens pass. What a format does not
/// use, or a short group does not have, is left as it was.
#[repr(C, align(64))]
pub(super) struct Panel {
    /// [two columns][row] -> 2 codes as int16, or [four columns][row] -> 4 unsigned bytes (the first half of it).
    pub codes: [Lines; 128],
    /// [block or half block][row] -> the integer scale twice, int16, or once and zero ([`super::gemm::Kernel::ONCE`]); with
    /// bytes only.
    pub integers: [Lines; 16],
    /// [run][row], f32.
    pub scales: [Lines; 8],
    /// [block][row], f32; in formats with steps the first one only.
    pub offsets: [Lines; 8],
    /// [block or half block][row], f32; with bytes [two of them][row], int16.
    pub steps: [Lines; 16],
}

/// 32 bits for each row of a panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Lines([[u8; 32]; 2]);

impl Lines {
    const EMPTY: Self = Self([[0; 32]; 2]);

    /// Rows 0..8 or 8..16.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn load(&self, half: usize) -> __m256i {
        // SAFETY: the array has 32 bytes, 32-byte aligned.
        unsafe { _mm256_load_si256(self.0[half].as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn load_f32(&self, half: usize) -> __m256 {
        _mm256_castsi256_ps(self.load(half))
    }

    /// All sixteen rows.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn load_all(&self) -> __m512i {
        // SAFETY: the array has 64 bytes, 64-byte aligned.
        unsafe { _mm512_load_si512(self.0.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store_all(&mut self, v: __m512i) {
        // SAFETY: the array has 64 bytes, 64-byte aligned.
        unsafe { _mm512_store_si512(self.0.as_mut_ptr().cast(), v) };
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn store(&mut self, half: usize, v: __m256i) {
        // SAFETY: the array has 32 bytes, 32-byte aligned.
        unsafe { _mm256_store_si256(self.0[half].as_mut_ptr().cast(), v) }
    }
}

impl Default for Panel {
    fn default() -> Self {
        Self {
            codes: [Lines::EMPTY; 128],
            scales: [Lines::EMPTY; 8],
            offsets: [Lines::EMPTY; 8],
            steps: [Lines::EMPTY; 16],
            integers: [Lines::EMPTY; 16],
        }
    }
}

impl Panel {
    /// Unpacks `present` blocks of eight rows, the first half of the panel or the second: as bytes if NARROW, for
    /// activations of 8 bits. `once`: as `Kernel::ONCE`.
    ///
    /// # Safety
    /// Each of `groups` points to `present` blocks of a group of D.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn unpack<D: Decode, const NARROW: bool, const BYTES: bool>(
        &mut self,
        groups: &[*const u8; 8],
        present: usize,
        half: usize,
        once: bool,
    ) {
        // SAFETY: the caller's promise, here and below.
        let scales = each8!(|J| unsafe { D::scales(groups[J]) });
        each8!(|B| {
            if B < present && BYTES {
                // SAFETY: see above.
                let columns = transpose(&each8!(|J| unsafe { D::bytes(groups[J], B) }));
                self.store(8 * B, half, &columns);
            } else if B < present {
                // SAFETY: see above.
                let rows = each8!(|J| unsafe { codes::<D>(groups[J], scales[J], B) });
                for part in 0..2 {
                    let columns = transpose(&each8!(|J| rows[J][part]));
                    self.store(16 * B + 8 * part, half, &columns);
                }
            }
        });
        for run in 0..present / D::FORMAT.run(NARROW) {
            // SAFETY: see above.
            let scale = unsafe { run_scale::<D>(groups, run) };
            self.scales[run].store(half, _mm256_castps_si256(scale));
        }
        if BYTES && D::FORMAT.has_integer_scales() {
            self.store_integers::<D>(&scales, half, once);
        }
        if D::FORMAT.has_offset() {
            let mut offsets: Offsets = [_mm256_setzero_ps(); 8];
            // SAFETY: see above.
            unsafe { D::offsets(groups, present, &mut offsets) };
            for (line, offsets) in self.offsets.iter_mut().zip(offsets) {
                line.store(half, _mm256_castps_si256(offsets));
            }
        }
        if D::FORMAT.has_steps() {
            let mut all: Steps = [_mm256_setzero_si256(); 16];
            // SAFETY: see above.
            unsafe { D::steps(groups, &scales, &mut all) };
            if BYTES {
                for (line, &[first, second]) in self.steps.iter_mut().zip(all[..steps::<D>()].as_chunks().0) {
                    line.store(half, _mm256_or_si256(first, _mm256_slli_epi32::<16>(second)));
                }
            } else {
                for (line, &steps) in self.steps.iter_mut().zip(&all[..steps::<D>()]) {
                    line.store(half, _mm256_castps_si256(_mm256_cvtepi32_ps(steps)));
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn store(&mut self, first: usize, half: usize, columns: &[__m256i; 8]) {
        for (lines, &codes) in self.codes[first..first + 8].iter_mut().zip(columns) {
            lines.store(half, codes);
        }
    }

    /// Pairs of scales, of two half blocks or two blocks, become lines of either.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn store_integers<D: Decode>(&mut self, scales: &[__m256i; 8], half: usize, once: bool) {
        let count = if D::FORMAT.has_half_scales() { 16 } else { 8 };
        let low = _mm256_set1_epi32(0xffff);
        for (pair, &v) in transpose(scales)[..count / 2].iter().enumerate() {
            let (first, second) = (_mm256_and_si256(v, low), _mm256_srli_epi32::<16>(v));
            for (part, scale) in [first, second].into_iter().enumerate() {
                let above = if once { _mm256_setzero_si256() } else { _mm256_slli_epi32::<16>(scale) };
                self.integers[2 * pair + part].store(half, _mm256_or_si256(scale, above));
            }
        }
    }
}
