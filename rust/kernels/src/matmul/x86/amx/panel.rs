//! A group of sixteen weight rows unpacked for the matrix unit: rows stay rows, codes become int8.

use core::arch::x86_64::*;

use super::transpose::transpose;
use crate::formats::BLOCK;
use crate::matmul::LANES;
use crate::matmul::tiled::{COLS, STEPS};
use crate::matmul::x86::decode::{Decode, Offsets, Steps, offsets, run_scale, scale_places, steps};
use crate::matmul::x86::lanes::{each8, store_f32, unrolled};
use crate::matmul::x86::strip::zmm::{self, scaled, twice};
use crate::matmul::x86::strip::{At, Strip};

/// Rows of a panel.
pub(super) const ROWS: usize = 16;

/// [64 columns][row][column]
pub(in crate::matmul::x86) type Plane = [[[i8; COLS]; ROWS]; STEPS];

/// One group of sixteen rows. A code is `128 * high + low`; formats without integer scales have no high plane. What a
/// format does not use, or a short group does not have, is left as it was.
#[repr(C, align(64))]
pub(in crate::matmul::x86) struct Panel {
    pub low: Plane,
    pub high: Plane,
    /// [run][row]
    pub scales: [[f32; ROWS]; LANES],
    /// [block][row]; in formats with steps the first one only.
    pub offsets: [[f32; ROWS]; LANES],
    /// [block or half block][row], for activations of 14 bits.
    pub steps: [[f32; ROWS]; 2 * LANES],
    /// [two of them][row], for activations of 8 bits: two 16-bit numbers.
    pub steps16: [[i32; ROWS]; LANES],
}

impl Default for Panel {
    fn default() -> Self {
        Self {
            low: [[[0; COLS]; ROWS]; STEPS],
            high: [[[0; COLS]; ROWS]; STEPS],
            scales: [[0.0; ROWS]; LANES],
            offsets: [[0.0; ROWS]; LANES],
            steps: [[0.0; ROWS]; 2 * LANES],
            steps16: [[0; ROWS]; LANES],
        }
    }
}

impl Panel {
    /// Unpacks `present` blocks of each row.
    ///
    /// # Safety
    /// Each of `groups` points to `present` blocks of a group of D.
    #[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
    pub(super) unsafe fn unpack<D: Decode, const NARROW: bool>(&mut self, groups: &[*const u8; ROWS], present: usize) {
        let mut scales = [_mm256_setzero_si256(); ROWS];
        for (row, &group) in groups.iter().enumerate() {
            // SAFETY: the caller's promise, here and below.
            unsafe {
                if D::FORMAT.has_integer_scales() {
                    scales[row] = D::scales(group);
                    self.unpack_scaled::<D>(group, scales[row], row);
                } else {
                    self.unpack_plain::<D>(group, present, row);
                }
            }
        }
        for (half, (groups, scales)) in groups.as_chunks::<8>().0.iter().zip(scales.as_chunks::<8>().0).enumerate() {
            for run in 0..present / D::FORMAT.run(NARROW) {
                // SAFETY: see above.
                let scale = unsafe { run_scale::<D>(groups, run) };
                store_f32(&mut self.scales[run].as_chunks_mut().0[half], scale);
            }
            if D::FORMAT.has_offset() {
                let mut offsets: Offsets = [_mm256_setzero_ps(); 8];
                // SAFETY: see above.
                unsafe { D::offsets(groups, present, &mut offsets) };
                for (row, offsets) in self.offsets.iter_mut().zip(offsets) {
                    store_f32(&mut row.as_chunks_mut().0[half], offsets);
                }
            }
            if D::FORMAT.has_steps() {
                let mut all: Steps = [_mm256_setzero_si256(); 16];
                // SAFETY: see above.
                unsafe { D::steps(groups, scales, &mut all) };
                for (index, &[first, second]) in all[..steps::<D>()].as_chunks().0.iter().enumerate() {
                    if NARROW {
                        let to = &mut self.steps16[index].as_chunks_mut::<8>().0[half];
                        // SAFETY: eight int32.
                        unsafe {
                            let pairs = _mm256_or_si256(first, _mm256_slli_epi32::<16>(second));
                            _mm256_storeu_si256(to.as_mut_ptr().cast(), pairs);
                        }
                    } else {
                        for (step, at) in [(first, 2 * index), (second, 2 * index + 1)] {
                            store_f32(&mut self.steps[at].as_chunks_mut().0[half], _mm256_cvtepi32_ps(step));
                        }
                    }
                }
            }
        }
    }

