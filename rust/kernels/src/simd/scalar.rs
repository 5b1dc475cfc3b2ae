//! The reference: arrays of sixteen, in plain Rust.

use half::f16;

use super::{LANES, Simd};

#[derive(Clone, Copy)]
pub(super) struct Scalar;

type V = [f32; LANES];

#[inline(always)]
fn zip(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Scalar {
    type V = V;

    const MANY: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> V {
        let from = &from[..LANES];
        std::array::from_fn(|i| from[i])
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16]) -> V {
        let from = &from[..LANES];
        std::array::from_fn(|i| from[i].to_f32())
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8]) -> V {
        let from = &from[..LANES];
        std::array::from_fn(|i| f32::from(from[i]))
    }

    #[inline(always)]
    fn store(self, v: V, to: &mut [f32]) {
        to[..LANES].copy_from_slice(&v);
    }

    #[inline(always)]
    fn store_f16(self, v: V, to: &mut [f16]) {
        for (to, v) in to[..LANES].iter_mut().zip(v) {
            *to = f16::from_f32(v);
        }
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn greater(self, a: V, b: V) -> u32 {
        (0..LANES).map(|i| u32::from(a[i] > b[i]) << i).sum()
    }

    #[inline(always)]
    fn sqrt(self, a: V) -> V {
        a.map(f32::sqrt)
    }

    #[inline(always)]
    fn pick(self, a: V, b: V, x: V, y: V) -> V {
        std::array::from_fn(|i| if a[i] > b[i] { x[i] } else { y[i] })
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [V; LANES]) {
        let from = *rows;
        for (i, row) in rows.iter_mut().enumerate() {
            for (to, from) in row.iter_mut().zip(&from) {
                *to = from[i];
            }
        }
    }

    #[inline(always)]
    fn store_bytes(self, v: V, to: &mut [u8]) {
        for (to, v) in to[..LANES].iter_mut().zip(v) {
            *to = v as i32 as u8;
        }
    }

    #[inline(always)]
    fn zero_below(self, x: V, limit: f32, y: V) -> V {
        zip(x, y, |x, y| if x < limit { 0.0 } else { y })
    }

    #[inline(always)]
    fn exp2_integral(self, n: V) -> V {
        n.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn prefetch(self, _memory: &[u8], _at: usize) {}
}
