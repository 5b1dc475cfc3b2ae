//! Quantizers of formats whose blocks stand alone: equal bytes on every instruction set, and errors that are small enough.

use ostro_kernels::formats::{Format, Weights};
use ostro_kernels::isa::Isa;
use ostro_kernels::quantize::{QuantizeError, quantize_rows};
use proptest::prelude::*;

const FORMATS: [Format; 12] = [
    Format::FP8,
    Format::Q8_1,
    Format::F8Q8,
    Format::MXFP4,
    Format::Q8_K,
    Format::AFQ2,
    Format::AFQ3,
    Format::AFQ4,
    Format::AFQ6,
    Format::AFQ8,
    Format::HQQ4,
    Format::HQQ8,
];

/// Heavy tails, as weights have them: a cube of a uniform number.
fn weights(count: usize, seed: u64, unit: f32) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let uniform = (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0;
            uniform.powi(3) * unit
        })
        .collect()
}

fn quantized(isa: Isa, format: Format, rows: &[f32], cols: usize, importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0xa5; rows.len() / cols * format.row_bytes(cols).unwrap()];
    quantize_rows(isa, format, rows, cols, importance, &mut out).unwrap();
    out
}

fn restored(format: Format, bytes: &[u8], cols: usize) -> Vec<f32> {
    let rows = bytes.len() / format.row_bytes(cols).unwrap();
    let matrix = Weights::new(bytes, format, rows, cols).unwrap();
    let mut values = vec![f32::NAN; rows * cols];
    for (row, values) in values.chunks_exact_mut(cols).enumerate() {
        matrix.dequantize_row(row, values);
    }
    values
}

fn round_trip(format: Format, rows: &[f32], cols: usize) -> Vec<f32> {
    restored(format, &quantized(Isa::detect(), format, rows, cols, None), cols)
}

/// Sum of squared errors, weighted.
fn error(rows: &[f32], restored: &[f32], importance: impl Fn(usize) -> f32) -> f64 {
    let term = |(i, (x, y)): (usize, (&f32, &f32))| f64::from(importance(i)) * f64::from(x - y).powi(2);
    rows.iter().zip(restored).enumerate().map(term).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_isa_gives_the_same_bytes(
        format in prop::sample::select(FORMATS.to_vec()), rows in 1_usize..4, blocks in 1_usize..4, seed: u64,
        exponent in -44_i32..38, weighted: bool,
    ) {
        let cols = blocks * format.block();
        let x = weights(rows * cols, seed, 10_f32.powi(exponent));
        let importance: Vec<f32> = weights(cols, !seed, 1.0).iter().map(|x| x.abs()).collect();
        let importance = weighted.then_some(importance.as_slice());
        let expected = quantized(Isa::Scalar, format, &x, cols, importance);
        for isa in Isa::available() {
            prop_assert!(quantized(isa, format, &x, cols, importance) == expected, "{format:?} {}", isa.name());
        }
        let values = restored(format, &expected, cols);
        prop_assert!(values.iter().all(|x| x.is_finite()), "{format:?}");
    }

    #[test]
    fn errors_are_within_half_a_step(seed: u64, exponent in -2_i32..2) {
        let x = weights(256, seed, 10_f32.powi(exponent));
        for (format, block) in [(Format::Q8_1, 32), (Format::Q8_K, 256)] {
            for (x, y) in x.chunks(block).zip(round_trip(format, &x, 256).chunks(block)) {
                let most = x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                // f16 moves a scale by up to 2^-11, and with it code 127 by a sixteenth of a step.
                let bound = most / 127.0 * if format == Format::Q8_1 { 0.5625 } else { 0.5001 };
                prop_assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() <= bound), "{format:?}");
            }
        }
        for (x, y) in x.chunks(64).zip(round_trip(Format::FP8, &x, 256).chunks(64)) {
            let most = x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            // Four bits: a sixteenth of the value; below 2^-6 of 448 steps are alike.
            prop_assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() <= 1.0001 * (x.abs() / 16.0).max(most / 448.0 / 1024.0)));
        }
    }

    #[test]
    fn affine_blocks_are_no_worse_than_by_the_rule_of_mlx(seed: u64, exponent in -3_i32..2, shift in -1.0_f32..1.0, weighted: bool) {
        let x: Vec<f32> = weights(128, seed, 10_f32.powi(exponent)).iter().map(|x| x + shift * 0.1).collect();
        let importance: Vec<f32> = weights(128, !seed, 1.0).iter().map(|x| if weighted { x.abs() } else { 1.0 }).collect();
        let formats = [Format::AFQ2, Format::AFQ3, Format::AFQ4, Format::AFQ6, Format::AFQ8];
        for (format, bits) in formats.into_iter().zip([2, 3, 4, 6, 8]) {
            let bytes = quantized(Isa::detect(), format, &x, 128, Some(&importance));
            let ours = error(&x, &restored(format, &bytes, 128), |i| importance[i]);
            let theirs: f64 = x.chunks(64).zip(importance.chunks(64)).map(|(x, w)| error(x, &mlx(x, bits), |i| w[i])).sum();
            prop_assert!(ours <= theirs * 1.0001 + 1e-12, "{format:?}: {ours:e}, by the rule {theirs:e}");
        }
    }
}

