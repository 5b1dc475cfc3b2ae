//! Rotary position embedding, rotate-half form.
//!
//! Pair (i, i + half) of a head is rotated by angle position * `inv_freq[i]`. Angles, cosines and sines are f64,
//! rounded once. Order: first' = fma(first, cos, -(second * sin)), second' = fma(second, cos, first * sin).

#![allow(clippy::inline_always, reason = "only what is inlined into `dispatch` is compiled for its instruction set")]

use crate::isa::Isa;
use crate::simd::{Kernel, LANES, Simd, dispatch};

/// One row of the table: cos(position * `inv_freq`), then sin; `out` has twice the length of `inv_freq`.
///
/// # Panics
/// When `out` has another length.
pub fn rope_row(position: i32, inv_freq: &[f64], out: &mut [f32]) {
    assert_eq!(out.len(), 2 * inv_freq.len(), "a row holds one cosine and one sine per frequency");
    let (cosines, sines) = out.split_at_mut(inv_freq.len());
    for ((cos, sin), freq) in cosines.iter_mut().zip(sines).zip(inv_freq) {
        let (s, c) = (f64::from(position) * freq).sin_cos();
        (*cos, *sin) = (c as f32, s as f32);
    }
}

/// The table [n, 2 * `inv_freq.len()`] of n positions.
///
/// # Panics
/// When `out` has another length.
pub fn rope_table(positions: &[i32], inv_freq: &[f64], out: &mut [f32]) {
    assert_eq!(out.len(), positions.len() * 2 * inv_freq.len(), "the table has one row per position");
    if !inv_freq.is_empty() {
        for (&position, row) in positions.iter().zip(out.chunks_exact_mut(2 * inv_freq.len())) {
            rope_row(position, inv_freq, row);
        }
    }
}

/// Rotates each head of one token in place. `row` is the token's row of the table; its length is that of a head.
///
/// # Panics
/// When a head has an odd length, or `heads` does not consist of whole heads.
pub fn rotate_heads(isa: Isa, heads: &mut [f32], row: &[f32]) {
    let width = row.len();
    assert!(
        width > 0 && width.is_multiple_of(2) && heads.len().is_multiple_of(width),
        "{} values are no whole heads",
        heads.len()
    );
    for head in heads.chunks_exact_mut(width) {
        dispatch(isa, Rotate { head, row });
    }
}

struct Rotate<'a> {
    head: &'a mut [f32],
    row: &'a [f32],
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let half = self.row.len() / 2;
        let (first, second) = self.head.split_at_mut(half);
        let (cos, sin) = self.row.split_at(half);
        let values = first.chunks_mut(LANES).zip(second.chunks_mut(LANES));
        for ((first, second), (cos, sin)) in values.zip(cos.chunks(LANES).zip(sin.chunks(LANES))) {
            let (a, b, cos, sin) = (s.load_part(first), s.load_part(second), s.load_part(cos), s.load_part(sin));
            let minus = s.sub(s.splat(-0.0), s.mul(b, sin));
            s.store_part(s.mul_add(a, cos, minus), first);
            s.store_part(s.mul_add(b, cos, s.mul(a, sin)), second);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rotates_by_the_angle_on_every_isa(
            position in 0i32..131_072,
            half in 1usize..70,
            heads in 1usize..4,
            values in vec(-30.0f32..30.0, 4 * 140),
        ) {
            let inv_freq: Vec<f64> = (0..half).map(|i| 1e6f64.powf(-(i as f64) / half as f64)).collect();
            let mut row = vec![0.0; 2 * half];
            rope_table(&[position], &inv_freq, &mut row);
            let input = &values[..heads * 2 * half];
            let mut want = input.to_vec();
            rotate_heads(Isa::Scalar, &mut want, &row);
            for (x, y) in input.chunks(2 * half).zip(want.chunks(2 * half)) {
                for i in 0..half {
                    let (sin, cos) = (f64::from(position) * inv_freq[i]).sin_cos();
                    let (a, b) = (f64::from(x[i]), f64::from(x[i + half]));
                    // Each term: cos or sin rounds once, the product once, the sum once.
                    let bound = 2.0 * f64::from(f32::EPSILON) * (a.abs() + b.abs());
                    prop_assert!((f64::from(y[i]) - (a * cos - b * sin)).abs() <= bound);
                    prop_assert!((f64::from(y[i + half]) - (b * cos + a * sin)).abs() <= bound);
                }
            }
            for isa in Isa::available() {
                let mut have = input.to_vec();
                rotate_heads(isa, &mut have, &row);
                prop_assert!(have.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
    }

    #[test]
    #[should_panic(expected = "7 values are no whole heads")]
    fn lengths_are_checked() {
        rotate_heads(Isa::Scalar, &mut [0.0; 7], &[0.0; 4]);
    }
}
