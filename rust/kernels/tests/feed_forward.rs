//! The feed-forward region: the bits of its operations one after the other, on every instruction set, for any team, and
//! whether its inner activations are quantised group by group or row by row.

use ostro_kernels::formats::{Format, Weights};
use ostro_kernels::gelu::gated_gelu;
use ostro_kernels::isa::Isa;
use ostro_kernels::matmul::{Activations, Mode, Needs, OutView, Precision, Scratch, multiply};
use ostro_kernels::norm::{add_norm, rms_norm};
use ostro_kernels::regions::{Machine, Norm, feed_forward};
use proptest::prelude::*;

mod regions;

use regions::{MACHINES, Noise};

const EPS: f32 = 1e-6;

impl Noise {
    /// A matrix whose numbers are about -1..1.
    fn matrix(&mut self, format: Format, rows: usize, cols: usize) -> Vec<u8> {
        let mut data: Vec<u8> =
            (0..rows * format.row_bytes(cols).unwrap()).map(|_| (self.next() * 127.0) as i8 as u8).collect();
        for block in data.chunks_exact_mut(format.block_bytes()) {
            let scale = half::f16::from_f32(self.next() / 64.0).to_le_bytes();
            match format {
                Format::F16 => block.copy_from_slice(&half::f16::from_f32(self.next()).to_le_bytes()),
                Format::Q4_K => [block[0], block[1], block[2], block[3]] = [scale[0], scale[1], scale[1], scale[0] & 1],
                Format::Q6_K => block[208..].copy_from_slice(&scale),
                _ => block[..2].copy_from_slice(&scale),
            }
        }
        data
    }
}

struct Block {
    data: [Vec<u8>; 3],
    format: Format,
    inner: usize,
    cols: usize,
    norms: [Vec<f32>; 2],
    mode: Mode,
}

impl Block {
    fn new(format: Format, inner: usize, cols: usize, mode: Mode, noise: &mut Noise) -> Self {
        let data = [(inner, cols), (inner, cols), (cols, inner)].map(|(rows, cols)| noise.matrix(format, rows, cols));
        Self { data, format, inner, cols, norms: [noise.take(cols), noise.take(cols)], mode }
    }

    fn weights(&self) -> [Weights<'_>; 3] {
        let of = |at: usize, rows, cols| Weights::new(&self.data[at], self.format, rows, cols).unwrap();
        [of(0, self.inner, self.cols), of(1, self.inner, self.cols), of(2, self.cols, self.inner)]
    }

    fn run(&self, machine: &Machine, x: &[f32], hidden: Option<&mut [f32]>) -> Vec<f32> {
        let mut x = x.to_vec();
        let [gate, up, down] = self.weights();
        let [norm, post_norm] = [&self.norms[0], &self.norms[1]].map(|weight| Norm { weight, eps: EPS });
        feed_forward(machine, &mut x, norm, [gate, up], down, post_norm, hidden, self.mode).unwrap();
        x
    }

    /// [tokens, rows]
    fn product(&self, weights: &Weights<'_>, x: &[f32]) -> Vec<f32> {
        let mut activations = Activations::new();
        let tokens = x.len() / weights.cols();
        activations.reset(tokens, weights.cols(), Needs::of(Isa::Scalar, &[*weights], self.mode));
        for (token, row) in x.chunks_exact(weights.cols()).enumerate() {
            activations.set_row(token, row);
        }
        let mut out = vec![f32::NAN; tokens * weights.rows()];
        let view = OutView::new(&mut out, weights.rows(), 0);
        multiply(Isa::Scalar, weights, 0..weights.rows(), &activations, self.mode, view, &mut Scratch::default());
        out
    }

    /// Operation by operation, in plain code: what is added up, and the inner activations.
    fn expected(&self, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let [gate, up, down] = self.weights();
        let mut y = vec![0.0; x.len()];
        for (x, y) in x.chunks_exact(self.cols).zip(y.chunks_exact_mut(self.cols)) {
            rms_norm(Isa::Scalar, x, &self.norms[0], EPS, y);
        }
        let (gates, ups) = (self.product(&gate, &y), self.product(&up, &y));
        let mut hidden = vec![0.0; gates.len()];
        gated_gelu(Isa::Scalar, &gates, &ups, &mut hidden);
        let branch = self.product(&down, &hidden);
        let mut x = x.to_vec();
        for (x, branch) in x.chunks_exact_mut(self.cols).zip(branch.chunks_exact(self.cols)) {
            add_norm(Isa::Scalar, x, branch, &self.norms[1], EPS);
        }
        (x, hidden)
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn check(block: &Block, tokens: usize, noise: &mut Noise) {
    let x = noise.take(tokens * block.cols);
    let (expected, inner) = block.expected(&x);
    for machine in &*MACHINES {
        let what = format!("{:?} {:?} {} x{}", block.format, block.mode, machine.isa().name(), machine.threads());
        assert_eq!(bits(&block.run(machine, &x, None)), bits(&expected), "{what}");
        let mut hidden = vec![f32::NAN; inner.len()];
        assert_eq!(bits(&block.run(machine, &x, Some(&mut hidden))), bits(&expected), "{what}, hidden shown");
        assert_eq!(bits(&hidden), bits(&inner), "{what}, hidden");
    }
}

fn any_mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(vec![Mode::Blocks(Precision::Int8), Mode::Blocks(Precision::Int14), Mode::Mixed, Mode::Exact])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_region_has_the_bits_of_its_operations(
        format in prop::sample::select(vec![Format::Q4_K, Format::Q6_K, Format::Q5_0, Format::Q8_0, Format::F16]),
        mode in any_mode(), inner in 1_usize..5, cols in 1_usize..4, tokens in 0_usize..40, seed: u64,
    ) {
        let mut noise = Noise(seed);
        let block = format.block().max(32);
        check(&Block::new(format, inner * block, cols * block, mode, &mut noise), tokens, &mut noise);
    }
}

/// Eight groups for the one member of a team are quantised group by group, with a team of three row by row.
#[test]
fn many_groups_have_the_bits_of_rows() {
    let mut noise = Noise(5);
    for (format, inner) in [(Format::Q4_K, 8 * 256), (Format::Q5_0, 7 * 256 + 96), (Format::F16, 8 * 256)] {
        for mode in [Mode::Blocks(Precision::Int8), Mode::Blocks(Precision::Int14), Mode::Mixed] {
            let cols = format.block().max(64);
            let block = Block::new(format, inner, cols, mode, &mut noise);
            for tokens in [16, 17, 45] {
                check(&block, tokens, &mut noise);
            }
        }
    }
}