    /// As [`Self::unpack`], of a group of a strip.
    ///
    /// # Safety
    /// `at` is a group of D of `present` blocks.
    #[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
    pub(super) unsafe fn unpack_strip<D: Strip, const NARROW: bool>(&mut self, at: At, present: usize) {
        let seven = _mm512_set1_epi16(0x7f);
        let blocks_per_step = COLS / BLOCK;
        for base in (0..present).step_by(D::PERIOD.max(blocks_per_step)) {
            each8!(|S| {
                let first = base + blocks_per_step * S;
                if blocks_per_step * S < D::PERIOD.max(blocks_per_step) && first < present {
                    let mut low = [_mm512_setzero_si512(); ROWS];
                    let mut high = [_mm512_setzero_si512(); ROWS];
                    unrolled!(|Q| ROWS => {
                        const PHASE: usize = 2 * S + Q / 8;
                        let (base, phase) = (base + PHASE / D::PERIOD * D::PERIOD, PHASE % D::PERIOD);
                        if base + phase < present {
                            // SAFETY: the caller's promise, here and below.
                            let codes = unsafe { D::codes(at, base, phase, Q % 8) };
                            if D::FORMAT.has_integer_scales() {
                                let block = base + phase;
                                let part = if D::FORMAT.has_half_scales() { 2 * block + Q % 8 / 4 } else { block };
                                // SAFETY: see above.
                                let [even, odd] = scaled::<D>(codes, twice(unsafe { D::integer(at, part) }));
                                low[Q] = pair(_mm512_and_si512(even, seven), _mm512_and_si512(odd, seven));
                                high[Q] = pair(_mm512_srai_epi16::<7>(even), _mm512_srai_epi16::<7>(odd));
                            } else {
                                low[Q] = _mm512_sub_epi8(codes, _mm512_set1_epi8(D::BIAS as i8));
                            }
                        }
                    });
                    store_rows(&mut self.low[first / blocks_per_step], &low);
                    if D::FORMAT.has_integer_scales() {
                        store_rows(&mut self.high[first / blocks_per_step], &high);
                    }
                }
            });
        }
        for run in 0..present / D::FORMAT.run(NARROW) {
            // SAFETY: see above.
            store_floats(&mut self.scales[run], unsafe { D::run_scale(at, run) });
        }
        each8!(|B| if B < offsets::<D>(present) {
            // SAFETY: see above.
            store_floats(&mut self.offsets[B], unsafe { D::offset(at, B) });
        });
        if D::FORMAT.has_steps() {
            // SAFETY: see above.
            store_floats(&mut self.offsets[0], unsafe { D::offset(at, 0) });
            unrolled!(|J| steps::<D>() => {
                // SAFETY: see above.
                let step = unsafe { D::step(at, J) };
                if !NARROW {
                    store_floats(&mut self.steps[J], _mm512_cvtepi32_ps(step));
                } else if J % 2 == 1 {
                    // SAFETY: see above; sixteen int32.
                    unsafe {
                        let pairs = zmm::pair(D::step(at, J - J % 2), step);
                        _mm512_storeu_si512(self.steps16[J / 2].as_mut_ptr().cast(), pairs);
                    }
                }
            });
        }
    }

    /// # Safety
    /// `group` is a whole group of D.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
    unsafe fn unpack_scaled<D: Decode>(&mut self, group: *const u8, scales: __m256i, row: usize) {
        let scales = _mm512_castsi256_si512(scales);
        let seven = _mm512_set1_epi16(0x7f);
        each8!(|S| {
            if S < STEPS {
                // SAFETY: the caller's promise.
                let codes = unsafe { D::pair(group, S % STEPS) };
                let (even, odd) = if D::BIAS == 0 {
                    (_mm512_and_si512(codes, _mm512_set1_epi16(0xff)), _mm512_srli_epi16::<8>(codes))
                } else {
                    let codes = _mm512_sub_epi8(codes, _mm512_set1_epi8(D::BIAS as i8));
                    (_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(codes)), _mm512_srai_epi16::<8>(codes))
                };
                let scale = _mm512_permutexvar_epi16(scale_places::<D>(S), scales);
                let (even, odd) = (_mm512_mullo_epi16(even, scale), _mm512_mullo_epi16(odd, scale));
                let low = pair(_mm512_and_si512(even, seven), _mm512_and_si512(odd, seven));
                let high = pair(_mm512_srai_epi16::<7>(even), _mm512_srai_epi16::<7>(odd));
                store(&mut self.low[S % STEPS][row], low);
                store(&mut self.high[S % STEPS][row], high);
            }
        });
    }

    /// # Safety
    /// `group` points to `present` blocks of a group of D.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
    unsafe fn unpack_plain<D: Decode>(&mut self, group: *const u8, present: usize, row: usize) {
        each8!(|P| {
            if 2 * P < present {
                // SAFETY: the caller's promise. A row may end within a pair.
                let codes = unsafe {
                    if 2 * P + 1 < present { D::pair(group, P) } else { _mm512_zextsi256_si512(D::bytes(group, 2 * P)) }
                };
                store(&mut self.low[P % STEPS][row], _mm512_sub_epi8(codes, _mm512_set1_epi8(D::BIAS as i8)));
            }
        });
    }
}

/// Low bytes of even and odd columns, in column order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn pair(even: __m512i, odd: __m512i) -> __m512i {
    _mm512_mask_blend_epi8(0xaaaa_aaaa_aaaa_aaaa, even, _mm512_slli_epi16::<8>(odd))
}

/// Four columns of sixteen rows in each vector become rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn store_rows(to: &mut [[i8; COLS]; ROWS], quads: &[__m512i; ROWS]) {
    for (to, row) in to.iter_mut().zip(transpose(quads)) {
        store(to, row);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_floats(to: &mut [f32; ROWS], v: __m512) {
    // SAFETY: sixteen floats.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) };
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn store(to: &mut [i8; COLS], v: __m512i) {
    // SAFETY: 64 bytes.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), v) };
}
