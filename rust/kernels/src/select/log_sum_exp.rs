//! log(sum(exp(x))) of a row.
//!
//! Order: exponentials of x - max in f32; within a block of 128, element i joins partial sum i mod 16;
//! these are added as in [`Simd::sum`]; blocks are added up in f64.

use crate::isa::Isa;
use crate::simd::{Kernel, LANES, Simd, dispatch, exp};

const BLOCK: usize = 128;

/// log(sum(exp(row))): within 1e-6; -inf for an empty row or one of -inf only, NaN if there is a NaN.
#[must_use]
pub fn log_sum_exp(isa: Isa, row: &[f32]) -> f64 {
    let most = dispatch(isa, Largest(row));
    if most.is_infinite() {
        return if row.iter().any(|x| x.is_nan()) { f64::NAN } else { f64::from(most) };
    }
    f64::from(most) + dispatch(isa, SumExp { row, most }).ln()
}

/// The largest element that is not NaN, -inf if there is none.
struct Largest<'a>(&'a [f32]);

impl Kernel for Largest<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut most = [s.splat(f32::NEG_INFINITY); 4];
        let blocks = self.0.chunks_exact(4 * LANES);
        let tail = blocks.remainder();
        for block in blocks {
            for (most, part) in most.iter_mut().zip(block.chunks_exact(LANES)) {
                *most = s.max(s.load(part), *most);
            }
        }
        let [a, b, c, d] = most;
        let body = s.largest(s.max(s.max(a, b), s.max(c, d)));
        tail.iter().fold(body, |most, &x| if x > most { x } else { most })
    }
}

struct SumExp<'a> {
    row: &'a [f32],
    most: f32,
}

impl Kernel for SumExp<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let most = s.splat(self.most);
        let mut total = 0.0;
        let blocks = self.row.chunks_exact(BLOCK);
        let mut tail = [f32::NEG_INFINITY; BLOCK];
        tail[..blocks.remainder().len()].copy_from_slice(blocks.remainder());
        for block in blocks.chain(std::iter::once(&tail[..])) {
            let mut sum = s.splat(0.0);
            for part in block.chunks_exact(LANES) {
                sum = s.add(sum, exp(s, s.sub(s.load(part), most)));
            }
            total += f64::from(s.sum(sum));
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn naive(row: &[f32]) -> f64 {
        let most = row.iter().fold(f64::NEG_INFINITY, |most, &x| most.max(f64::from(x)));
        most + row.iter().map(|&x| (f64::from(x) - most).exp()).sum::<f64>().ln()
    }

    proptest! {
        #[test]
        fn close_to_f64_and_equal_on_every_isa(row in vec(-60.0f32..60.0, 1..1500), shift in -1e4f32..1e4) {
            let row: Vec<f32> = row.iter().map(|x| x + shift).collect();
            let want = log_sum_exp(Isa::Scalar, &row);
            prop_assert!((want - naive(&row)).abs() <= 1e-6, "{want} {}", naive(&row));
            for isa in Isa::available() {
                prop_assert_eq!(log_sum_exp(isa, &row).to_bits(), want.to_bits());
            }
        }
    }

    #[test]
    fn a_flat_vocabulary_and_the_ends() {
        for isa in Isa::available() {
            assert!((log_sum_exp(isa, &vec![3.25; 262_144]) - 3.25 - 262_144f64.ln()).abs() <= 1e-6);
            assert_eq!(log_sum_exp(isa, &[]), f64::NEG_INFINITY);
            assert_eq!(log_sum_exp(isa, &[f32::NEG_INFINITY; 40]), f64::NEG_INFINITY);
            assert_eq!(log_sum_exp(isa, &[1.0, f32::INFINITY]), f64::INFINITY);
            assert!(log_sum_exp(isa, &[1.0, f32::NAN, 2.0]).is_nan());
            assert!(log_sum_exp(isa, &[f32::NAN; 3]).is_nan());
        }
    }
}
