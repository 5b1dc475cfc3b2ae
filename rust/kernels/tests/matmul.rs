//! Products: equal bits on every instruction set, for any batch, row range and output layout.

use ostro_kernels::formats::{Format, STRIP, Weights, planes, strips};
use ostro_kernels::isa::Isa;
use ostro_kernels::matmul::{Activations, Mode, Needs, OutView, Precision, Scratch, TILE, multiply};
use ostro_kernels::regions::{Machine, Screen};

const INT8: Mode = Mode::Blocks(Precision::Int8);
const INT14: Mode = Mode::Blocks(Precision::Int14);
use proptest::prelude::*;

/// A reproducible stream of numbers (splitmix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1.
    fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }
}

/// Where the f16 scales (biases, zero points) of a storage block are.
fn scales(format: Format) -> &'static [usize] {
    match format {
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::Q8_1 => &[0],
        Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
        Format::AFQ2 | Format::AFQ3 | Format::AFQ4 | Format::AFQ6 | Format::AFQ8 | Format::HQQ4 | Format::HQQ8 => {
            &[0, 2]
        }
        Format::Q2_K => &[80, 82],
        Format::Q3_K => &[108],
        Format::Q6_K => &[208],
        Format::F32 | Format::F16 | Format::BF16 | Format::FP8 | Format::F8Q8 | Format::MXFP4 | Format::Q8_K => &[],
    }
}

/// Sets the scales of a storage block to about `value`, as near as each format can.
fn set_scales(format: Format, block: &mut [u8], mut value: impl FnMut() -> f32) {
    match format {
        // 2^-8 to 2^7.
        Format::F8Q8 => block[0] = (value().abs() * 64.0) as u8 + 56,
        Format::MXFP4 => block[0] = (128.0 + value().log2().max(-9.0)) as u8,
        Format::Q8_K | Format::FP8 => block[..4].copy_from_slice(&value().to_le_bytes()),
        _ => {
            for &at in scales(format) {
                block[at..at + 2].copy_from_slice(&half::f16::from_f32(value()).to_le_bytes());
            }
        }
    }
}

/// Random codes with scales of a useful size. With `wild`, any bits at all: infinities, NaNs, subnormals.
fn random_weights(format: Format, rows: usize, cols: usize, noise: &mut Noise, wild: bool) -> Vec<u8> {
    let mut data: Vec<u8> = (0..rows * format.row_bytes(cols).unwrap()).map(|_| noise.next() as u8).collect();
    if wild {
        return data;
    }
    for block in data.chunks_exact_mut(format.block_bytes()) {
        let value = noise.signed();
        match format {
            Format::F32 => block.copy_from_slice(&value.to_le_bytes()),
            Format::F16 => block.copy_from_slice(&half::f16::from_f32(value).to_le_bytes()),
            Format::BF16 => block.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes()),
            _ => set_scales(format, block, || noise.signed() / 16.0),
        }
        if format == Format::FP8 {
            // No NaN.
            block[4..].iter_mut().filter(|byte| **byte & 0x7f == 0x7f).for_each(|byte| *byte = 0);
        }
    }
    data
}

fn activations(tokens: usize, cols: usize, values: &[f32], needs: Needs) -> Activations {
    let mut x = Activations::new();
    x.reset(tokens, cols, needs);
    for token in 0..tokens {
        x.set_row(token, &values[token * cols..][..cols]);
    }
    x
}

/// [tokens, rows] of one product over the whole matrix.
fn product(isa: Isa, weights: &Weights<'_>, x: &Activations, mode: Mode) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.tokens() * weights.rows()];
    let view = OutView::new(&mut out, weights.rows(), 0);
    multiply(isa, weights, 0..weights.rows(), x, mode, view, &mut Scratch::default());
    out
}

