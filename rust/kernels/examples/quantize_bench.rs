//! Speed of the quantizers on one thread: `cargo run --release --example quantize_bench [FORMAT ...]`.
//!
//! Million weights a second, of CPU time, from f32 rows that fit the cache; without and with importance.

use std::hint::black_box;

use ostro_kernels::formats::Format;
use ostro_kernels::isa::Isa;
use ostro_kernels::quantize::quantize_rows;

const ROWS: usize = 16;
const COLS: usize = 2560;

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

/// Sums of four uniform numbers: nearly normal.
fn noise(n: usize) -> Vec<f32> {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| 0.04 * (uniform() + uniform() + uniform() + uniform())).collect()
}

fn main() {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let rows = noise(ROWS * COLS);
    let importance: Vec<f32> = noise(COLS).iter().map(|x| x * x).collect();
    for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::Amx) {
        for format in Format::ALL.into_iter().filter(|format| !format.is_dense()) {
            if !named.is_empty() && !named.iter().any(|name| name == format.name()) {
                continue;
            }
            let mut out = vec![0; ROWS * format.row_bytes(COLS).expect("whole blocks")];
            let mut rate = |importance: Option<&[f32]>| {
                let seconds = best_seconds(|| {
                    quantize_rows(isa, format, &rows, COLS, importance, &mut out).expect("finite");
                    black_box(&mut out);
                });
                rows.len() as f64 / seconds / 1e6
            };
            let (plain, weighted) = (rate(None), rate(Some(&importance)));
            println!("{:12} {:5} {plain:8.1} M/s, with importance {weighted:8.1}", isa.name(), format.name());
        }
    }
}
