//! `LayerNorm` (in `layer.rs`) and `RMSNorm`: x / sqrt(mean(x^2) + eps) * weight.
//!
//! Order: element i is squared into partial sum i mod 16 by one fused multiply-add; these are added as in
//! `Simd::sum`. Mean and root are taken in f64 and rounded once. An
//! element is (x * scale) * weight, in this order; `add_norm` fuses the last product with the addition.

#![allow(clippy::inline_always, reason = "only what is inlined into `dispatch` is compiled for its instruction set")]

mod layer;

use crate::isa::Isa;
use crate::simd::{Kernel, LANES, Simd, dispatch};

pub use layer::layer_norm;

/// out = norm(x). All three slices have the same length.
///
/// # Panics
/// When the lengths differ.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len(), "lengths of x, weight and out differ");
    dispatch(isa, Norm { x, weight, eps, out });
}

/// heads = norm(head) for each head of `weight.len()` values, in place; its length is a multiple of that.
///
/// # Panics
/// When `heads` does not consist of whole heads.
pub fn rms_norm_heads(isa: Isa, heads: &mut [f32], weight: &[f32], eps: f32) {
    assert!(
        !weight.is_empty() && heads.len().is_multiple_of(weight.len()),
        "{} values are no whole heads",
        heads.len()
    );
    for head in heads.chunks_exact_mut(weight.len()) {
        dispatch(isa, NormInPlace { x: head, weight, eps });
    }
}

/// x += norm(h). All three slices have the same length.
///
/// # Panics
/// When the lengths differ.
pub fn add_norm(isa: Isa, x: &mut [f32], h: &[f32], weight: &[f32], eps: f32) {
    assert!(x.len() == weight.len() && x.len() == h.len(), "lengths of x, h and weight differ");
    dispatch(isa, AddNorm { x, h, weight, eps });
}

struct Norm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

struct NormInPlace<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

struct AddNorm<'a> {
    x: &'a mut [f32],
    h: &'a [f32],
    weight: &'a [f32],
    eps: f32,
}

#[inline(always)]
fn scale<S: Simd>(s: S, x: &[f32], eps: f32) -> S::V {
    let mut sum = s.splat(0.0);
    for part in x.chunks(LANES) {
        let part = s.load_part(part);
        sum = s.mul_add(part, part, sum);
    }
    let mean = f64::from(s.sum(sum)) / x.len().max(1) as f64;
    s.splat((1.0 / (mean + f64::from(eps)).sqrt()) as f32)
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = scale(s, self.x, self.eps);
        let parts = self.x.chunks(LANES).zip(self.weight.chunks(LANES)).zip(self.out.chunks_mut(LANES));
        for ((x, weight), out) in parts {
            s.store_part(s.mul(s.mul(s.load_part(x), scale), s.load_part(weight)), out);
        }
    }
}

impl Kernel for NormInPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = scale(s, self.x, self.eps);
        for (x, weight) in self.x.chunks_mut(LANES).zip(self.weight.chunks(LANES)) {
            s.store_part(s.mul(s.mul(s.load_part(x), scale), s.load_part(weight)), x);
        }
    }
}

impl Kernel for AddNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = scale(s, self.h, self.eps);
        for ((x, h), weight) in self.x.chunks_mut(LANES).zip(self.h.chunks(LANES)).zip(self.weight.chunks(LANES)) {
            let sum = s.mul_add(s.mul(s.load_part(h), scale), s.load_part(weight), s.load_part(x));
            s.store_part(sum, x);
        }
    }
}

#[cfg(test)]
mod tests;
