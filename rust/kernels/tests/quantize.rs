//! Quantizers: equal bytes on every instruction set, errors near those of a naive search, values at the ends of f32.

use half::f16;
use ostro_kernels::formats::{Format, Weights};
use ostro_kernels::isa::Isa;
use ostro_kernels::quantize::{QuantizeError, quantize_rows};
use proptest::prelude::*;

const FORMATS: [Format; 10] = [
    Format::Q4_0,
    Format::Q4_1,
    Format::Q5_0,
    Format::Q5_1,
    Format::Q8_0,
    Format::Q2_K,
    Format::Q3_K,
    Format::Q4_K,
    Format::Q5_K,
    Format::Q6_K,
];

fn quantize(isa: Isa, format: Format, rows: &[f32], cols: usize, importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0xaa; rows.len() / cols * format.row_bytes(cols).unwrap()];
    quantize_rows(isa, format, rows, cols, importance, &mut out).unwrap();
    out
}

fn dequantize(format: Format, data: &[u8], rows: usize, cols: usize) -> Vec<f32> {
    let weights = Weights::new(data, format, rows, cols).unwrap();
    let mut values = vec![f32::NAN; rows * cols];
    for (row, values) in values.chunks_exact_mut(cols).enumerate() {
        weights.dequantize_row(row, values);
    }
    values
}

fn there_and_back(format: Format, rows: &[f32], cols: usize, importance: Option<&[f32]>) -> Vec<f32> {
    dequantize(format, &quantize(Isa::detect(), format, rows, cols, importance), rows.len() / cols, cols)
}

/// Heavy-tailed noise: the cube of a uniform number, of standard deviation 0.38.
fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| uniform().powi(3)).collect()
}

