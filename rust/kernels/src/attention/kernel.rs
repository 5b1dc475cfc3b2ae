//! The arithmetic of one page, for up to four query rows that share its keys and values.

use half::f16;

use super::tile::lanes;
use crate::kv::PAGE;
use crate::simd::{Kernel, LANES, Simd, exp};

/// Most query rows of one kernel call: four rows by two vectors of keys keep eight sums in registers.
pub(super) const GROUP: usize = 4;

const CACHE_LINE: usize = 64;

/// Keys `[head_dim][PAGE]`, values `[PAGE][width]`.
#[derive(Clone, Copy)]
pub(super) enum Pages<'a> {
    F32(&'a [f32], &'a [f32]),
    F16(&'a [f16], &'a [f16]),
}

/// Folds a page into the states of a group.
pub(super) struct Page<'a> {
    pub(super) pages: Pages<'a>,
    /// The page that comes next, which this one's arithmetic gives time to fetch; empty if there is none.
    pub(super) next: &'a [u8],
    /// `[head_dim][lanes(members)]`, scaled.
    pub(super) packed: &'a [f32],
    pub(super) members: usize,
    /// For each member the keys of this page that it sees, as (start, end).
    pub(super) seen: [(usize, usize); GROUP],
    pub(super) width: usize,
    /// `[members][2 + width]`: maximum, sum, weighted values.
    pub(super) state: &'a mut [f32],
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

impl Kernel for Page<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        match self.pages {
            Pages::F32(keys, values) => self.fold(s, keys, values),
            Pages::F16(keys, values) => self.fold(s, keys, values),
        }
    }
}

type Scores = [[f32; PAGE]; GROUP];

