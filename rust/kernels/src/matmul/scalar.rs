//! The products in plain loops: the contract of the module, line by line.

use std::ops::Range;

use crate::formats::{BLOCK, Block, Format, Weights};

use super::activations::{Activations, Precision};
use super::codes::place;
use super::{LANES, OutView, reduce};

/// A decoded weight row.
#[derive(Default)]
pub(super) struct Scratch {
    blocks: Vec<Block>,
    row: Vec<f32>,
}

pub(super) fn multiply(
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    precision: Option<Precision>,
    out: &mut OutView<'_>,
    scratch: &mut Scratch,
) {
    for row in rows {
        if let Some(precision) = precision {
            let bytes = weights.row(row);
            scratch.blocks.clear();
            scratch
                .blocks
                .extend((0..weights.cols() / BLOCK).map(|index| Block::decode(weights.format(), bytes, index)));
            for token in 0..x.tokens() {
                out.set(token, row, block_dot(&scratch.blocks, x, token, weights.format(), precision));
            }
        } else {
            scratch.row.clear();
            scratch.row.resize(weights.cols().next_multiple_of(LANES), 0.0);
            weights.dequantize_row(row, &mut scratch.row[..weights.cols()]);
            for token in 0..x.tokens() {
                out.set(token, row, f32_dot(&scratch.row, x.values(token)));
            }
        }
    }
}

fn block_dot(row: &[Block], x: &Activations, token: usize, format: Format, precision: Precision) -> f32 {
    let run = format.run(precision == Precision::Int8);
    let mut result = 0.0_f32;
    for (index, blocks) in row.chunks(LANES).enumerate() {
        let x = &x.groups(index)[token];
        let mut v = 0.0_f32;
        for (run, codes) in blocks.chunks(run).zip(x.codes.chunks(run * BLOCK)) {
            let isum: i32 = run.iter().zip(codes.chunks(BLOCK)).map(|(block, codes)| code_sum(block, codes)).sum();
            v = (isum as f32).mul_add(run[0].scale, v);
        }
        if format.has_steps() {
            let mut m = 0.0_f32;
            for (b, block) in blocks.iter().enumerate() {
                let [low, high] = block.steps.map(f32::from);
                if format.has_half_offsets() {
                    m = high.mul_add(x.halves[2 * b + 1], low.mul_add(x.halves[2 * b], m));
                } else {
                    m = low.mul_add(x.blocks[b], m);
                }
            }
            v = m.mul_add(blocks[0].offset, v);
        } else if format.has_offset() {
            for (b, block) in blocks.iter().enumerate() {
                v = block.offset.mul_add(x.blocks[b], v);
            }
        }
        result = v.mul_add(x.scale, result);
    }
    result
}

fn code_sum(block: &Block, x: &[i16]) -> i32 {
    block.codes.iter().enumerate().map(|(i, &code)| i32::from(code) * i32::from(x[place(i)])).sum()
}

