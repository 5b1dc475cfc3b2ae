//! The image encoder's regions: near f64, and equal bits on every instruction set, for any team and any slicing of
//! rows.

use std::ops::Range;
use std::sync::LazyLock;

use half::f16;
use ostro_kernels::formats::{Format, Weights};
use ostro_kernels::isa::Isa;
use ostro_kernels::kv::{KvStore, KvType, PAGE};
use ostro_kernels::matmul::Precision;
use ostro_kernels::regions::{
    Attend, LayerNorm, Linear, Machine, Mode, ShapeError, attend, encoder_qkv, layer_norm, linear, linear_add,
    norm_gelu,
};
use proptest::collection::vec;
use proptest::prelude::*;

#[path = "encoder/near.rs"]
mod near;
#[path = "encoder/refused.rs"]
mod refused;

use near::{Near, attention, gelu, normed, product};

const INT14: Mode = Mode::Blocks(Precision::Int14);
const EPS: f32 = 1e-6;

/// One for each instruction set and 1 to 4 threads; the first is scalar, on one thread.
static MACHINES: LazyLock<Vec<Machine>> = LazyLock::new(|| {
    let teams = Isa::available().into_iter().flat_map(|isa| (1..=4).map(move |threads| (threads, isa)));
    teams.map(|(threads, isa)| Machine::new(threads, isa).unwrap()).collect()
});

/// A reproducible stream of numbers (splitmix64).
struct Noise(u64);

impl Noise {
    /// Uniform in -1..1.
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }

    /// `n` numbers around `centre`.
    fn take(&mut self, n: usize, centre: f32) -> Vec<f32> {
        (0..n).map(|_| centre + self.next()).collect()
    }
}

/// A projection that owns its numbers.
struct Proj {
    data: Vec<u8>,
    format: Format,
    rows: usize,
    cols: usize,
    bias: Vec<f32>,
}

impl Proj {
    fn new(format: Format, rows: usize, cols: usize, noise: &mut Noise) -> Self {
        let mut data = Vec::new();
        for _ in 0..rows * cols / format.block() {
            let value = noise.next();
            match format {
                Format::F32 => data.extend(value.to_le_bytes()),
                Format::F16 => data.extend(f16::from_f32(value).to_le_bytes()),
                Format::BF16 => data.extend(half::bf16::from_f32(value).to_le_bytes()),
                _ => {
                    data.extend(f16::from_f32(value / 64.0).to_le_bytes());
                    data.extend((0..format.block()).map(|_| (noise.next() * 127.0) as i8 as u8));
                }
            }
        }
        Self { data, format, rows, cols, bias: noise.take(rows, 0.0) }
    }

    fn linear(&self) -> Linear<'_> {
        let weights = Weights::new(&self.data, self.format, self.rows, self.cols).unwrap();
        Linear { weights, bias: &self.bias }
    }

    /// x @ proj^T + bias.
    fn near(&self, x: &[Near], mode: Mode) -> Vec<Near> {
        let mut row = vec![0.0; self.cols];
        let one = |(at, &bias): (usize, &f32)| {
            self.linear().weights.dequantize_row(at, &mut row);
            product(&row, x, mode.precision(self.format)) + bias
        };
        self.bias.iter().enumerate().map(one).collect()
    }
}

