//! Products of a few columns of eight or sixteen rows with codes of tokens, in AVX2.
//!
//! In assembly: compilers load the codes of many products before they multiply the first one, and put scales off, and then
//! keep all of them on the stack.

use core::arch::asm;
use core::arch::x86_64::*;

use super::lanes::each8;

/// Sums [token][half of the rows] of R halves.
pub(super) type Sums<const R: usize, const T: usize> = [[__m256i; R]; T];

/// A function that adds products, with an instruction that multiplies pairs, and one that adds. Instructions are
/// ordered for one half: broadcast, multiply, add; and for two, which share the broadcast.
macro_rules! adds {
    ($(#[$doc:meta])* $name:ident, $multiply:literal, $add:literal) => {
        $(#[$doc])*
        ///
        /// The `first` products replace the sums. The codes of a token are NEXT bytes behind those of the one before, the
        /// first ones at `codes + AT`; all rows meet the same ones.
        ///
        /// # Safety
        /// The CPU has AVX2, and there are codes of T tokens.
        #[inline]
        #[target_feature(enable = "avx2")]
        pub(super) unsafe fn $name<const R: usize, const T: usize, const NEXT: usize, const AT: usize>(
            sums: &mut Sums<R, T>,
            w: [__m256i; R],
            codes: *const i8,
            first: bool,
        ) {
            each8!(|K| if K < T {
                // SAFETY: the caller's promise.
                unsafe {
                    match (R, first) {
                        (1, true) => asm!(
                            "vpbroadcastd {a}, dword ptr [{codes} + {at}]",
                            concat!($multiply, " {a}, {w}, {a}"),
                            a = out(ymm_reg) sums[K][0], w = in(ymm_reg) w[0],
                            codes = in(reg) codes, at = const AT + K * NEXT,
                            options(readonly, nostack, preserves_flags)
                        ),
                        (1, false) => asm!(
                            "vpbroadcastd {x}, dword ptr [{codes} + {at}]",
                            concat!($multiply, " {x}, {w}, {x}"),
                            concat!($add, " {a}, {a}, {x}"),
                            a = inout(ymm_reg) sums[K][0], w = in(ymm_reg) w[0], x = out(ymm_reg) _,
                            codes = in(reg) codes, at = const AT + K * NEXT,
                            options(readonly, nostack, preserves_flags)
                        ),
                        (_, true) => asm!(
                            "vpbroadcastd {b}, dword ptr [{codes} + {at}]",
                            concat!($multiply, " {a}, {w}, {b}"),
                            concat!($multiply, " {b}, {v}, {b}"),
                            // Not one of the inputs: it is written before they are read.
                            a = out(ymm_reg) sums[K][0], b = out(ymm_reg) sums[K][R - 1],
                            w = in(ymm_reg) w[0], v = in(ymm_reg) w[R - 1],
                            codes = in(reg) codes, at = const AT + K * NEXT,
                            options(readonly, nostack, preserves_flags)
                        ),
                        (_, false) => asm!(
                            "vpbroadcastd {x}, dword ptr [{codes} + {at}]",
                            concat!($multiply, " {y}, {w}, {x}"),
                            concat!($multiply, " {x}, {v}, {x}"),
                            concat!($add, " {a}, {a}, {y}"),
                            concat!($add, " {b}, {b}, {x}"),
                            a = inout(ymm_reg) sums[K][0], b = inout(ymm_reg) sums[K][R - 1],
                            w = in(ymm_reg) w[0], v = in(ymm_reg) w[R - 1], x = out(ymm_reg) _, y = out(ymm_reg) _,
                            codes = in(reg) codes, at = const AT + K * NEXT,
                            options(readonly, nostack, preserves_flags)
                        ),
                    }
                }
            });
        }
    };
}

adds!(
    /// sums + products of bytes of four columns, unsigned ones of the weights, in pairs as int16.
    add_bytes,
    "vpmaddubsw",
    "vpaddw"
);
adds!(
    /// sums + products of int16 of two columns.
    add_words,
    "vpmaddwd",
    "vpaddd"
);

/// sums += pairs of int16 times the scale of their rows. More sums than registers have room for beside the pairs stay in
/// memory: compilers would rather keep some of the pairs there, which are used eight times as often.
///
/// # Safety
/// The CPU has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn add_scaled<const R: usize, const T: usize>(
    sums: &mut Sums<R, T>,
    pairs: &Sums<R, T>,
    scales: [__m256i; R],
) {
    each8!(|K| if K < T {
        for r in 0..R {
            // SAFETY: the caller's promise; the vectors in memory are whole ones, and aligned.
            unsafe {
                if R * T > 8 {
                    asm!("vpmaddwd {x}, {pairs}, {scale}",
                        "vpaddd {x}, {x}, ymmword ptr [{sum}]",
                        "vmovdqa ymmword ptr [{sum}], {x}",
                        x = out(ymm_reg) _, pairs = in(ymm_reg) pairs[K][r], scale = in(ymm_reg) scales[r],
                        sum = in(reg) &raw mut sums[K][r], options(nostack, preserves_flags));
                } else {
                    asm!("vpmaddwd {x}, {pairs}, {scale}",
                        "vpaddd {sum}, {sum}, {x}",
                        x = out(ymm_reg) _, pairs = in(ymm_reg) pairs[K][r], scale = in(ymm_reg) scales[r],
                        sum = inout(ymm_reg) sums[K][r], options(nomem, nostack, preserves_flags));
                }
            }
        }
    });
}