/// The same matrix with the first `packed` rows in strips.
fn in_strips(data: &[u8], format: Format, cols: usize, packed: usize) -> Vec<u8> {
    let strip = STRIP * format.row_bytes(cols).unwrap();
    let mut out = vec![0; packed / STRIP * strip];
    for (rows, out) in data.chunks_exact(strip).zip(out.chunks_exact_mut(strip)) {
        strips::pack(format, rows, out);
    }
    out
}

/// The first rows of `Q8_0` data in each plane.
fn in_planes(data: &[u8], cols: usize, packed: usize) -> [Vec<u8>; 2] {
    let [mut upper, mut lower] = planes::nbytes(packed, cols).map(|bytes| vec![0; bytes]);
    let row_bytes = Format::Q8_0.row_bytes(cols).unwrap();
    let weights = Weights::new(&data[..packed * row_bytes], Format::Q8_0, packed, cols).unwrap();
    let machine = Machine::new(1, Isa::Scalar).unwrap();
    if packed > 0 {
        let mut screen = Screen::of_planes(packed, cols).unwrap();
        screen.split(&machine, weights, packed, &mut upper, &mut lower).unwrap();
    }
    [upper, lower]
}

fn assert_same(actual: &[f32], expected: &[f32], what: &str) {
    assert_eq!(actual.len(), expected.len());
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!(a.to_bits() == e.to_bits() || a.is_nan() && e.is_nan(), "{what}: element {i} is {a:e}, not {e:e}");
    }
}

/// Products of rows `range` with some tokens, on every instruction set, and rows themselves: alike wherever the rows lie.
fn assert_same_products(
    plain: Weights<'_>,
    weights: Weights<'_>,
    mode: Mode,
    tokens: usize,
    range: std::ops::Range<usize>,
    noise: &mut Noise,
) {
    let (format, rows, cols) = (plain.format(), plain.rows(), plain.cols());
    let values: Vec<f32> = (0..tokens * cols).map(|_| noise.signed()).collect();
    let of = |isa: Isa, weights: Weights<'_>| {
        let x = activations(tokens, cols, &values, Needs::of(isa, &[weights], mode));
        let mut out = vec![-7.0; tokens * rows];
        let view = OutView::new(&mut out, rows, 0);
        multiply(isa, &weights, range.clone(), &x, mode, view, &mut Scratch::default());
        out
    };
    let expected = of(Isa::Scalar, plain);
    for isa in Isa::available() {
        assert_same(&of(isa, weights), &expected, &format!("{format:?} {mode:?} {}", isa.name()));
    }
    for row in [0, rows / 2, rows - 1] {
        let (mut a, mut b) = (vec![0.0; cols], vec![0.0; cols]);
        plain.dequantize_row(row, &mut a);
        weights.dequantize_row(row, &mut b);
        assert_same(&b, &a, &format!("{format:?} row {row}"));
    }
}

fn cols_of(format: Format, size: usize) -> usize {
    match format.block() {
        // Dense rows of any length.
        1 => size,
        block => block * size.div_ceil(block),
    }
}

fn any_format() -> impl Strategy<Value = Format> {
    prop::sample::select(Format::ALL.to_vec())
}