/// Slices of `rows` rows; their lengths repeat.
fn slices(rows: usize, lengths: &[usize]) -> Vec<Range<usize>> {
    let mut slices = Vec::new();
    let mut start = 0;
    for length in lengths.iter().cycle() {
        if start == rows {
            break;
        }
        slices.push(start..rows.min(start + length));
        start = rows.min(start + length);
    }
    slices
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn rows_of(x: &[f32], rows: &Range<usize>, width: usize) -> Range<usize> {
    assert!(rows.end * width <= x.len());
    rows.start * width..rows.end * width
}

/// `run(machine, rows, out)` is near `want(row)`, and has the same bits on every machine, whole and in slices.
///
/// `out`: [rows, width] as it is before the run; becomes the result.
fn check(
    name: &str,
    out: &mut [f32],
    width: usize,
    lengths: &[usize],
    want: impl Fn(usize) -> Vec<Near>,
    run: impl Fn(&Machine, Range<usize>, &mut [f32]) -> Result<(), ShapeError>,
) {
    let (before, rows) = (out.to_vec(), out.len() / width);
    run(&MACHINES[0], 0..rows, out).unwrap();
    for (row, have) in out.chunks_exact(width).enumerate() {
        for (at, (&have, near)) in have.iter().zip(want(row)).enumerate() {
            assert!(near.holds(have), "{name}: row {row}, column {at}: {have}, want {near:?}");
        }
    }
    for machine in &*MACHINES {
        for slices in [slices(rows, &[rows]), slices(rows, lengths)] {
            let mut have = before.clone();
            for slice in &slices {
                let at = rows_of(&have, slice, width);
                run(machine, slice.clone(), &mut have[at]).unwrap();
            }
            let (isa, threads) = (machine.isa().name(), machine.threads());
            assert_eq!(bits(&have), bits(out), "{name}: {isa}, {threads} threads, {slices:?}");
        }
    }
}

/// out = what attention of an encoder gives: each row of q sees positions 0..length.
fn attend_all(
    machine: &Machine,
    q: &[f32],
    heads: usize,
    store: &KvStore,
    length: usize,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    let rows = (q.len() / (heads * store.head_dim())) as i32;
    let inputs = Attend {
        q,
        positions: &(0..rows).collect::<Vec<_>>(),
        key_ends: &vec![length as i32; rows as usize],
        row_starts: &[0, rows],
        page_table: &(0..length.div_ceil(PAGE) as i32).collect::<Vec<_>>(),
        store,
        layer: 0,
        scale: near::SCALE,
        window: 0,
    };
    attend(machine, &inputs, out)
}

/// All keys and values of a store, as far as attention tells: each position alone gives its value, each together with
/// its neighbour what the two keys make of their values.
fn contents(store: &KvStore, seed: u64) -> Vec<u32> {
    let n = store.pages() * PAGE;
    let q = Noise(seed).take(n * store.kv_heads() * store.head_dim(), 0.0);
    let mut out = vec![0.0; 2 * q.len()];
    for (window, out) in [1, 2].into_iter().zip(out.chunks_exact_mut(q.len())) {
        let inputs = Attend {
            q: &q,
            positions: &(0..n as i32).collect::<Vec<_>>(),
            key_ends: &(1..=n as i32).collect::<Vec<_>>(),
            row_starts: &[0, n as i32],
            page_table: &(0..store.pages() as i32).collect::<Vec<_>>(),
            store,
            layer: 0,
            scale: near::SCALE,
            window,
        };
        attend(&MACHINES[MACHINES.len() - 4], &inputs, out).unwrap();
    }
    bits(&out)
}

/// A store whose position p holds row p of keys and values [positions, heads * dim], and `behind` from there on.
fn filled(heads: usize, dim: usize, dtype: KvType, pages: usize, kv: [&[f32]; 2], behind: f32) -> KvStore {
    let mut store = KvStore::new(1, heads, dim, dtype).unwrap();
    store.reserve(pages).unwrap();
    let writer = store.writer();
    for position in 0..pages * PAGE {
        for head in 0..heads {
            let at = (position * heads + head) * dim;
            let [k, v] = kv.map(|x| x.get(at..at + dim).map_or_else(|| vec![behind; dim], <[f32]>::to_vec));
            // SAFETY: one thread, no reader.
            unsafe { writer.write(position / PAGE, 0, head, position % PAGE, &k, &v) };
        }
    }
    store
}

fn any_format() -> impl Strategy<Value = Format> {
    prop::sample::select(vec![Format::F32, Format::F16, Format::BF16, Format::Q8_0])
}

fn any_mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(vec![Mode::Exact, INT14])
}

fn any_lengths() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1..=2_usize, 3..=40_usize], 1..5)
}

/// So400m's head, others that do not fill their vectors, and tiny ones, of which a cache line holds several groups.
fn any_head_dim() -> impl Strategy<Value = usize> {
    prop_oneof![2 => Just(72_usize), 3 => (2..20_usize).prop_map(|half| 2 * half + 1), 1 => Just(16), 1 => 1..=3_usize]
}

fn any_dtype() -> impl Strategy<Value = KvType> {
    prop::sample::select(vec![KvType::F16, KvType::F32])
}