fn f32_dot(row: &[f32], x: &[f32]) -> f32 {
    let mut partial = [0.0_f32; LANES];
    for (weights, values) in row.as_chunks::<LANES>().0.iter().zip(x.as_chunks::<LANES>().0) {
        for ((p, &w), &x) in partial.iter_mut().zip(weights).zip(values) {
            *p = w.mul_add(x, *p);
        }
    }
    reduce(partial)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::isa::Isa;
    use crate::matmul::{GROUP, Mode, Needs};

    /// The product of dequantised weights and unquantised activations in f64, and how far codes may be from it.
    ///
    /// An activation is off by at most half a step of its group (and rounding of the step: 2 epsilon of the largest
    /// value); f32 arithmetic rounds every run's sum a few times, and each sum once per run, block and group.
    fn expected(row: &[Block], x: &[f32], precision: Precision) -> (f64, f64) {
        let (mut sum, mut quantization, mut magnitude) = (0.0, 0.0, 0.0);
        for (b, (block, values)) in row.iter().zip(x.chunks(BLOCK)).enumerate() {
            let group = &x[b / LANES * GROUP..x.len().min((b / LANES + 1) * GROUP)];
            let max = group.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
            let error = f64::from(max) * (0.5 / f64::from(precision.max_code()) + 4.0 * f64::from(f32::EPSILON));
            for (i, &x) in values.iter().enumerate() {
                let scaled = f64::from(block.scale) * f64::from(block.codes[i]);
                let offset = f64::from(block.offset) * f64::from(block.steps[i / 16]);
                sum += (scaled + offset) * f64::from(x);
                quantization += (scaled + offset).abs() * error;
                magnitude += (scaled.abs() + offset.abs()) * (f64::from(x.abs()) + error);
            }
        }
        let rounding = (3 * row.len() + 8) as f64 * f64::from(f32::EPSILON) * magnitude;
        (sum, quantization + rounding)
    }

    proptest! {
        #[test]
        fn block_products_stay_within_the_bound_of_their_activations(
            precision in prop::sample::select(vec![Precision::Int8, Precision::Int14]),
            format in prop::sample::select(Format::ALL.iter().copied().filter(|f| !f.is_dense()).collect::<Vec<_>>()),
            storage_blocks in 1_usize..9,
            mut bytes in prop::collection::vec(any::<u8>(), 8 * 292),
            x in prop::collection::vec(-3.0_f32..3.0, 8 * 256),
            outlier in 1.0_f32..100.0,
        ) {
            let cols = storage_blocks * format.block();
            for block in bytes.chunks_exact_mut(format.block_bytes()) {
                // Scales up to 2: those of f32 and powers of two could be as large as sums may not be.
                match format {
                    Format::Q8_K => block[3] &= 0xbf,
                    Format::MXFP4 => block[0] >>= 1,
                    _ => {}
                }
            }
            let weights = Weights::new(&bytes[..format.row_bytes(cols).unwrap()], format, 1, cols).unwrap();
            let blocks: Vec<Block> =
                (0..cols / BLOCK).map(|index| Block::decode(format, weights.row(0), index)).collect();
            prop_assume!(blocks.iter().all(|block| block.scale.is_finite() && block.offset.is_finite()));
            let mut x = x[..cols].to_vec();
            x[cols / 2] *= outlier;
            let mut activations = Activations::new();
            activations.reset(1, cols, Needs::of(Isa::Scalar, &[weights], Mode::Blocks(precision)));
            activations.set_row(0, &x);
            let mut out = [0.0];
            multiply(&weights, 0..1, &activations, Some(precision), &mut OutView::new(&mut out, 1, 0), &mut Scratch::default());
            let (sum, bound) = expected(&blocks, &x, precision);
            prop_assert!((f64::from(out[0]) - sum).abs() <= bound, "{format:?}: {} is not {sum} +- {bound}", out[0]);
        }

        #[test]
        fn exact_products_stay_within_the_bound_of_f32_sums(
            w in prop::collection::vec(-2.0_f32..2.0, 1..300), seed in -2.0_f32..2.0,
        ) {
            let x: Vec<f32> = (0..w.len()).map(|i| (i as f32 * seed).sin()).collect();
            let data: Vec<u8> = w.iter().flat_map(|w| w.to_le_bytes()).collect();
            let weights = Weights::new(&data, Format::F32, 1, w.len()).unwrap();
            let mut activations = Activations::new();
            activations.reset(1, w.len(), Needs { f32: true, ..Needs::default() });
            activations.set_row(0, &x);
            let mut out = [0.0];
            multiply(&weights, 0..1, &activations, None, &mut OutView::new(&mut out, 1, 0), &mut Scratch::default());
            let terms = || w.iter().zip(&x).map(|(&w, &x)| f64::from(w) * f64::from(x));
            let magnitude: f64 = terms().map(f64::abs).sum();
            let bound = (w.len().div_ceil(LANES) + 4) as f64 * f64::from(f32::EPSILON) * magnitude;
            prop_assert!((f64::from(out[0]) - terms().sum::<f64>()).abs() <= bound);
        }
    }
}
