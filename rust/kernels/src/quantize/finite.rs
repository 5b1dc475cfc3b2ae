//! Rows with infinities or NaN.

use crate::simd::{Kernel, LANES, Simd};

/// Finds the first such row.
pub(super) struct NotFinite<'a> {
    pub rows: &'a [f32],
    pub cols: usize,
}

impl Kernel for NotFinite<'_> {
    type Output = Option<usize>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Option<usize> {
        let zero = s.splat(0.0);
        for (index, row) in self.rows.chunks_exact(self.cols).enumerate() {
            // 0 times what is not finite is NaN, and stays so in a sum.
            let mut sum = zero;
            for part in row.chunks(LANES) {
                sum = s.mul_add(s.load_part(part), zero, sum);
            }
            if s.sum(sum).is_nan() {
                return Some(index);
            }
        }
        None
    }
}