fn squared_error(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

proptest! {
    #[test]
    fn bytes_do_not_depend_on_the_instruction_set_nor_on_other_rows(
        format in prop::sample::select(FORMATS.to_vec()),
        rows in 1_usize..6,
        blocks in 1_usize..20,
        seed in any::<u64>(),
        exponent in -40_i32..30,
        given in any::<bool>(),
    ) {
        let cols = if format.block() == 256 { blocks.div_ceil(6) * 256 } else { blocks * 32 };
        let values: Vec<f32> = noise(seed, rows * cols).iter().map(|x| x * 2.0_f32.powi(exponent)).collect();
        let squares: Vec<f32> = noise(!seed, cols).iter().map(|x| x * x).collect();
        let importance = given.then_some(squares.as_slice());
        let expected = quantize(Isa::Scalar, format, &values, cols, importance);
        for isa in Isa::available() {
            prop_assert_eq!(&quantize(isa, format, &values, cols, importance), &expected);
        }
        let alone: Vec<u8> = values
            .chunks_exact(cols)
            .flat_map(|row| quantize(Isa::detect(), format, row, cols, importance))
            .collect();
        prop_assert_eq!(alone, expected);
    }

    #[test]
    fn errors_are_those_of_the_nearest_codes_or_smaller(
        format in prop::sample::select(FORMATS.to_vec()), seed in any::<u64>(),
    ) {
        let cols = 2048;
        let values = noise(seed, cols);
        // Importance of one for all: the plain squared error is what the search minimises.
        let found = there_and_back(format, &values, cols, Some(&vec![1.0; cols]));
        let naive = naive(format, &values);
        let size = format.block();
        for block in 0..cols / size {
            let part = block * size..(block + 1) * size;
            let (have, limit) = (
                squared_error(&values[part.clone()], &found[part.clone()]),
                squared_error(&values[part.clone()], &naive[part]),
            );
            // No search of few candidates wins every block.
            prop_assert!(have <= 1.1 * limit, "{format:?} block {block}: {have:e}, naive {limit:e}");
        }
        let (have, limit) = (squared_error(&values, &found), squared_error(&values, &naive));
        prop_assert!(have <= limit, "{format:?}: {have:e}, naive {limit:e}");
    }

    #[test]
    fn any_finite_weights_and_importance_give_finite_weights(
        format in prop::sample::select(FORMATS.to_vec()),
        bits in prop::collection::vec(any::<u32>(), 512),
        importance in prop::collection::vec(any::<u32>(), 256),
        zeros in 0_usize..256,
    ) {
        let finite = |bits: &u32| Some(f32::from_bits(*bits)).filter(|x| x.is_finite()).unwrap_or(0.0);
        let values: Vec<f32> = bits.iter().map(finite).collect();
        let mut importance: Vec<f32> = importance.iter().map(|bits| finite(bits).abs()).collect();
        importance[..zeros].fill(0.0);
        let expected = quantize(Isa::Scalar, format, &values, 256, Some(&importance));
        for isa in Isa::available() {
            prop_assert_eq!(&quantize(isa, format, &values, 256, Some(&importance)), &expected);
        }
        prop_assert!(there_and_back(format, &values, 256, Some(&importance)).iter().all(|x| x.is_finite()));
        prop_assert!(there_and_back(format, &values, 256, None).iter().all(|x| x.is_finite()));
    }
}

/// Nearest codes for scales (and minima) from the ends of each sub-block: the textbook quantiser. Scales are stored as
/// float16, which alone costs `Q8_0` (127 steps of the scale) up to a few percent of its error.
fn naive(format: Format, values: &[f32]) -> Vec<f32> {
    let (levels, sub_block) = match format {
        Format::Q4_0 | Format::Q4_1 | Format::Q4_K => (16.0, 32),
        Format::Q5_0 | Format::Q5_1 | Format::Q5_K => (32.0, 32),
        Format::Q8_0 => (256.0, 32),
        Format::Q2_K => (4.0, 16),
        Format::Q3_K => (8.0, 16),
        _ => (64.0, 16),
    };
    let multiples = match format {
        Format::Q2_K => 15.0,
        Format::Q3_K => 32.0,
        Format::Q4_K | Format::Q5_K => 63.0,
        Format::Q6_K => 128.0,
        _ => 0.0,
    };
    let offset = format.has_offset();
    let mut out = Vec::new();
    for block in values.chunks_exact(format.block()) {
        let ends: Vec<(f32, f32)> = block
            .chunks_exact(sub_block)
            .map(|part| {
                let least = part.iter().copied().fold(f32::INFINITY, f32::min);
                let most = part.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                if !offset {
                    return (least.abs().max(most) * 2.0 / (levels - 2.0), 0.0);
                }
                let least = if multiples > 0.0 { least.min(0.0) } else { least };
                ((most - least) / (levels - 1.0), least)
            })
            .collect();
        let (largest, lowest) =
            ends.iter().fold((0.0_f32, 0.0_f32), |(scale, low), end| (scale.max(end.0), low.min(end.1)));
        for (part, &(scale, low)) in block.chunks_exact(sub_block).zip(&ends) {
            let stored = |x: f32| f16::from_f32(x).to_f32();
            let round = |x: f32, unit: f32| if unit == 0.0 { 0.0 } else { (x / unit).round() * unit };
            let scale = if multiples > 0.0 { round(scale, stored(largest / multiples)) } else { stored(scale) };
            let low = if multiples > 0.0 { round(low, stored(lowest / multiples)) } else { stored(low) };
            out.extend(part.iter().map(|x| {
                let (first, last) = if offset { (0.0, levels - 1.0) } else { (-levels / 2.0, levels / 2.0 - 1.0) };
                let code = if scale == 0.0 { 0.0 } else { ((x - low) / scale).round().clamp(first, last) };
                code * scale + low
            }));
        }
    }
    out
}

#[test]
fn errors_of_one_scale_are_near_the_smallest_there_is() {
    for (format, most) in [(Format::Q4_0, 8), (Format::Q5_0, 16)] {
        let (mut have, mut best) = (0.0, 0.0);
        for seed in 0..200 {
            let values = noise(seed, 32);
            have += squared_error(&values, &there_and_back(format, &values, 32, None));
            let largest = values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            // Every scale of either sign, in steps far finer than codes change at.
            best += (-4000_i32..=4000)
                .filter(|step| step.abs() > 1000)
                .map(|step| {
                    let scale = largest / most as f32 * step as f32 / 2400.0;
                    let nearest = |x: &f32| (x / scale).round().clamp(-(most as f32), (most - 1) as f32) * scale;
                    squared_error(&values, &values.iter().map(nearest).collect::<Vec<_>>())
                })
                .fold(f64::INFINITY, f64::min);
        }
        assert!(have <= 1.03 * best, "{format:?}: {have}, smallest {best}");
    }
}

#[test]
fn importance_moves_the_error_elsewhere() {
    for format in FORMATS {
        let (cols, rows) = (512, 8);
        let values = noise(5, rows * cols);
        let importance: Vec<f32> = (0..cols).map(|column| if column % 3 == 0 { 100.0 } else { 1.0 }).collect();
        let error = |found: &[f32]| -> f64 {
            (0..values.len())
                .map(|i| f64::from(importance[i % cols]) * (f64::from(values[i]) - f64::from(found[i])).powi(2))
                .sum()
        };
        let without = error(&there_and_back(format, &values, cols, Some(&vec![1.0; cols])));
        let with = error(&there_and_back(format, &values, cols, Some(&importance)));
        assert!(with < 0.97 * without, "{format:?}: {with} with importance, {without} without");
    }
}

#[test]
fn columns_without_importance_are_still_stored() {
    for format in FORMATS {
        let values = noise(6, 1024);
        let nothing = there_and_back(format, &values, 512, Some(&[0.0; 512]));
        let plain = there_and_back(format, &values, 512, Some(&[1.0; 512]));
        let (without, with) = (squared_error(&values, &nothing), squared_error(&values, &plain));
        assert!((without - with).abs() <= 0.01 * with, "{format:?}: {without} without any importance, {with} with");
        let mut half = [1.0; 512];
        half[..256].fill(0.0);
        let found = there_and_back(format, &values, 512, Some(&half));
        let (first, second) =
            (squared_error(&values[..256], &found[..256]), squared_error(&values[..256], &plain[..256]));
        assert!(first <= 1.5 * second, "{format:?}: {first} without importance, {second} with");
    }
}

#[test]
fn zeros_stay_zeros_and_equal_weights_equal() {
    for format in FORMATS {
        let mut values = vec![0.0; 1024];
        assert!(there_and_back(format, &values, 512, None).iter().all(|x| *x == 0.0), "{format:?}");
        values[256..512].fill(0.75);
        values[512..768].fill(-3e-3);
        values[768..].fill(f32::MIN_POSITIVE / 8.0);
        let found = there_and_back(format, &values, 512, None);
        for (i, (x, found)) in values.iter().zip(&found).enumerate() {
            assert!((x - found).abs() <= 3e-3 * x.abs() + 1e-30, "{format:?} weight {i}: {found}, not {x}");
        }
    }
}

#[test]
fn weights_of_a_format_come_back() {
    for format in FORMATS {
        let values = noise(9, 16 * 512);
        let once = there_and_back(format, &values, 512, None);
        let again = there_and_back(format, &once, 512, None);
        let energy = squared_error(&once, &vec![0.0; once.len()]);
        let moved = (squared_error(&once, &again) / energy).sqrt();
        let lost = (squared_error(&values, &once) / energy).sqrt();
        assert!(moved <= 0.2 * lost, "{format:?}: {moved:e} the second time, {lost:e} the first");
    }
    for (format, most) in [(Format::Q4_0, 8), (Format::Q5_0, 16), (Format::Q8_0, 127)] {
        for seed in 0..50 {
            let scale = half::f16::from_f32(0.01 + seed as f32 * 1e-3).to_f32();
            let mut values: Vec<f32> =
                noise(seed, 32).iter().map(|x| (x * (most - 1) as f32).round() * scale).collect();
            values[7] = -(most as f32) * scale;
            assert_eq!(there_and_back(format, &values, 32, None), values, "{format:?} {seed}");
        }
    }
}

#[test]
fn small_weights_whose_scale_is_a_subnormal_f16_lose_no_more() {
    for format in FORMATS {
        let values = noise(3, 4096);
        let relative = |factor: f32| {
            let values: Vec<f32> = values.iter().map(|x| x * factor).collect();
            let ones = vec![1.0; 512];
            squared_error(&values, &there_and_back(format, &values, 512, Some(&ones))) / f64::from(factor).powi(2)
        };
        let (ordinary, small) = (relative(1.0), relative(2e-3));
        assert!(small <= 1.2 * ordinary, "{format:?}: {small:e} for small weights, {ordinary:e} for others");
    }
}

#[test]
fn rows_that_are_not_finite_are_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for isa in Isa::available() {
            let mut values = noise(1, 5 * 256);
            values[3 * 256 + 17] = bad;
            let mut out = vec![0; 5 * 144];
            let result = quantize_rows(isa, Format::Q4_K, &values, 256, None, &mut out);
            assert_eq!(result, Err(QuantizeError::NotFinite { row: 3 }));
        }
    }
}
