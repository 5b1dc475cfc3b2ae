//! The arithmetic of one page for up to four query rows, straight from the store: for decode and short pieces of a
//! prompt, where keys and values come from memory and are used a few times.

use half::f16;

use super::state::{Cut, States, soften};
use crate::kv::{PAGE, PageView};
use crate::simd::{Kernel, LANES, Simd};

/// Most query rows of one kernel call: four rows by two vectors of keys keep eight sums in registers.
pub(super) const GROUP: usize = 4;

const CACHE_LINE: usize = 64;

/// Rows that the kernel for a group of `members` computes: the next power of two.
pub(super) fn lanes(members: usize) -> usize {
    members.next_power_of_two()
}

/// Folds a page into the states of a group.
pub(super) struct NarrowPage<'a> {
    pub(super) page: PageView<'a>,
    /// Values per row in the store.
    pub(super) stride: usize,
    /// The page that comes next, which this one's arithmetic gives time to fetch; empty if there is none.
    pub(super) next: &'a [u8],
    /// `[head_dim][lanes(members)]`, scaled.
    pub(super) packed: &'a [f32],
    /// For each member the keys of this page that it sees, as (start, end).
    pub(super) seen: &'a [(usize, usize)],
    pub(super) width: usize,
    /// Those of the members.
    pub(super) states: States<'a>,
}

/// A number format of the cache.
trait Element: Copy {
    fn load<S: Simd>(s: S, from: &[Self]) -> S::V;
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[f32]) -> S::V {
        s.load(from)
    }
}

impl Element for f16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[f16]) -> S::V {
        s.load_f16(from)
    }
}

impl Kernel for NarrowPage<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        match self.page {
            PageView::F32(keys, values) => self.fold(s, keys, values),
            PageView::F16(keys, values) => self.fold(s, keys, values),
        }
    }
}

type Scores = [[f32; PAGE]; GROUP];

impl NarrowPage<'_> {
    #[inline(always)]
    fn fold<S: Simd, E: Element>(&mut self, s: S, keys: &[E], values: &[E]) {
        let mut scores = [[0.0; PAGE]; GROUP];
        match lanes(self.seen.len()) {
            1 => score::<S, E, 1, 8>(s, self.packed, keys, self.next, &mut scores),
            2 => score::<S, E, 2, 4>(s, self.packed, keys, self.next, &mut scores),
            _ => score::<S, E, 4, 2>(s, self.packed, keys, self.next, &mut scores),
        }
        let rows = self.states.marks.iter_mut().zip(self.states.values.chunks_exact_mut(self.width));
        for (((mark, sums), scores), &seen) in rows.zip(&mut scores).zip(self.seen) {
            if seen.0 < seen.1 {
                soften(s, scores, seen, mark, sums);
            }
        }
        self.weigh(s, &scores, values);
    }

    /// Adds the weighted values. Rows see different keys at the ends of what they see: each takes those alone, so
    /// that its order of additions is always by position.
    #[inline(always)]
    fn weigh<S: Simd, E: Element>(&mut self, s: S, scores: &Scores, values: &[E]) {
        let cut = Cut::new(self.seen);
        let values = Rows { values, stride: self.stride };
        for ((sums, scores), &seen) in self.states.values.chunks_exact_mut(self.width).zip(scores).zip(self.seen) {
            values.add::<S, 1, 8>(s, [scores], cut.before(seen), [sums]);
        }
        let mut rows = self.states.values.chunks_exact_mut(self.width);
        match (rows.next(), rows.next(), rows.next(), rows.next()) {
            (Some(a), Some(b), Some(c), Some(d)) => {
                let weights = [&scores[0], &scores[1], &scores[2], &scores[3]];
                values.add::<S, 4, 2>(s, weights, cut.common, [a, b, c, d]);
            }
            (Some(a), Some(b), c, _) => {
                values.add::<S, 2, 4>(s, [&scores[0], &scores[1]], cut.common, [a, b]);
                if let Some(c) = c {
                    values.add::<S, 1, 8>(s, [&scores[2]], cut.common, [c]);
                }
            }
            (Some(a), ..) => values.add::<S, 1, 8>(s, [&scores[0]], cut.common, [a]),
            _ => {}
        }
        for ((sums, scores), &seen) in self.states.values.chunks_exact_mut(self.width).zip(scores).zip(self.seen) {
            values.add::<S, 1, 8>(s, [scores], cut.behind(seen), [sums]);
        }
    }
}

