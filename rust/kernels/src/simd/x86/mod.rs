//! Vectors of x86-64, and which of them a CPU can run.

mod avx2;
mod avx512;

use super::{Kernel, scalar};

use avx2::Avx2;
use avx512::Avx512;

/// Runs `kernel` with AVX2 if this CPU has it.
#[inline]
pub(super) fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    // `Isa::Avx2` is a plain value that anybody can name, so this looks (at a cached word) before it leaps.
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
        // SAFETY: the CPU has the features.
        unsafe { with_avx2(kernel) }
    } else {
        kernel.run(scalar::Scalar)
    }
}

/// Runs `kernel` with AVX-512 if this CPU has it, else as [`run_avx2`] does.
#[inline]
pub(super) fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
    {
        // SAFETY: the CPU has the features; F is never without AVX2, FMA and F16C.
        unsafe { with_avx512(kernel) }
    } else {
        run_avx2(kernel)
    }
}

/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn with_avx2<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    kernel.run(unsafe { Avx2::new() })
}

/// # Safety
/// The CPU has AVX-512 F, BW, VL and DQ.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn with_avx512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    kernel.run(unsafe { Avx512::new() })
}
