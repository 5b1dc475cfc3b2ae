//! Speed of an image encoder's layer on one thread: `cargo run --release --example encoder_bench [ROWS ...]`.
//!
//! One layer of `SigLIP` So400m (4096 patches, 1152 wide, 16 heads of 72, MLP of 4304), computed as the encoder
//! computes it, ROWS rows at a time. GMAC/s of CPU time of each step, and CPU seconds of all 27 layers. The last rows
//! are compared bit for bit with the scalar level.

use std::hint::black_box;
use std::ops::Range;

use ostro_kernels::formats::{Format, Weights};
use ostro_kernels::isa::Isa;
use ostro_kernels::kv::{KvStore, KvType, PAGE};
use ostro_kernels::matmul::Precision;
use ostro_kernels::regions::{Attend, LayerNorm, Linear, Machine, Mode, attend, encoder_qkv, linear_add, norm_gelu};

const PATCHES: usize = 4096;
const HEADS: usize = 16;
const HEAD_DIM: usize = 72;
const WIDTH: usize = HEADS * HEAD_DIM;
const HIDDEN: usize = 4304;
const LAYERS: usize = 27;
const RUNS: usize = 3;
const MODE: Mode = Mode::Blocks(Precision::Int14);

/// Steps of a layer and their multiplications.
const STEPS: [(&str, usize); 5] = [
    ("qkv", 3 * PATCHES * WIDTH * WIDTH),
    ("attention", 2 * PATCHES * PATCHES * WIDTH),
    ("out_proj", PATCHES * WIDTH * WIDTH),
    ("fc1", PATCHES * WIDTH * HIDDEN),
    ("fc2", PATCHES * WIDTH * HIDDEN),
];

/// A number in -1..1 that depends on its place only.
fn noise(place: usize, salt: u64) -> f32 {
    let mixed = (place as u64 ^ salt << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

fn noises(n: usize, salt: u64) -> Vec<f32> {
    (0..n).map(|place| noise(place, salt)).collect()
}

/// CPU time of this thread: other processes on the machine do not count.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for the write.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Weights of one projection; products of unit rows are of unit size.
struct Proj {
    data: Vec<u8>,
    format: Format,
    bias: Vec<f32>,
}

impl Proj {
    fn new(format: Format, rows: usize, cols: usize, salt: u64) -> Self {
        let size = (3.0 / cols as f32).sqrt();
        let bytes = |x: f32| match format {
            Format::BF16 => half::bf16::from_f32(x).to_le_bytes(),
            _ => half::f16::from_f32(x).to_le_bytes(),
        };
        let data = (0..rows * cols).flat_map(|place| bytes(size * noise(place, salt))).collect();
        Self { data, format, bias: noises(rows, salt + 1) }
    }

    fn linear(&self) -> Linear<'_> {
        let (rows, cols) = (self.bias.len(), self.data.len() / 2 / self.bias.len());
        let weights = Weights::new(&self.data, self.format, rows, cols).expect("the data was made for this shape");
        Linear { weights, bias: &self.bias }
    }
}

/// A layer's weights.
struct Layer {
    norm: Vec<f32>,
    qkv: [Proj; 3],
    out: Proj,
    fc1: Proj,
    fc2: Proj,
}

/// CPU seconds of each step.
type Seconds = [f64; STEPS.len()];

impl Layer {
    fn new(format: Format) -> Self {
        Self {
            norm: (0..WIDTH).map(|place| 1.0 + 0.1 * noise(place, 1)).collect(),
            qkv: [10, 12, 14].map(|salt| Proj::new(format, WIDTH, WIDTH, salt)),
            out: Proj::new(format, WIDTH, WIDTH, 16),
            fc1: Proj::new(format, HIDDEN, WIDTH, 18),
            fc2: Proj::new(format, WIDTH, HIDDEN, 20),
        }
    }

    fn norm(&self) -> LayerNorm<'_> {
        LayerNorm { weight: &self.norm, bias: &self.norm, eps: 1e-6 }
    }

    /// Queries of the rows of x; their keys and values go to the store from position `start` on.
    fn queries(&self, machine: &Machine, x: &[f32], start: usize, store: &mut KvStore) -> Vec<f32> {
        let mut q = vec![0.0; x.len()];
        let [q_proj, k_proj, v_proj] = &self.qkv;
        let projections = [q_proj.linear(), k_proj.linear(), v_proj.linear()];
        encoder_qkv(machine, x, self.norm(), projections, start, store, &mut q, MODE).expect("shapes that fit");
        q
    }

    /// The rest of the layer for some rows, in place. `done(step)` is told of every step behind it.
    fn rest(&self, machine: &Machine, x: &mut [f32], q: &[f32], store: &KvStore, mut done: impl FnMut(usize)) {
        let rows = q.len() / WIDTH;
        let inputs = Attend {
            q,
            positions: &(0..rows as i32).collect::<Vec<_>>(),
            key_ends: &vec![PATCHES as i32; rows],
            row_starts: &[0, rows as i32],
            page_table: &(0..(PATCHES / PAGE) as i32).collect::<Vec<_>>(),
            store,
            layer: 0,
            scale: (HEAD_DIM as f32).powf(-0.5),
            window: 0,
        };
        let mut h = vec![0.0; q.len()];
        attend(machine, &inputs, &mut h).expect("shapes that fit");
        done(1);
        linear_add(machine, x, &h, self.out.linear(), MODE).expect("shapes that fit");
        done(2);
        let mut hidden = vec![0.0; rows * HIDDEN];
        norm_gelu(machine, x, self.norm(), self.fc1.linear(), &mut hidden, MODE).expect("shapes that fit");
        done(3);
        linear_add(machine, x, &hidden, self.fc2.linear(), MODE).expect("shapes that fit");
        done(4);
    }

    /// The whole layer, in place, some rows at a time.
    fn forward(&self, machine: &Machine, x: &mut [f32], rows: usize, store: &mut KvStore) -> Seconds {
        let mut seconds = [0.0; STEPS.len()];
        let mut last = cpu_seconds();
        let mut done = |step: usize| {
            let now = cpu_seconds();
            seconds[step] += now - last;
            last = now;
        };
        let mut queries = Vec::new();
        for (index, part) in x.chunks(rows * WIDTH).enumerate() {
            queries.push(self.queries(machine, part, index * rows, store));
            done(0);
        }
        for (part, q) in x.chunks_mut(rows * WIDTH).zip(&queries) {
            self.rest(machine, part, q, store, &mut done);
        }
        seconds
    }
}

