//! Speed of attention: `cargo run --release --example attention_bench [ROWS ...]`.
//!
//! One thread, keys and values in the caches where they fit: GMAC/s of CPU time over the visible (query row, key)
//! pairs, scores and weighted values together, and the share of what a loop of nothing but fma reached just before and
//! after (other machines on the same processor slow both down), with 4 query heads on one kv head of 256. The last row
//! of every call is compared bit for bit with the scalar level, and with a plain f64 computation.
//!
//! Then a team, decode steps over the layers of the 270m and of the 4b with more keys and values than the caches hold:
//! us per step and GB/s of keys and values.

use std::hint::black_box;

use ostro_kernels::attention::{Attend, attend};
use ostro_kernels::isa::Isa;
use ostro_kernels::kv::{KvStore, KvType, PAGE};
use ostro_kernels::team::Team;

const HEADS: usize = 4;
const HEAD_DIM: usize = 256;
const SCALE: f32 = 0.0625;

/// Rows of one sequence that has `context` positions behind the last of them.
struct Case {
    rows: usize,
    context: usize,
    window: usize,
}

const CASES: [Case; 13] = [
    Case { rows: 2048, context: 2048, window: 0 },
    Case { rows: 512, context: 8192, window: 0 },
    Case { rows: 512, context: 512, window: 0 },
    Case { rows: 512, context: 8192, window: 512 },
    Case { rows: 64, context: 8192, window: 0 },
    Case { rows: 16, context: 8192, window: 0 },
    Case { rows: 8, context: 8192, window: 0 },
    Case { rows: 6, context: 8192, window: 0 },
    Case { rows: 4, context: 8192, window: 0 },
    Case { rows: 2, context: 8192, window: 0 },
    Case { rows: 1, context: 512, window: 0 },
    Case { rows: 1, context: 8192, window: 512 },
    Case { rows: 1, context: 32768, window: 0 },
];

