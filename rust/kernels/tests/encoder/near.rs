//! What the encoder's regions compute, in f64, with a bound on the error of the computed f32.
//!
//! U is half of epsilon: the most that one rounding changes, relative to its result. Bounds are of first order in U
//! where a few roundings to spare cover the rest.

use std::ops::Add;

use ostro_kernels::kv::PAGE;
use ostro_kernels::matmul::Precision;
use ostro_kernels::regions::LayerNorm;

const U: f64 = f32::EPSILON as f64 / 2.0;

/// Factor on the product of a query and a key.
pub const SCALE: f32 = 0.3;

/// A value, and how far the computed one may be from it.
#[derive(Clone, Copy, Debug)]
pub struct Near {
    value: f64,
    bound: f64,
}

impl Near {
    pub fn holds(self, computed: f32) -> bool {
        (f64::from(computed) - self.value).abs() <= self.bound
    }

    /// No computed value is larger.
    fn most(self) -> f64 {
        self.value.abs() + self.bound
    }
}

impl From<f32> for Near {
    fn from(x: f32) -> Self {
        Self { value: f64::from(x), bound: 0.0 }
    }
}

impl Add<f32> for Near {
    type Output = Self;

    /// Rounded once.
    fn add(self, x: f32) -> Self {
        let sum = Self { value: self.value + f64::from(x), ..self };
        Self { bound: sum.bound + U * sum.most(), ..sum }
    }
}

/// `LayerNorm` of a row.
///
/// The mean is off by `shift`: its partial sums round n / 16 + 5 times, itself once. Differences carry that and one
/// rounding; their squares, about the shifted mean, add up to n (variance + shift^2), with k + 2 roundings.
pub fn normed(x: &[f32], norm: LayerNorm<'_>) -> Vec<Near> {
    let (n, roundings) = (x.len() as f64, (x.len() / 16 + 6) as f64 * U);
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let size = x.iter().map(|&x| f64::from(x).abs()).sum::<f64>() / n;
    let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
    let shift = roundings * size + U * mean.abs();
    let square = variance + f64::from(norm.eps);
    let scale = 1.0 / square.sqrt();
    let scale_bound = scale * (((roundings + 2.0 * U) * variance + 1.01 * shift * shift) / (2.0 * square) + 2.0 * U);
    let one = |((&x, &weight), &bias): ((&f32, &f32), &f32)| {
        let difference = f64::from(x) - mean;
        let bound = shift + U * (difference.abs() + shift);
        let scaled = difference * scale;
        let bound = bound * (scale + scale_bound) + difference.abs() * scale_bound;
        let scaled = Near { value: scaled, bound: bound + U * (scaled.abs() + bound) };
        let weight = f64::from(weight);
        Near { value: scaled.value * weight, bound: scaled.bound * weight.abs() } + bias
    };
    x.iter().zip(norm.weight).zip(norm.bias).map(one).collect()
}

/// A row of weights times a row of inputs.
///
/// Integer codes of inputs are off by half a step of their block, and by roundings of step and value (8 U of the
/// largest). One of eight partial sums rounds once per term; three more add them up.
pub fn product(weights: &[f32], x: &[Near], codes: Option<Precision>) -> Near {
    let (mut value, mut bound, mut magnitude) = (0.0, 0.0, 0.0);
    for (weights, x) in weights.chunks(32).zip(x.chunks(32)) {
        let most = x.iter().map(|x| x.most()).fold(0.0, f64::max);
        let step = codes.map_or(0.0, |codes| most * (0.5 / f64::from(codes.max_code()) + 8.0 * U));
        for (&weight, x) in weights.iter().zip(x) {
            let weight = f64::from(weight);
            value += weight * x.value;
            bound += weight.abs() * (x.bound + step);
            magnitude += weight.abs() * (x.most() + step);
        }
    }
    Near { value, bound: bound + (weights.len() / 8 + 7) as f64 * U * magnitude }
}

/// `gelu_tanh`, whose slope is below 1.13; its own error as `ostro_kernels::gelu` promises.
pub fn gelu(x: Near) -> Near {
    let g = x.value;
    let z = (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044_715 * g * g * g);
    let value = 0.5 * g * (1.0 + z.tanh());
    let carried = 1.13 * x.bound;
    Near { value, bound: carried + (2e-6 * (value.abs() + carried)).max(1e-6) }
}

/// Attention of one row's heads, q [heads * dim], to all keys and values [length, heads * dim].
///
/// A score rounds dim + 1 times, and once more as a difference to the maximum; that counts twice, since the maximum is
/// a score. Every page and every span changes the maximum once: one exponential (within 2e-7) and three roundings; all
/// those differences together round no more than one from the least score to the largest. Sums round once per key. All
/// that concerns numerator and denominator alike.
pub fn attention(q: &[f32], heads: usize, keys: &[f32], values: &[f32]) -> Vec<Near> {
    let dim = q.len() / heads;
    let length = keys.len() / q.len();
    let folds = (length.div_ceil(PAGE) + length / 256 + 2) as f64;
    let mut out = Vec::with_capacity(q.len());
    for (head, q) in q.chunks_exact(dim).enumerate() {
        let term = |key: usize, d: usize| {
            f64::from(q[d]) * f64::from(SCALE) * f64::from(keys[key * heads * dim + head * dim + d])
        };
        let scores: Vec<f64> = (0..length).map(|key| (0..dim).map(|d| term(key, d)).sum()).collect();
        let sizes = (0..length).map(|key| (0..dim).map(|d| term(key, d).abs()).sum::<f64>());
        let size = sizes.fold(0.0, f64::max);
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
        let total: f64 = weights.iter().sum();
        let weight = U * (2.0 * (dim + 2) as f64 + 4.0) * size + folds * (2e-7 + 3.0 * U);
        let relative = 2.0 * (weight + (length + 4) as f64 * U);
        for d in 0..dim {
            let terms =
                (0..length).map(|key| weights[key] / total * f64::from(values[key * heads * dim + head * dim + d]));
            let (value, magnitude) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            out.push(Near { value, bound: relative * magnitude });
        }
    }
    out
}