/// Scores of R rows with all keys of a page; R rows by T vectors of keys at a time.
#[inline(always)]
fn score<S: Simd, E: Element, const R: usize, const T: usize>(
    s: S,
    packed: &[f32],
    keys: &[E],
    next: &[u8],
    scores: &mut Scores,
) {
    let steps = keys.len() / (T * LANES);
    let lines_per_step = next.len().div_ceil(CACHE_LINE).div_ceil(steps.max(1));
    let mut fetched = 0;
    for block in (0..PAGE).step_by(T * LANES) {
        let mut sums = [[s.splat(0.0); T]; R];
        for (keys, q) in keys.chunks_exact(PAGE).zip(packed.chunks_exact(R)) {
            for _ in 0..lines_per_step {
                s.prefetch(next, fetched);
                fetched += CACHE_LINE;
            }
            let keys = &keys[block..block + T * LANES];
            let mut k = [s.splat(0.0); T];
            for t in 0..T {
                k[t] = E::load(s, &keys[t * LANES..]);
            }
            for r in 0..R {
                let q = s.splat(q[r]);
                for t in 0..T {
                    sums[r][t] = s.mul_add(q, k[t], sums[r][t]);
                }
            }
        }
        for r in 0..R {
            for t in 0..T {
                s.store(sums[r][t], &mut scores[r][block + t * LANES..]);
            }
        }
    }
}

/// Values of a page, `[PAGE][stride]`.
#[derive(Clone, Copy)]
struct Rows<'a, E> {
    values: &'a [E],
    stride: usize,
}

impl<E: Element> Rows<'_, E> {
    /// sums[r] += weights[r][key] * values[key] for the keys from `start` to `end`, T vectors of a value at a time.
    #[inline(always)]
    fn add<S: Simd, const R: usize, const T: usize>(
        self,
        s: S,
        weights: [&[f32; PAGE]; R],
        (start, end): (usize, usize),
        mut sums: [&mut [f32]; R],
    ) {
        if start >= end {
            return;
        }
        let wide = self.stride / (T * LANES) * T * LANES;
        for first in (0..wide).step_by(T * LANES) {
            self.add_columns::<S, R, T>(s, &weights, (start, end), &mut sums, first);
        }
        for first in (wide..self.stride).step_by(LANES) {
            self.add_columns::<S, R, 1>(s, &weights, (start, end), &mut sums, first);
        }
    }

    #[inline(always)]
    fn add_columns<S: Simd, const R: usize, const T: usize>(
        self,
        s: S,
        weights: &[&[f32; PAGE]; R],
        (start, end): (usize, usize),
        sums: &mut [&mut [f32]; R],
        first: usize,
    ) {
        let mut acc = [[s.splat(0.0); T]; R];
        for r in 0..R {
            for t in 0..T {
                acc[r][t] = s.load(&sums[r][first + t * LANES..]);
            }
        }
        for (key, value) in (start..end.min(PAGE)).zip(self.values[start * self.stride..].chunks_exact(self.stride)) {
            let value = &value[first..first + T * LANES];
            let mut v = [s.splat(0.0); T];
            for t in 0..T {
                v[t] = E::load(s, &value[t * LANES..]);
            }
            for r in 0..R {
                let p = s.splat(weights[r][key]);
                for t in 0..T {
                    acc[r][t] = s.mul_add(p, v[t], acc[r][t]);
                }
            }
        }
        for r in 0..R {
            for t in 0..T {
                s.store(acc[r][t], &mut sums[r][first + t * LANES..]);
            }
        }
    }
}