/// The next width at which all formats have whole blocks.
fn cols_of(formats: &[Format], size: usize) -> usize {
    if formats.contains(&Format::Q8_0) { size.next_multiple_of(32) } else { size }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn products_and_norms_of_rows(
        format in any_format(), mode in any_mode(), rows in 1_usize..71, size in 1_usize..170, tokens in 1_usize..24,
        centre in prop::sample::select(vec![0.0_f32, 0.5, -30.0]), lengths in any_lengths(), seed: u64,
    ) {
        let cols = cols_of(&[format], size);
        let noise = &mut Noise(seed);
        let proj = Proj::new(format, rows, cols, noise);
        let (x, weight, bias) = (noise.take(tokens * cols, centre), noise.take(cols, 1.0), noise.take(cols, 0.0));
        let norm = LayerNorm { weight: &weight, bias: &bias, eps: EPS };
        let row = |t: usize| &x[t * cols..][..cols];
        let part = |slice: Range<usize>| &x[slice.start * cols..slice.end * cols];
        let exact = |t: usize| row(t).iter().map(|&x| Near::from(x)).collect::<Vec<_>>();

        let mut out = vec![f32::NAN; tokens * cols];
        check("layer_norm", &mut out, cols, &lengths, |t| normed(row(t), norm), |machine, slice, out| {
            layer_norm(machine, part(slice), norm, out)
        });
        let mut out = vec![f32::NAN; tokens * rows];
        check("linear", &mut out, rows, &lengths, |t| proj.near(&exact(t), mode), |machine, slice, out| {
            linear(machine, part(slice), proj.linear(), out, mode)
        });
        let gelus = |t: usize| proj.near(&normed(row(t), norm), mode).into_iter().map(gelu).collect();
        let mut out = vec![f32::NAN; tokens * rows];
        check("norm_gelu", &mut out, rows, &lengths, gelus, |machine, slice, out| {
            norm_gelu(machine, part(slice), norm, proj.linear(), out, mode)
        });
        let mut out = noise.take(tokens * rows, 0.0);
        let before = out.clone();
        let sums = |t: usize| {
            let products = proj.near(&exact(t), mode).into_iter();
            products.zip(&before[t * rows..]).map(|(product, &x)| product + x).collect()
        };
        check("linear_add", &mut out, rows, &lengths, sums, |machine, slice, out| {
            linear_add(machine, out, part(slice), proj.linear(), mode)
        });
    }

    #[test]
    fn queries_keys_and_values(
        formats in prop::array::uniform3(any_format()), mode in any_mode(), dtype in any_dtype(),
        heads in 1_usize..3, dim in any_head_dim(), size in 1_usize..100, tokens in 1_usize..40, start in 0_usize..150,
        lengths in any_lengths(), seed: u64,
    ) {
        let (width, cols) = (heads * dim, cols_of(&formats, size));
        let noise = &mut Noise(seed);
        let proj = formats.map(|format| Proj::new(format, width, cols, noise));
        let (x, weight, bias) = (noise.take(tokens * cols, 0.5), noise.take(cols, 1.0), noise.take(cols, 0.0));
        let norm = LayerNorm { weight: &weight, bias: &bias, eps: EPS };
        let mut rows = vec![0.0; x.len()];
        layer_norm(&MACHINES[0], &x, norm, &mut rows).unwrap();
        // Pages that end with the last slice, one more for what must stay as it is.
        let pages = (start + tokens).div_ceil(PAGE) + seed as usize % 2;
        let mut kv = [1, 2].map(|_| noise.take(pages * PAGE * width, 0.0));
        let old = kv.clone();
        for (all, proj) in kv.iter_mut().zip(&proj[1..]) {
            let new = &mut all[start * width..(start + tokens) * width];
            linear(&MACHINES[0], &rows, proj.linear(), new, mode).unwrap();
            for (t, new) in new.chunks_exact(width).enumerate() {
                let want = proj.near(&normed(&x[t * cols..][..cols], norm), mode);
                prop_assert!(new.iter().zip(&want).all(|(&new, want)| want.holds(new)));
            }
        }
        let want = contents(&filled(heads, dim, dtype, pages, [&kv[0], &kv[1]], 0.0), seed);
        let projections = [proj[0].linear(), proj[1].linear(), proj[2].linear()];
        let want_q = |t: usize| proj[0].near(&normed(&x[t * cols..][..cols], norm), mode);
        let mut q = vec![f32::NAN; tokens * width];
        let store = std::cell::RefCell::new(filled(heads, dim, dtype, pages, [&old[0], &old[1]], 0.0));
        let done = std::cell::Cell::new(0);
        check("encoder_qkv", &mut q, width, &lengths, want_q, |machine, slice, q| {
            let (part, first) = (&x[slice.start * cols..slice.end * cols], start + slice.start);
            let mut store = store.borrow_mut();
            encoder_qkv(machine, part, norm, projections, first, &mut store, q, mode)?;
            done.set(done.get() + slice.len());
            if done.get() == tokens {
                assert_eq!(contents(&store, seed), want, "keys and values after {slice:?}");
                *store = filled(heads, dim, dtype, pages, [&old[0], &old[1]], 0.0);
                done.set(0);
            }
            Ok(())
        });
    }

    #[test]
    fn attention_of_every_row_to_all_positions(
        dtype in any_dtype(), heads in 1_usize..3, dim in any_head_dim(), rows in 1_usize..110, length in 1_usize..290,
        lengths in any_lengths(), seed: u64,
    ) {
        let (width, noise) = (heads * dim, &mut Noise(seed));
        let mut kv = [0.0, 0.5].map(|centre| noise.take(length * width, centre));
        if dtype == KvType::F16 {
            kv.iter_mut().flatten().for_each(|x| *x = f16::from_f32(*x).to_f32());
        }
        let q = noise.take(rows * width, 0.0);
        // Behind the last position lies what must never matter.
        let store = filled(heads, dim, dtype, length.div_ceil(PAGE), [&kv[0], &kv[1]], f32::NAN);
        let want = |row: usize| attention(&q[row * width..][..width], heads, &kv[0], &kv[1]);
        let mut out = vec![f32::NAN; q.len()];
        check("attend", &mut out, width, &lengths, want, |machine, slice, out| {
            attend_all(machine, &q[slice.start * width..slice.end * width], heads, &store, length, out)
        });
    }
}
