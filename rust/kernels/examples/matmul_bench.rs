//! Speed of the products on one thread: `cargo run --release --example matmul_bench [FORMAT ...]`.
//!
//! GEMV (one token) in GB/s of weights, GEMM (256 tokens, unless the matrix is huge) in GMAC/s. Every measured product
//! is compared with the scalar one on a few rows.

use std::hint::black_box;

use ostro_kernels::formats::{Format, STRIP, Weights, strips};
use ostro_kernels::isa::Isa;
use ostro_kernels::matmul::{Activations, Mode, Needs, OutView, Precision, Scratch, multiply};

const INT8: Mode = Mode::Blocks(Precision::Int8);
const INT14: Mode = Mode::Blocks(Precision::Int14);

const SHAPES: [(usize, usize); 4] = [(2048, 640), (640, 2048), (2560, 10240), (262_144, 640)];

fn noise(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// CPU time of this thread: other processes on the machine do not count.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for the write.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn best_seconds(mut run: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    let start = cpu_seconds();
    let mut reps = 0;
    while reps < 3 || cpu_seconds() < start + 0.2 {
        let before = cpu_seconds();
        run();
        best = best.min(cpu_seconds() - before);
        reps += 1;
    }
    best
}

/// Seconds of a product with `tokens` tokens, checked against the scalar one.
fn measure(isa: Isa, weights: &Weights<'_>, tokens: usize, mode: Mode) -> f64 {
    let (rows, cols) = (weights.rows(), weights.cols());
    let mut x = Activations::new();
    x.reset(tokens, cols, Needs::of(isa, std::slice::from_ref(weights), mode));
    // About normal, as activations are: the sum of four uniform numbers.
    let mut state = 7;
    let mut uniform = || noise(&mut state) as f32 / (1_u64 << 31) as f32 - 0.5;
    let values: Vec<f32> = (0..tokens * cols).map(|_| uniform() + uniform() + uniform() + uniform()).collect();
    for (token, row) in values.chunks_exact(cols).enumerate() {
        x.set_row(token, row);
    }
    let mut out = vec![0.0; tokens * rows];
    let mut scratch = Scratch::default();
    let seconds = best_seconds(|| {
        multiply(isa, weights, 0..rows, &x, mode, OutView::new(&mut out, rows, 0), &mut scratch);
        black_box(&mut out);
    });
    let mut x = Activations::new();
    x.reset(tokens, cols, Needs::of(Isa::Scalar, std::slice::from_ref(weights), mode));
    for (token, row) in values.chunks_exact(cols).enumerate() {
        x.set_row(token, row);
    }
    let mut expected = vec![0.0; tokens * rows];
    for row in [0, rows / 3, rows - 1] {
        let view = OutView::new(&mut expected, rows, 0);
        multiply(Isa::Scalar, weights, row..row + 1, &x, mode, view, &mut scratch);
        for token in [0, tokens - 1] {
            let at = token * rows + row;
            assert!(out[at].to_bits() == expected[at].to_bits() || out[at].is_nan() && expected[at].is_nan());
        }
    }
    seconds
}

fn main() {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let isa = Isa::detect();
    println!("{} on one thread; GEMV GB/s of weights, GEMM GMAC/s", isa.name());
    for format in Format::ALL {
        if !names.is_empty() && !names.iter().any(|name| name == format.name()) {
            continue;
        }
        for (rows, cols) in SHAPES {
            let Ok(row_bytes) = format.row_bytes(cols) else { continue };
            let mut state = 42;
            let data: Vec<u8> = (0..rows * row_bytes).map(|_| noise(&mut state) as u8).collect();
            let rows_only = Weights::new(&data, format, rows, cols).expect("the data was made for this shape");
            let mut packed = vec![0; if format.has_strips() { data.len() } else { 0 }];
            for (strip, rows) in packed.chunks_exact_mut(STRIP * row_bytes).zip(data.chunks_exact(STRIP * row_bytes)) {
                strips::pack(format, rows, strip);
            }
            let strips = Weights::with_strips(&packed, &data[packed.len()..], format, rows, cols);
            for (name, weights) in [("rows", Some(rows_only)), ("strips", strips.ok().filter(|_| format.has_strips()))]
            {
                let Some(weights) = weights else { continue };
                let huge = rows * cols > 1 << 26;
                print!("{:5} {rows:>6} x {cols:<5} {name:6}", format.name());
                for mode in [INT8, INT14, Mode::Exact] {
                    if format.is_dense() && mode != Mode::Exact {
                        continue;
                    }
                    let rate =
                        |tokens: usize| (tokens * rows * cols) as f64 / measure(isa, &weights, tokens, mode) / 1e9;
                    let gemv = data.len() as f64 / measure(isa, &weights, 1, mode) / 1e9;
                    print!("  {mode:?}: {gemv:5.1} GB/s, ");
                    print!("x2 {:5.1} x4 {:5.1} x8 {:5.1}", rate(2), rate(4), rate(8));
                    print!(" x{} {:5.1} GMAC/s", if huge { 32 } else { 256 }, rate(if huge { 32 } else { 256 }));
                }
                println!();
            }
        }
    }
}
