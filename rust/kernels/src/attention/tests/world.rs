//! Sequences with random queries, keys and values, and their attention in f64.

use super::super::{Attend, attend};
use crate::isa::Isa;
use crate::kv::{KvStore, KvType, PAGE};
use crate::team::Team;

/// Numbers in -1..1 that depend on the seed only.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    }

    fn take(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) kv_heads: usize,
    pub(super) share: usize,
    pub(super) head_dim: usize,
    pub(super) dtype: KvType,
    pub(super) window: usize,
}

impl Shape {
    pub(super) fn row(&self) -> usize {
        self.kv_heads * self.share * self.head_dim
    }
}

/// Makes a key or value one that the store keeps as it is.
fn round(dtype: KvType, row: &mut [f32]) {
    for block in row.chunks_mut(32) {
        let most = block.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let scale = half::f16::from_f32(most / 127.0).to_f32();
        for x in block {
            *x = match dtype {
                KvType::F32 => *x,
                KvType::F16 => half::f16::from_f32(*x).to_f32(),
                KvType::I8 => (*x / scale).round().clamp(-127.0, 127.0) * scale,
            };
        }
    }
}

/// Several sequences in one store, with all their queries.
pub(super) struct World {
    shape: Shape,
    pub(super) store: KvStore,
    lengths: Vec<usize>,
    /// Keys and values as stored, per sequence [length][kv_heads * head_dim].
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    queries: Vec<Vec<f32>>,
    key_ends: Vec<Vec<i32>>,
    pub(super) table: Vec<Vec<i32>>,
}

/// Rows `from..to` of sequence `sequence`.
pub(super) type Piece = (usize, usize, usize);

impl World {
    pub(super) fn new(shape: &Shape, lengths: &[usize], seed: u64) -> Self {
        let mut noise = Noise(seed);
        let width = shape.kv_heads * shape.head_dim;
        let columns = lengths.iter().max().unwrap().div_ceil(PAGE) + 1;
        let mut store = KvStore::new(2, shape.kv_heads, shape.head_dim, shape.dtype).unwrap();
        store.reserve(1 + lengths.iter().map(|n| n.div_ceil(PAGE)).sum::<usize>()).unwrap();
        let mut world = Self {
            shape: shape.clone(),
            lengths: lengths.to_vec(),
            keys: Vec::new(),
            values: Vec::new(),
            queries: Vec::new(),
            key_ends: Vec::new(),
            table: Vec::new(),
            store,
        };
        let mut next_page = world.store.pages();
        for &length in lengths {
            let pages = length.div_ceil(PAGE);
            let mut table = vec![-1; columns];
            // Page ids fall, so that an id is never equal to its place by chance.
            table[..pages].iter_mut().for_each(|id| {
                next_page -= 1;
                *id = next_page as i32;
            });
            let mut held = |size: f32| {
                let mut all: Vec<f32> = noise.take(length * width).into_iter().map(|x| size * x).collect();
                all.chunks_exact_mut(shape.head_dim).for_each(|row| round(shape.dtype, row));
                all
            };
            let (keys, values) = (held(4.0), held(1.0));
            let writer = world.store.writer();
            for slot in 0..pages * PAGE {
                for head in 0..shape.kv_heads {
                    let at = |all: &[f32]| -> Vec<f32> {
                        // Behind the end lies what must never matter.
                        all.get(slot * width + head * shape.head_dim..)
                            .filter(|rest| !rest.is_empty())
                            .map_or_else(|| vec![f32::NAN; shape.head_dim], |rest| rest[..shape.head_dim].to_vec())
                    };
                    let page = table[slot / PAGE] as usize;
                    // SAFETY: one thread, no reader.
                    unsafe { writer.write(page, 1, head, slot % PAGE, &at(&keys), &at(&values)) };
                }
            }
            // Now and then a run of rows sees to its own end, as the rows of an image do.
            let mut ends: Vec<i32> = (1..=length as i32).collect();
            if length > 20 {
                let start = (seed as usize % (length - 10)).min(length - 10);
                ends[start..start + 7].fill((start + 7) as i32);
            }
            world.queries.push(noise.take(length * shape.row()));
            world.keys.push(keys);
            world.values.push(values);
            world.key_ends.push(ends);
            world.table.push(table);
        }
        world
    }

