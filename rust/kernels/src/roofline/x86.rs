//! Multiply-accumulate instructions of x86-64, in loops that touch nothing but registers.

use std::arch::asm;
use std::arch::x86_64::{
    __m256i, __m512i, _mm256_add_epi16, _mm256_add_epi32, _mm256_fmadd_ps, _mm256_madd_epi16, _mm256_maddubs_epi16,
    _mm256_set1_epi8, _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm512_add_epi16, _mm512_add_epi32,
    _mm512_dpbusd_epi32, _mm512_dpwssd_epi32, _mm512_fmadd_ps, _mm512_madd_epi16, _mm512_maddubs_epi16,
    _mm512_set1_epi8, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
};
use std::hint::black_box;

use super::{Chains, Family};
use crate::isa::Isa;
use crate::matmul::x86::amx::{PRODUCTS, multiply_registers};

/// Accumulators of a vector loop: 2 per cycle at a latency of 5 need 10, and 16 registers have room for two factors
/// and a product beside 12.
const CHAINS: usize = 12;

/// The loops that this CPU can run: all families, or nothing without AVX2 and FMA.
pub(super) fn available() -> Vec<Chains> {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
    let vnni = avx512 && is_x86_feature_detected!("avx512vnni");
    let chains =
        |family, instructions, lanes: usize, run| Chains { family, instructions, macs: (CHAINS * lanes) as u64, run };
    let mut found = Vec::new();
    if avx2 {
        found.push(chains(Family::F32, "vfmadd ymm", 8, f32_ymm));
        found.push(chains(Family::Int16, "vpmaddwd + vpaddd ymm", 16, int16_ymm));
        found.push(chains(Family::Int8, "vpmaddubsw + vpaddw ymm", 32, int8_ymm));
    }
    if avx512 {
        found.push(chains(Family::F32, "vfmadd zmm", 16, f32_zmm));
        found.push(chains(Family::Int16, "vpmaddwd + vpaddd zmm", 32, int16_zmm));
        found.push(chains(Family::Int8, "vpmaddubsw + vpaddw zmm", 64, int8_zmm));
    }
    if vnni {
        found.push(chains(Family::Int16, "vpdpwssd zmm", 32, int16_vnni));
        found.push(chains(Family::Int8, "vpdpbusd zmm", 64, int8_vnni));
    }
    if Isa::Amx.is_available() {
        let (macs, run) = (PRODUCTS as u64, multiply_registers as unsafe fn(u32));
        found.push(Chains { family: Family::Int8, instructions: "tdpbssd tmm", macs, run });
    }
    found
}

/// A loop `$name(steps)` that replaces each of `CHAINS` accumulators by `$step`.
macro_rules! chains {
    ($name:ident, $features:literal, $zero:expr, $factor:expr, |$sum:ident, $a:ident, $b:ident| $step:expr) => {
        #[target_feature(enable = $features)]
        fn $name(steps: u32) {
            #[allow(unused_mut, reason = "only some steps renew it")]
            let (mut $a, $b) = (black_box($factor), black_box($factor));
            let mut sums = [$zero; CHAINS];
            for _ in 0..steps {
                for sum in &mut sums {
                    let $sum = *sum;
                    *sum = $step;
                }
            }
            black_box(sums);
        }
    };
}

// Where the product is an instruction of its own, its factor must look new each time: else it is computed once.

#[target_feature(enable = "avx2")]
fn renew(value: &mut __m256i) {
    // SAFETY: no instruction at all; the register is only declared to be written.
    unsafe { asm!("/* {0} */", inout(ymm_reg) * value, options(nomem, nostack, preserves_flags)) };
}

#[target_feature(enable = "avx512f")]
fn renew_512(value: &mut __m512i) {
    // SAFETY: as above.
    unsafe { asm!("/* {0} */", inout(zmm_reg) * value, options(nomem, nostack, preserves_flags)) };
}

chains!(f32_ymm, "avx2,fma", _mm256_setzero_ps(), _mm256_set1_ps(1.0), |sum, a, b| _mm256_fmadd_ps(a, b, sum));
chains!(int16_ymm, "avx2", _mm256_setzero_si256(), _mm256_set1_epi8(1), |sum, a, b| {
    renew(&mut a);
    _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
});
chains!(int8_ymm, "avx2", _mm256_setzero_si256(), _mm256_set1_epi8(1), |sum, a, b| {
    renew(&mut a);
    _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, b))
});
chains!(f32_zmm, "avx512f", _mm512_setzero_ps(), _mm512_set1_ps(1.0), |sum, a, b| _mm512_fmadd_ps(a, b, sum));
chains!(int16_zmm, "avx512f,avx512bw", _mm512_setzero_si512(), _mm512_set1_epi8(1), |sum, a, b| {
    renew_512(&mut a);
    _mm512_add_epi32(sum, _mm512_madd_epi16(a, b))
});
chains!(int8_zmm, "avx512f,avx512bw", _mm512_setzero_si512(), _mm512_set1_epi8(1), |sum, a, b| {
    renew_512(&mut a);
    _mm512_add_epi16(sum, _mm512_maddubs_epi16(a, b))
});
chains!(int16_vnni, "avx512f,avx512bw,avx512vnni", _mm512_setzero_si512(), _mm512_set1_epi8(1), |sum, a, b| {
    _mm512_dpwssd_epi32(sum, a, b)
});
chains!(int8_vnni, "avx512f,avx512bw,avx512vnni", _mm512_setzero_si512(), _mm512_set1_epi8(1), |sum, a, b| {
    _mm512_dpbusd_epi32(sum, a, b)
});