/// A number in -1..1 that depends on its place only.
fn noise(place: usize, salt: u64) -> f32 {
    let mixed = (place as u64 ^ salt << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

fn key(position: usize) -> Vec<f32> {
    (0..HEAD_DIM).map(|d| noise(position * HEAD_DIM + d, 1)).collect()
}

fn value(position: usize) -> Vec<f32> {
    (0..HEAD_DIM).map(|d| noise(position * HEAD_DIM + d, 2)).collect()
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
    while reps < 3 || cpu_seconds() < start + 0.5 {
        let before = cpu_seconds();
        run();
        best = best.min(cpu_seconds() - before);
        reps += 1;
    }
    best
}

/// One layer with one kv head of `positions` positions; position p lies on page p / 64.
fn filled(dtype: KvType, positions: usize) -> KvStore {
    let mut store = KvStore::new(1, 1, HEAD_DIM, dtype).expect("a small shape");
    store.reserve(positions / PAGE).expect("room for some pages");
    let writer = store.writer();
    for position in 0..positions {
        // SAFETY: one thread, no reader.
        unsafe { writer.write(position / PAGE, 0, 0, position % PAGE, &key(position), &value(position)) };
    }
    store
}

/// Attention of one row's heads in f64, over keys and values as they were before they were stored.
fn plain(q: &[f32], seen: std::ops::Range<usize>) -> Vec<f64> {
    let mut out = Vec::new();
    for q in q.chunks_exact(HEAD_DIM) {
        let score = |p| -> f64 { key(p).iter().zip(q).map(|(k, q)| f64::from(k * q * SCALE)).sum() };
        let scores: Vec<f64> = seen.clone().map(score).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut sums = vec![0.0; HEAD_DIM];
        for (p, weight) in seen.clone().zip(weights) {
            for (sum, v) in sums.iter_mut().zip(value(p)) {
                *sum += weight / total * f64::from(v);
            }
        }
        out.extend(sums);
    }
    out
}

/// (seconds of one call, visible pairs of row and key); panics when the answer is wrong.
fn measure(team: &Team, isa: Isa, store: &KvStore, case: &Case) -> (f64, usize) {
    let first = case.context - case.rows;
    let width = HEADS * HEAD_DIM;
    let q: Vec<f32> = (0..case.rows * width).map(|i| noise(i, 3)).collect();
    let positions: Vec<i32> = (first..case.context).map(|p| p as i32).collect();
    let key_ends: Vec<i32> = positions.iter().map(|p| p + 1).collect();
    let page_table: Vec<i32> = (0..case.context.div_ceil(PAGE) as i32).collect();
    let inputs = Attend {
        q: &q,
        positions: &positions,
        key_ends: &key_ends,
        row_starts: &[0, case.rows as i32],
        page_table: &page_table,
        store,
        layer: 0,
        scale: SCALE,
        window: case.window,
    };
    let mut out = vec![0.0; q.len()];
    let seconds = best_seconds(|| {
        attend(team, isa, &inputs, &mut out).expect("inputs that fit");
        black_box(&mut out);
    });

    let last = case.rows - 1;
    let (q, out) = (&q[last * width..], &out[last * width..]);
    let inputs =
        Attend { q, positions: &positions[last..], key_ends: &key_ends[last..], row_starts: &[0, 1], ..inputs };
    let mut scalar = vec![0.0; width];
    attend(team, Isa::Scalar, &inputs, &mut scalar).expect("inputs that fit");
    assert!(out.iter().zip(&scalar).all(|(a, b)| a.to_bits() == b.to_bits()), "{} differs from scalar", isa.name());
    let lowest = |row: usize| {
        if case.window == 0 { 0 } else { (row + 1).saturating_sub(case.window) }
    };
    for (have, want) in out.iter().zip(plain(q, lowest(case.context - 1)..case.context)) {
        let bound = if store.dtype() == KvType::I8 { 2e-2 } else { 1e-3 };
        assert!((f64::from(*have) - want).abs() < bound, "{have}, want {want}");
    }
    (seconds, (first..case.context).map(|row| row + 1 - lowest(row)).sum())
}

/// A loop of nothing but fma on twelve registers: two per cycle at a latency of four need eight.
#[cfg(target_arch = "x86_64")]
macro_rules! chains {
    ($name:ident, $features:literal, $splat:ident, $fma:ident, $first:ident) => {
        #[target_feature(enable = $features)]
        fn $name(steps: usize) -> f32 {
            use std::arch::x86_64::{$first, $fma, $splat};
            let (x, y) = ($splat(0.999), $splat(1e-3));
            let mut sums = [$splat(0.1); 12];
            for _ in 0..steps {
                for sum in &mut sums {
                    *sum = $fma(*sum, x, y);
                }
            }
            sums.iter().map(|&sum| $first(sum)).sum()
        }
    };
}

#[cfg(target_arch = "x86_64")]
chains!(ymm, "avx2,fma", _mm256_set1_ps, _mm256_fmadd_ps, _mm256_cvtss_f32);
#[cfg(target_arch = "x86_64")]
chains!(zmm, "avx512f", _mm512_set1_ps, _mm512_fmadd_ps, _mm512_cvtss_f32);

/// GMAC/s that one thread reaches with nothing but fma on registers; the portable level is not that fast.
fn peak(isa: Isa) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if isa != Isa::Scalar {
        const STEPS: usize = 2_000_000;
        let lanes = if isa == Isa::Avx2 { 8 } else { 16 };
        let before = cpu_seconds();
        // SAFETY: the CPU has the instructions of `isa`.
        black_box(unsafe { if lanes == 8 { ymm(black_box(STEPS)) } else { zmm(black_box(STEPS)) } });
        return (12 * lanes * STEPS) as f64 / (cpu_seconds() - before) / 1e9;
    }
    let _ = isa;
    f64::NAN
}

/// The attention of a model's decode step.
struct Model {
    name: &'static str,
    heads: usize,
    kv_heads: usize,
    window: usize,
    local: usize,
    global: usize,
}

const MODELS: [Model; 2] = [
    Model { name: "270m", heads: 4, kv_heads: 1, window: 512, local: 15, global: 3 },
    Model { name: "4b", heads: 8, kv_heads: 4, window: 1024, local: 29, global: 5 },
];

/// Best seconds of a step of `streams` sequences of `context` positions each, and bytes of keys and values it reads.
fn decode(team: &Team, model: &Model, dtype: KvType, streams: usize, context: usize) -> (f64, usize) {
    let pages = context.div_ceil(PAGE);
    let mut stores = Vec::new();
    for layers in [model.local, model.global] {
        let mut store = KvStore::new(layers, model.kv_heads, HEAD_DIM, dtype).expect("a small shape");
        store.reserve(pages * streams).expect("room for some pages");
        let key: Vec<f32> = (0..HEAD_DIM).map(|d| noise(d, 4)).collect();
        let writer = store.writer();
        for slot in 0..pages * streams * PAGE {
            for layer in 0..layers {
                for head in 0..model.kv_heads {
                    // SAFETY: one thread, no reader.
                    unsafe { writer.write(slot / PAGE, layer, head, slot % PAGE, &key, &key) };
                }
            }
        }
        stores.push(store);
    }
    let q: Vec<f32> = (0..streams * model.heads * HEAD_DIM).map(|i| noise(i, 3)).collect();
    let page_table: Vec<i32> = (0..(pages * streams) as i32).collect();
    let row_starts: Vec<i32> = (0..=streams as i32).collect();
    let (positions, key_ends) = (vec![context as i32 - 1; streams], vec![context as i32; streams]);
    let mut out = vec![0.0; q.len()];
    let mut step = || {
        let start = std::time::Instant::now();
        for (store, window) in stores.iter().zip([model.window, 0]) {
            for layer in 0..store.layers() {
                let inputs = Attend {
                    q: &q,
                    positions: &positions,
                    key_ends: &key_ends,
                    row_starts: &row_starts,
                    page_table: &page_table,
                    store,
                    layer,
                    scale: SCALE,
                    window,
                };
                attend(team, Isa::detect(), &inputs, &mut out).expect("inputs that fit");
                black_box(&mut out);
            }
        }
        start.elapsed().as_secs_f64()
    };
    let best = (0..30).map(|_| step()).fold(f64::INFINITY, f64::min);
    let seen = streams * (model.local * context.min(model.window) + model.global * context);
    (best, seen * model.kv_heads * HEAD_DIM * 2 * dtype.nbytes())
}

fn main() {
    let rows: Vec<String> = std::env::args().skip(1).collect();
    let isa = Isa::detect();
    let team = Team::new(1).expect("no thread is started");
    println!("{} on one thread, {HEADS} query heads, 1 kv head of {HEAD_DIM}", isa.name());
    let dtypes = [("f16", KvType::F16), ("int8", KvType::I8), ("f32", KvType::F32)];
    for (name, dtype) in dtypes {
        let store = filled(dtype, CASES.iter().map(|case| case.context).max().unwrap_or(PAGE));
        for case in CASES.iter().filter(|case| rows.is_empty() || rows.contains(&case.rows.to_string())) {
            let before = peak(isa);
            let (seconds, pairs) = measure(&team, isa, &store, case);
            let peak = f64::midpoint(before, peak(isa));
            let rate = (pairs * HEADS * HEAD_DIM * 2) as f64 / seconds / 1e9;
            let Case { rows, context, window } = case;
            print!("{name:>4} rows {rows:>4} context {context:>5} window {window:>3}: {rate:5.1} GMAC/s");
            print!(" ({:3.0} % of {peak:.1})", 100.0 * rate / peak);
            if *rows == 1 {
                let bytes = pairs * HEAD_DIM * 2 * dtype.nbytes();
                print!(" {:5.1} GB/s {:8.1} us", bytes as f64 / seconds / 1e9, seconds * 1e6);
            }
            println!();
        }
    }
    if !rows.is_empty() && !rows.contains(&"decode".to_owned()) {
        return;
    }
    for threads in [1, 2] {
        let team = Team::new(threads).expect("threads");
        for model in &MODELS {
            for (name, dtype) in &dtypes[..2] {
                for (streams, context) in [(1, 256), (1, 1024), (1, 8192), (8, 1024)] {
                    let (seconds, bytes) = decode(&team, model, *dtype, streams, context);
                    println!(
                        "{threads} threads, {:>4} {name:>4}, {streams} x {context:>4}: {:7.0} us {:5.1} GB/s",
                        model.name,
                        seconds * 1e6,
                        bytes as f64 / seconds / 1e9
                    );
                }
            }
        }
    }
}