    /// The call for some pieces, with pages that nobody may look at taken out of the table.
    pub(super) fn attend(&self, team: &Team, isa: Isa, pieces: &[Piece]) -> Vec<Vec<f32>> {
        let (mut q, mut positions, mut key_ends, mut table) = (vec![], vec![], vec![], vec![]);
        let mut row_starts = vec![0];
        for &(sequence, from, to) in pieces {
            q.extend_from_slice(&self.queries[sequence][from * self.shape.row()..to * self.shape.row()]);
            positions.extend(from as i32..to as i32);
            key_ends.extend_from_slice(&self.key_ends[sequence][from..to]);
            row_starts.push(positions.len() as i32);
            let mut row = self.table[sequence].clone();
            if self.shape.window > 0 {
                let first = (from + 1).saturating_sub(self.shape.window);
                row[..first / PAGE].fill(-1);
            }
            let last = self.key_ends[sequence][from..to].iter().max().copied().unwrap_or(0) as usize;
            row[last.div_ceil(PAGE)..].fill(-1);
            table.extend(row);
        }
        let mut out = vec![7.0; q.len()];
        let inputs = Attend {
            q: &q,
            positions: &positions,
            key_ends: &key_ends,
            row_starts: &row_starts,
            page_table: &table,
            store: &self.store,
            layer: 1,
            scale: 0.3,
            window: self.shape.window,
        };
        attend(team, isa, &inputs, &mut out).unwrap();
        row_starts
            .windows(2)
            .map(|w| out[w[0] as usize * self.shape.row()..w[1] as usize * self.shape.row()].to_vec())
            .collect()
    }

    pub(super) fn whole(&self) -> Vec<Piece> {
        self.lengths.iter().enumerate().map(|(sequence, &length)| (sequence, 0, length)).collect()
    }

    /// (value, bound on the error of the computed one) of every output element of a row.
    pub(super) fn naive(&self, sequence: usize, row: usize) -> Vec<(f64, f64)> {
        let shape = &self.shape;
        let width = shape.kv_heads * shape.head_dim;
        let start = if shape.window == 0 { 0 } else { (row + 1).saturating_sub(shape.window) };
        let end = self.key_ends[sequence][row] as usize;
        let eps = f64::from(f32::EPSILON);
        let mut out = Vec::new();
        for head in 0..shape.kv_heads * shape.share {
            let q = &self.queries[sequence][row * shape.row() + head * shape.head_dim..][..shape.head_dim];
            let at = |all: &Vec<f32>, key: usize, d: usize| {
                f64::from(all[key * width + head / shape.share * shape.head_dim + d])
            };
            let keys = &self.keys[sequence];
            let product = |key, d| f64::from(q[d]) * f64::from(0.3f32) * at(keys, key, d);
            let scores: Vec<f64> = (start..end).map(|key| (0..shape.head_dim).map(|d| product(key, d)).sum()).collect();
            let size = (start..end)
                .map(|key| (0..shape.head_dim).map(|d| product(key, d).abs()).sum::<f64>())
                .fold(0.0, f64::max);
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            // A score is off by (d + 2) roundings of its size, a weight by twice that and its own exponential, and
            // the sums by one rounding per key.
            let relative = eps * (2.0 * (shape.head_dim + 4) as f64 * size + 2.0 * (end - start) as f64 + 40.0);
            for d in 0..shape.head_dim {
                let values = &self.values[sequence];
                let terms = weights.iter().zip(start..end).map(|(w, key)| w * at(values, key, d) / total);
                let (sum, magnitude) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                out.push((sum, relative * magnitude + 1e-12));
            }
        }
        out
    }
}