fn any_mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(vec![INT8, INT14, Mode::Mixed, Mode::Exact])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_isa_gives_the_bits_of_the_scalar_product(
        format in any_format(), mode in any_mode(),
        rows in 1_usize..71, size in 1_usize..1025, tokens in 1_usize..41, seed: u64, wild in prop::bool::weighted(0.1),
    ) {
        let cols = cols_of(format, size);
        let mut noise = Noise(seed);
        let data = random_weights(format, rows, cols, &mut noise, wild);
        let weights = Weights::new(&data, format, rows, cols).unwrap();
        let values: Vec<f32> = (0..tokens * cols).map(|_| noise.signed()).collect();
        let of = |isa: Isa| {
            let x = activations(tokens, cols, &values, Needs::of(isa, &[weights], mode));
            product(isa, &weights, &x, mode)
        };
        let expected = of(Isa::Scalar);
        for isa in Isa::available() {
            assert_same(&of(isa), &expected, &format!("{format:?} {mode:?} {}", isa.name()));
        }
    }

    #[test]
    fn a_result_depends_on_its_row_and_token_only(
        format in any_format(), mode in any_mode(), rows in 2_usize..71, size in 1_usize..601, tokens in 1_usize..14,
        seed: u64, from in 0.0..1.0_f64, length in 0.0..1.0_f64, offset in 0_usize..5, padding in 0_usize..7,
    ) {
        let cols = cols_of(format, size);
        let mut noise = Noise(seed);
        // One byte before the weights: mapped files align nothing.
        let mut data = vec![0];
        data.extend(random_weights(format, rows, cols, &mut noise, false));
        let weights = Weights::new(&data[1..], format, rows, cols).unwrap();
        let values: Vec<f32> = (0..tokens * cols).map(|_| noise.signed()).collect();
        let first = (rows as f64 * from) as usize;
        let range = first..first + ((rows - first) as f64 * length) as usize;
        let stride = rows + offset + padding;
        for isa in Isa::available() {
            let needs = Needs { f32: true, quads: 0, ..Needs::of(isa, &[weights], mode) };
            let x = activations(tokens, cols, &values, needs);
            let mut scratch = Scratch::default();
            let mut out = vec![-7.0; tokens * stride];
            multiply(isa, &weights, range.clone(), &x, mode, OutView::new(&mut out, stride, offset), &mut scratch);
            let mut expected = vec![-7.0; tokens * stride];
            for token in 0..tokens {
                let alone = activations(1, cols, &values[token * cols..], needs);
                for row in range.clone() {
                    let one = OutView::new(&mut expected[token * stride..], stride, offset);
                    multiply(isa, &weights, row..row + 1, &alone, mode, one, &mut scratch);
                }
            }
            assert_same(&out, &expected, &format!("{format:?} {mode:?} {}", isa.name()));
            let mut only = vec![-7.0; tokens * range.len()];
            let view = OutView::new(&mut only, range.len(), 0).from_row(first);
            multiply(isa, &weights, range.clone(), &x, mode, view, &mut scratch);
            for (row, only) in out.chunks(stride).zip(only.chunks(range.len().max(1))) {
                assert_same(only, &row[offset + first..][..range.len()], "a buffer with nothing but the rows");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn rows_in_strips_give_the_bits_of_rows(
        format in prop::sample::select(Format::ALL.iter().copied().filter(|f| f.has_strips()).collect::<Vec<_>>()),
        mode in any_mode(), rows in 16_usize..200, size in 1_usize..1025, tokens in 1_usize..20, seed: u64,
        packed in 0.0..=1.0_f64, from in 0.0..1.0_f64, length in 0.0..=1.0_f64, wild in prop::bool::weighted(0.1),
    ) {
        let cols = cols_of(format, size);
        let mut noise = Noise(seed);
        let data = random_weights(format, rows, cols, &mut noise, wild);
        let plain = Weights::new(&data, format, rows, cols).unwrap();
        let packed = (rows as f64 * packed) as usize / STRIP * STRIP;
        let strips = in_strips(&data, format, cols, packed);
        let rest = &data[strips.len()..];
        let weights = Weights::with_strips(&strips, rest, format, rows, cols).unwrap();
        let first = (rows as f64 * from) as usize;
        let range = first..first + ((rows - first) as f64 * length) as usize;
        assert_same_products(plain, weights, mode, tokens, range, &mut noise);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn rows_in_planes_give_the_bits_of_rows(
        mode in any_mode(), rows in 16_usize..300, blocks in 1_usize..33, tokens in 1_usize..20, seed: u64,
        packed in 0.0..=1.0_f64, from in 0.0..1.0_f64, length in 0.0..=1.0_f64,
    ) {
        let (format, cols, mut noise) = (Format::Q8_0, 32 * blocks, Noise(seed));
        let mut data = random_weights(format, rows, cols, &mut noise, false);
        for block in data.chunks_exact_mut(format.block_bytes()) {
            // As quantizers make them: one end is reached, or both, or neither.
            if noise.signed() > -0.8 {
                let ends = [noise.next(), noise.next()].map(|end| (end % 8) as i8 + 120);
                block[2..].iter_mut().for_each(|q| *q = (*q as i8).clamp(-ends[0], ends[1]) as u8);
            }
        }
        let plain = Weights::new(&data, format, rows, cols).unwrap();
        let packed = (rows as f64 * packed) as usize / STRIP * STRIP;
        let [upper, lower] = in_planes(&data, cols, packed);
        let rest = &data[packed * format.row_bytes(cols).unwrap()..];
        let weights = Weights::with_planes(&upper, &lower, rest, rows, cols).unwrap();
        let first = (rows as f64 * from) as usize;
        let range = first..first + ((rows - first) as f64 * length) as usize;
        assert_same_products(plain, weights, mode, tokens, range, &mut noise);
    }
}

#[test]
fn extreme_codes_do_not_saturate() {
    for format in Format::ALL.into_iter().filter(|format| !format.is_dense()) {
        for byte in [0x00, 0x7f, 0x80, 0xff_u8] {
            let (rows, cols) = (17, 512);
            let mut data = vec![byte; rows * format.row_bytes(cols).unwrap()];
            for block in data.chunks_exact_mut(format.block_bytes()) {
                set_scales(format, block, || 1.0);
            }
            let weights = Weights::new(&data, format, rows, cols).unwrap();
            let strips = if format.has_strips() { in_strips(&data, format, cols, STRIP) } else { Vec::new() };
            let packed = Weights::with_strips(&strips, &data[strips.len()..], format, rows, cols).unwrap();
            for (sign, tokens, mode) in
                [(1.0, 1, INT8), (-1.0, 5, INT8), (1.0, 17, INT8), (1.0, 5, INT14), (-1.0, 1, INT14), (-1.0, 17, INT14)]
            {
                let of = |isa: Isa, weights: Weights<'_>| {
                    let needs = Needs::of(isa, &[weights], mode);
                    product(isa, &weights, &activations(tokens, cols, &vec![sign; tokens * cols], needs), mode)
                };
                let expected = of(Isa::Scalar, weights);
                let mut row = vec![0.0; cols];
                weights.dequantize_row(0, &mut row);
                let sum = f64::from(sign) * row.iter().map(|&w| f64::from(w)).sum::<f64>();
                let magnitude: f64 = row.iter().map(|&w| f64::from(w).abs()).sum();
                // Activations of one magnitude are exact up to the rounding of their scale.
                let bound = 64.0 * f64::from(f32::EPSILON) * (magnitude + 63.0 * cols as f64);
                let name = format!("{format:?} {byte} {mode:?}");
                assert!((f64::from(expected[0]) - sum).abs() <= bound, "{name}: {} {sum}", expected[0]);
                for isa in Isa::available() {
                    assert_same(&of(isa, weights), &expected, &name);
                    assert_same(&of(isa, packed), &expected, &name);
                }
            }
        }
    }
}

#[test]
fn sums_up_to_sixteen_bits_and_beyond_are_exact() {
    for format in [Format::Q2_K, Format::Q3_K, Format::Q4_K, Format::Q5_K, Format::Q6_K] {
        for byte in [0x00, 0x7f, 0x80, 0xff_u8] {
            let (rows, cols) = (17, 512);
            let mut data = vec![byte; rows * format.row_bytes(cols).unwrap()];
            for block in data.chunks_exact_mut(format.block_bytes()) {
                set_scales(format, block, || 1.0);
            }
            let weights = Weights::new(&data, format, rows, cols).unwrap();
            // The largest code in more and more columns of a block of 32.
            let signs = (1..=32).flat_map(|large| [(large, 1.0), (large, -1.0)]);
            for ((large, sign), tokens) in signs.flat_map(|sign| [(sign, 8), (sign, 9)]) {
                let values: Vec<f32> = (0..tokens * cols).map(|i| if i % 32 < large { sign } else { 0.0 }).collect();
                let of = |isa: Isa| {
                    let needs = Needs::of(isa, &[weights], INT8);
                    product(isa, &weights, &activations(tokens, cols, &values, needs), INT8)
                };
                let expected = of(Isa::Scalar);
                for isa in Isa::available() {
                    assert_same(&of(isa), &expected, &format!("{format:?} {byte} {large} {sign} {tokens}"));
                }
            }
        }
    }
}

#[test]
fn values_that_are_not_finite_make_their_token_nan_and_no_other() {
    let (rows, cols) = (19, 256);
    for format in Format::ALL {
        let data = random_weights(format, rows, cols, &mut Noise(7), false);
        let weights = Weights::new(&data, format, rows, cols).unwrap();
        for (mode, tokens) in [(INT8, 5), (INT8, 20), (INT14, 5), (INT14, 20), (Mode::Exact, 5)] {
            let mut values = vec![0.25; tokens * cols];
            values[2 * cols + 100] = f32::NAN;
            for isa in Isa::available() {
                let x = activations(tokens, cols, &values, Needs::of(isa, &[weights], mode));
                for (token, row) in product(isa, &weights, &x, mode).chunks(rows).enumerate() {
                    assert!(row.iter().all(|v| v.is_nan() == (token == 2)), "{format:?} {mode:?} token {token}");
                }
            }
        }
    }
}

#[test]
fn rows_can_be_written_and_multiplied_by_several_threads() {
    let (rows, cols, tokens) = (50, 640, 41);
    let mut noise = Noise(3);
    let data = random_weights(Format::Q5_0, rows, cols, &mut noise, false);
    let weights = Weights::new(&data, Format::Q5_0, rows, cols).unwrap();
    let values: Vec<f32> = (0..tokens * cols).map(|_| noise.signed()).collect();
    for mode in [INT8, INT14] {
        let plain = activations(tokens, cols, &values, Needs::of(Isa::Scalar, &[weights], mode));
        let expected = product(Isa::Scalar, &weights, &plain, mode);
        for isa in Isa::available() {
            let needs = Needs::of(isa, &[weights], mode);
            let mut x = Activations::new();
            // Left-overs of a wider batch must not show.
            x.reset(50, 1024, needs);
            for token in 0..50 {
                x.set_row(token, &[3.0; 1024]);
            }
            x.reset(tokens, cols, needs);
            let (x, values) = (&x, &values);
            std::thread::scope(|scope| {
                for tile in 0..x.tiles() {
                    let rows = &values[tile * TILE * cols..values.len().min((tile + 1) * TILE * cols)];
                    // SAFETY: each tile belongs to one thread, and the scope ends before anything is read.
                    scope.spawn(move || unsafe { x.write_tile(tile, rows) });
                }
            });
            let mut out = vec![0.0; tokens * rows];
            let (ptr, len) = (out.as_mut_ptr(), out.len());
            std::thread::scope(|scope| {
                for range in [0..7, 7..30, 30..rows] {
                    // SAFETY: the ranges are disjoint and `out` outlives the scope.
                    let view = unsafe { OutView::from_raw(ptr, len, rows, 0) };
                    let weights = &weights;
                    scope.spawn(move || multiply(isa, weights, range, x, mode, view, &mut Scratch::default()));
                }
            });
            assert_same(&out, &expected, &format!("{mode:?} {}, three threads", isa.name()));
        }
    }
}

/// More rows and tokens than are unpacked or taken together, and a rest of each.
#[test]
fn large_products_are_equal_on_every_isa() {
    let (rows, size, tokens) = (301, 600, 51);
    for format in Format::ALL {
        let cols = cols_of(format, size);
        let mut noise = Noise(11);
        let data = random_weights(format, rows, cols, &mut noise, false);
        let weights = Weights::new(&data, format, rows, cols).unwrap();
        let values: Vec<f32> = (0..tokens * cols).map(|_| noise.signed()).collect();
        for mode in [INT8, INT14] {
            let of = |isa: Isa| {
                let x = activations(tokens, cols, &values, Needs::of(isa, &[weights], mode));
                product(isa, &weights, &x, mode)
            };
            let expected = of(Isa::Scalar);
            for isa in Isa::available() {
                assert_same(&of(isa), &expected, &format!("{format:?} {mode:?} {}", isa.name()));
            }
        }
    }
}

#[test]
fn empty_products_write_nothing() {
    let weights = Weights::new(&[], Format::Q8_0, 0, 64).unwrap();
    let mut x = Activations::new();
    x.reset(0, 64, Needs { f32: true, blocks: Some(Precision::Int8), ..Needs::default() });
    for isa in Isa::available() {
        assert_eq!(product(isa, &weights, &x, INT8), Vec::<f32>::new());
        let empty = Weights::new(&[], Format::F32, 3, 0).unwrap();
        assert_same(
            &product(isa, &empty, &activations(2, 0, &[], Needs { f32: true, ..Needs::default() }), Mode::Exact),
            &[0.0; 6],
            "no columns",
        );
    }
}

fn panic_text(run: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let error = std::panic::catch_unwind(run).expect_err("must panic");
    error.downcast_ref::<String>().cloned().unwrap_or_else(|| (*error.downcast_ref::<&str>().unwrap()).to_owned())
}

#[test]
fn wrong_shapes_are_refused() {
    let data = vec![0; 34 * 4];
    let run = |rows: std::ops::Range<usize>, cols: usize, needs: Needs, len: usize| {
        let weights = Weights::new(&data, Format::Q8_0, 2, 64).unwrap();
        let x = activations(2, cols, &vec![1.0; 2 * cols], needs);
        let mut out = vec![0.0; len];
        multiply(Isa::detect(), &weights, rows, &x, INT8, OutView::new(&mut out, 2, 0), &mut Scratch::default());
    };
    let int8 = Needs { blocks: Some(Precision::Int8), ..Needs::default() };
    run(0..2, 64, int8, 4);
    assert_eq!(panic_text(|| run(1..3, 64, int8, 4)), "rows 1..3 of a matrix of 2 rows");
    assert!(panic_text(|| run(0..2, 96, int8, 4)).contains("activations and weights differ in columns"));
    assert_eq!(panic_text(|| run(0..2, 64, int8, 3)), "the output is too small");
    let before_the_first = || {
        let weights = Weights::new(&data, Format::Q8_0, 2, 64).unwrap();
        let x = activations(2, 64, &[1.0; 128], int8);
        let mut out = [0.0; 8];
        let view = OutView::new(&mut out, 2, 0).from_row(1);
        multiply(Isa::detect(), &weights, 0..2, &x, INT8, view, &mut Scratch::default());
    };
    assert_eq!(panic_text(before_the_first), "the output is too small");
    let overflowing = || {
        let weights = Weights::new(&data, Format::Q8_0, 2, 64).unwrap();
        let x = activations(3, 64, &[1.0; 192], int8);
        let view = OutView::new(&mut [], usize::MAX / 2 + 1, 0);
        multiply(Isa::detect(), &weights, 0..2, &x, INT8, view, &mut Scratch::default());
    };
    assert_eq!(panic_text(overflowing), "the output is too small");
    assert_eq!(
        panic_text(|| run(0..2, 64, Needs { f32: true, ..Needs::default() }, 4)),
        "these activations have other integer codes"
    );
    assert_eq!(panic_text(|| run(0..2, 40, int8, 4)), "blocks in rows of 40 columns: not a multiple of 32");
}