impl Page<'_> {
    #[inline(always)]
    fn fold<S: Simd, E: Element>(&mut self, s: S, keys: &[E], values: &[E]) {
        let mut scores = [[0.0; PAGE]; GROUP];
        match lanes(self.members) {
            1 => score::<S, E, 1, 8>(s, self.packed, keys, self.next, &mut scores),
            2 => score::<S, E, 2, 4>(s, self.packed, keys, self.next, &mut scores),
            _ => score::<S, E, 4, 2>(s, self.packed, keys, self.next, &mut scores),
        }
        let stride = self.width + 2;
        for (member, state) in self.state.chunks_exact_mut(stride).enumerate() {
            if self.seen[member].0 < self.seen[member].1 {
                soften(s, &mut scores[member], self.seen[member], state);
            }
        }
        self.weigh(s, &scores, values);
    }

    /// Adds the weighted values. Rows see different keys at the ends of what they see: each row takes the keys
    /// before and behind the common part alone, so that its order of additions is always by position.
    #[inline(always)]
    fn weigh<S: Simd, E: Element>(&mut self, s: S, scores: &Scores, values: &[E]) {
        let seen = &self.seen[..self.members];
        let start = seen.iter().map(|seen| seen.0).max().unwrap_or(0);
        let end = seen.iter().map(|seen| seen.1).min().unwrap_or(0);
        let width = self.width;
        if start >= end || self.members == 1 {
            for (member, state) in self.state.chunks_exact_mut(width + 2).enumerate() {
                add_values::<S, E, 1, 8>(s, &[&scores[member]], self.seen[member], values, width, [&mut state[2..]]);
            }
            return;
        }
        for (member, state) in self.state.chunks_exact_mut(width + 2).enumerate() {
            let before = (self.seen[member].0, start);
            add_values::<S, E, 1, 8>(s, &[&scores[member]], before, values, width, [&mut state[2..]]);
        }
        let mut rows = self.state.chunks_exact_mut(width + 2).map(|state| &mut state[2..]);
        match (rows.next(), rows.next(), rows.next(), rows.next()) {
            (Some(a), Some(b), Some(c), Some(d)) => {
                let weights = [&scores[0], &scores[1], &scores[2], &scores[3]];
                add_values::<S, E, 4, 2>(s, &weights, (start, end), values, width, [a, b, c, d]);
            }
            (Some(a), Some(b), c, _) => {
                add_values::<S, E, 2, 4>(s, &[&scores[0], &scores[1]], (start, end), values, width, [a, b]);
                if let Some(c) = c {
                    add_values::<S, E, 1, 8>(s, &[&scores[2]], (start, end), values, width, [c]);
                }
            }
            _ => {}
        }
        for (member, state) in self.state.chunks_exact_mut(width + 2).enumerate() {
            let behind = (end, self.seen[member].1);
            add_values::<S, E, 1, 8>(s, &[&scores[member]], behind, values, width, [&mut state[2..]]);
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

/// Turns a row's scores into weights exp(score - new maximum), and brings its state to that maximum.
#[inline(always)]
fn soften<S: Simd>(s: S, scores: &mut [f32; PAGE], (start, end): (usize, usize), state: &mut [f32]) {
    scores[..start].fill(f32::NEG_INFINITY);
    scores[end..].fill(f32::NEG_INFINITY);
    let mut most = s.splat(state[0]);
    for part in scores.chunks_exact(LANES) {
        most = s.max(s.load(part), most);
    }
    let most = s.largest(most);
    let correction = s.lanes(exp(s, s.splat(state[0] - most)))[0];
    let mut sum = s.splat(0.0);
    for part in scores.chunks_exact_mut(LANES) {
        let p = exp(s, s.sub(s.load(part), s.splat(most)));
        sum = s.add(sum, p);
        s.store(p, part);
    }
    state[0] = most;
    state[1] = state[1].mul_add(correction, s.sum(sum));
    // Bitwise, 1 * x = x.
    if correction.to_bits() != 1f32.to_bits() {
        for part in state[2..].chunks_exact_mut(LANES) {
            s.store(s.mul(s.load(part), s.splat(correction)), part);
        }
    }
}

/// sums[r] += weights[r][key] * values[key] for the keys from `start` to `end`, T vectors of a value at a time.
#[inline(always)]
fn add_values<S: Simd, E: Element, const R: usize, const T: usize>(
    s: S,
    weights: &[&[f32; PAGE]; R],
    (start, end): (usize, usize),
    values: &[E],
    width: usize,
    mut sums: [&mut [f32]; R],
) {
    if start >= end {
        return;
    }
    let wide = width / (T * LANES) * T * LANES;
    for first in (0..wide).step_by(T * LANES) {
        add_columns::<S, E, R, T>(s, weights, (start, end), values, width, &mut sums, first);
    }
    for first in (wide..width).step_by(LANES) {
        add_columns::<S, E, R, 1>(s, weights, (start, end), values, width, &mut sums, first);
    }
}

#[inline(always)]
fn add_columns<S: Simd, E: Element, const R: usize, const T: usize>(
    s: S,
    weights: &[&[f32; PAGE]; R],
    (start, end): (usize, usize),
    values: &[E],
    width: usize,
    sums: &mut [&mut [f32]; R],
    first: usize,
) {
    let mut acc = [[s.splat(0.0); T]; R];
    for r in 0..R {
        for t in 0..T {
            acc[r][t] = s.load(&sums[r][first + t * LANES..]);
        }
    }
    for (key, value) in (start..end.min(PAGE)).zip(values[start * width..].chunks_exact(width)) {
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

/// Folds the state `part` of one row into `total`.
pub(super) struct Merge<'a> {
    pub(super) total: &'a mut [f32],
    pub(super) part: &'a [f32],
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (total, part) = (self.total, self.part);
        // A sum is at least 1 once a key was seen.
        if part[1] == 0.0 {
            return;
        }
        if total[1] == 0.0 {
            total.copy_from_slice(part);
            return;
        }
        let most = if part[0] > total[0] { part[0] } else { total[0] };
        let old = s.lanes(exp(s, s.splat(total[0] - most)))[0];
        let new = s.lanes(exp(s, s.splat(part[0] - most)))[0];
        total[0] = most;
        total[1] = part[1].mul_add(new, total[1] * old);
        for (to, from) in total[2..].chunks_exact_mut(LANES).zip(part[2..].chunks_exact(LANES)) {
            let kept = s.mul(s.load(to), s.splat(old));
            s.store(s.mul_add(s.load(from), s.splat(new), kept), to);
        }
    }
}

/// to = from, exactly.
pub(super) struct Widen<'a> {
    pub(super) from: &'a [f16],
    pub(super) to: &'a mut [f32],
}

impl Kernel for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (from, to) in self.from.chunks_exact(LANES).zip(self.to.chunks_exact_mut(LANES)) {
            s.store(s.load_f16(from), to);
        }
    }
}
