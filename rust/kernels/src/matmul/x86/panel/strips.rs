//! Panels out of strips: both halves of their rows at once, or one.

use core::arch::x86_64::*;

use crate::matmul::x86::decode::{offsets, steps};
use crate::matmul::x86::lanes::{each8, unrolled};
use crate::matmul::x86::strip::{At, Strip, ymm, zmm};

use super::Panel;

/// A method `$name` that unpacks, with the vectors and functions of `$lanes`; `$store` puts a vector into lines,
/// `$integer` makes an integer scale what the products read.
macro_rules! unpacks {
    ($(#[$doc:meta])* $name:ident($($half:ident)?), $vector:ty, $features:literal, $lanes:ident, $store:ident, $integer:ident) => {
        $(#[$doc])*
        #[target_feature(enable = $features)]
        pub(in crate::matmul::x86) unsafe fn $name<D: Strip<$vector>, const NARROW: bool, const BYTES: bool>(
            &mut self,
            at: At,
            present: usize,
            $($half: usize,)?
        ) {
            for base in (0..present).step_by(D::PERIOD) {
                each8!(|PHASE| {
                    if PHASE < D::PERIOD {
                        let block = base + PHASE;
                        each8!(|QUAD| {
                            // SAFETY: the caller's promise, here and below.
                            let codes = unsafe { D::codes(at, base, PHASE, QUAD) };
                            if BYTES {
                                self.codes[8 * block + QUAD].$store($($half,)? codes);
                            } else {
                                let part = if D::FORMAT.has_half_scales() { 2 * block + QUAD / 4 } else { block };
                                // SAFETY: see above.
                                let scale = $lanes::twice(unsafe { D::integer(at, part) });
                                let [even, odd] = $lanes::scaled::<D>(codes, scale);
                                self.codes[16 * block + QUAD].$store($($half,)? even);
                                self.codes[16 * block + 8 + QUAD].$store($($half,)? odd);
                            }
                        });
                    }
                });
            }
            for run in 0..present / D::FORMAT.run(NARROW) {
                // SAFETY: see above.
                self.scales[run].$store($($half,)? $lanes::bits(unsafe { D::run_scale(at, run) }));
            }
            if BYTES && D::FORMAT.has_integer_scales() {
                unrolled!(|J| if D::FORMAT.has_half_scales() { 16 } else { 8 } => {
                    // SAFETY: see above.
                    self.integers[J].$store($($half,)? $lanes::$integer(unsafe { D::integer(at, J) }));
                });
            }
            each8!(|B| if B < offsets::<D>(present) {
                // SAFETY: see above.
                self.offsets[B].$store($($half,)? $lanes::bits(unsafe { D::offset(at, B) }));
            });
            if D::FORMAT.has_steps() {
                // SAFETY: see above.
                self.offsets[0].$store($($half,)? $lanes::bits(unsafe { D::offset(at, 0) }));
                unrolled!(|J| steps::<D>() => {
                    // SAFETY: see above.
                    let step = unsafe { D::step(at, J) };
                    if !BYTES {
                        self.steps[J].$store($($half,)? $lanes::bits($lanes::floats(step)));
                    } else if J % 2 == 1 {
                        // SAFETY: see above.
                        let before = unsafe { D::step(at, J - J % 2) };
                        self.steps[J / 2].$store($($half,)? $lanes::pair(before, step));
                    }
                });
            }
        }
    };
}

impl Panel {
    unpacks!(
        /// As [`Self::unpack`], both halves at once, of a group of a strip.
        ///
        /// # Safety
        /// The CPU has AVX-512, and `at` is a group of D of `present` blocks.
        unpack_strip(), __m512i, "avx512f,avx512bw,avx2,fma,f16c", zmm, store_all, once
    );
    unpacks!(
        /// As [`Self::unpack`], of half of a group of a strip, with AVX2.
        ///
        /// # Safety
        /// `at` is that half of a group of D of `present` blocks.
        unpack_half_strip(half), __m256i, "avx2,fma,f16c", ymm, store, twice
    );
}