/// A group by the rule of MLX, its scale and bias in f16.
fn mlx(x: &[f32], bits: u32) -> Vec<f32> {
    let half = |x: f32| half::f16::from_f32(x).to_f32();
    let levels = (2_u32.pow(bits) - 1) as f32;
    let (low, high) = x.iter().fold((f32::MAX, f32::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    let (scale, edge) = if low.abs() > high.abs() { (high - low, low) } else { (low - high, high) };
    let scale = scale / levels;
    let code = (edge / scale).round();
    let (scale, bias) = if code == 0.0 { (half(scale), 0.0) } else { (half(edge / code), half(edge)) };
    x.iter().map(|x| ((x - bias) / scale).round().clamp(0.0, levels) * scale + bias).collect()
}

#[test]
fn more_bits_are_better() {
    let x = weights(64 * 256, 7, 0.1);
    let of = |format: Format| error(&x, &round_trip(format, &x, 256), |_| 1.0);
    let rungs = [
        [Format::AFQ2, Format::AFQ3, Format::AFQ4, Format::AFQ6, Format::AFQ8].as_slice(),
        &[Format::MXFP4, Format::HQQ4, Format::FP8, Format::F8Q8],
        &[Format::HQQ4, Format::HQQ8],
    ];
    for rungs in rungs {
        for pair in rungs.windows(2) {
            assert!(of(pair[1]) < 0.7 * of(pair[0]), "{pair:?}: {:e} {:e}", of(pair[0]), of(pair[1]));
        }
    }
}

#[test]
fn importance_moves_the_error_to_columns_that_count_less() {
    let x = weights(64 * 256, 9, 0.1);
    let importance: Vec<f32> = (0..256).map(|i| if i % 8 == 0 { 1.0 } else { 0.01 }).collect();
    for format in [Format::F8Q8, Format::MXFP4, Format::AFQ2, Format::AFQ3, Format::AFQ4, Format::HQQ4] {
        let weighted = restored(format, &quantized(Isa::detect(), format, &x, 256, Some(&importance)), 256);
        let plain = round_trip(format, &x, 256);
        let of = |values: &[f32]| error(&x, values, |i| importance[i % 256]);
        assert!(of(&weighted) < of(&plain), "{format:?}: {:e} {:e}", of(&weighted), of(&plain));
    }
}

#[test]
fn numbers_that_a_format_holds_are_kept() {
    let powers = |scale: f32| move |code: i32| code as f32 * scale;
    let bytes: Vec<f32> = (0..256).map(|i| (i * 37) % 255 - 127).map(powers(1.0 / 512.0)).collect();
    let mut ends = bytes;
    ends.chunks_mut(32).for_each(|block| block[0] = 127.0 / 512.0);
    for format in [Format::Q8_1, Format::Q8_K] {
        assert_eq!(round_trip(format, &ends, 256), ends, "{format:?}");
    }
    let small: Vec<f32> = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0, 0.0]
        .iter()
        .cycle()
        .take(256)
        .map(|x| x / 64.0)
        .collect();
    assert_eq!(round_trip(Format::MXFP4, &small, 256), small);
    for (format, codes) in
        [(Format::AFQ2, 4), (Format::AFQ4, 16), (Format::AFQ8, 256), (Format::HQQ4, 16), (Format::HQQ8, 256)]
    {
        let step = (codes / 64).max(1);
        let x: Vec<f32> =
            (0..64).map(|i| if i == 63 { codes - 1 } else { i * step % codes }).map(powers(1.0 / 64.0)).collect();
        assert_eq!(round_trip(format, &x, 64), x, "{format:?}");
    }
}

#[test]
fn zeros_stay_zeros_and_constants_stay_near() {
    for format in FORMATS {
        let cols = format.block();
        assert!(round_trip(format, &vec![0.0; cols], cols).iter().all(|&x| x == 0.0), "{format:?}");
        for x in [-0.37_f32, 5.5] {
            let most = if format == Format::MXFP4 { 0.15 } else { 0.07 };
            let near = |y: &f32| (x - y).abs() <= most * x.abs();
            assert!(round_trip(format, &vec![x; cols], cols).iter().all(near), "{format:?} {x}");
        }
    }
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    for format in FORMATS {
        let cols = format.block();
        let mut x = vec![1.0; 3 * cols];
        x[cols + 5] = f32::NAN;
        let mut out = vec![0; 3 * format.row_bytes(cols).unwrap()];
        let error = quantize_rows(Isa::detect(), format, &x, cols, None, &mut out);
        assert_eq!(error, Err(QuantizeError::NotFinite { row: 1 }), "{format:?}");
    }
}