/// The best times of each step, for each number of rows at a time; panics when an answer differs from the scalar
/// level's.
fn measure(layer: &Layer, slices: &[usize]) -> Vec<Seconds> {
    let machine = Machine::new(1, Isa::detect()).expect("no thread is started");
    let mut store = KvStore::new(1, HEADS, HEAD_DIM, KvType::F16).expect("a small shape");
    store.reserve(PATCHES / PAGE).expect("room for some pages");
    let inputs = noises(PATCHES * WIDTH, 3);
    let scalar = Machine::new(1, Isa::Scalar).expect("no thread is started");
    let last: Range<usize> = (PATCHES - 3) * WIDTH..PATCHES * WIDTH;
    let mut want = Vec::new();
    let mut best = vec![[f64::INFINITY; STEPS.len()]; slices.len()];
    // They take turns: whatever else the machine does for a while slows all of them.
    for _ in 0..RUNS {
        for (&rows, best) in slices.iter().zip(&mut best) {
            let mut x = inputs.clone();
            let seconds = layer.forward(&machine, &mut x, rows, &mut store);
            *best = std::array::from_fn(|step| best[step].min(seconds[step]));
            black_box(&mut x);
            if want.is_empty() {
                want = inputs[last.clone()].to_vec();
                let q = layer.queries(&scalar, &want, PATCHES - 3, &mut store);
                layer.rest(&scalar, &mut want, &q, &store, |_| ());
            }
            let have = &x[last.clone()];
            assert!(have.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()), "the scalar level differs");
        }
    }
    best
}

fn main() {
    let given: Vec<usize> = std::env::args().skip(1).map(|rows| rows.parse().expect("a number of rows")).collect();
    let slices = if given.is_empty() { vec![512] } else { given };
    println!("{} on one thread, best of {RUNS}; GMAC/s, CPU seconds of {LAYERS} layers", Isa::detect().name());
    for format in [Format::BF16, Format::F16] {
        for (rows, seconds) in slices.iter().zip(measure(&Layer::new(format), &slices)) {
            print!("{:4} rows {rows:>4}:", format.name());
            for ((name, products), seconds) in STEPS.iter().zip(seconds) {
                print!("  {name} {:5.1}", *products as f64 / seconds / 1e9);
            }
            println!("  layers {:6.1} s", LAYERS as f64 * seconds.iter().sum::<f64>());
        }
    }
}
