//! The arithmetic of one page for many query rows.
//!
//! A page is first laid out in panels of 16 columns, in f32. Then
//! ```text
//! for each panel of keys (it stays in L1), for each group of 6 rows:      6 x 16 scores in registers
//! for each row:                                                           scores to weights
//! for each panel of values (it stays in L1), for each group of 6 rows:    6 x 16 weighted values in registers
//! ```
//! 6 rows by two vectors are twelve sums, enough to hide the latency of fma, and leave registers for one step's
//! two vectors and a query element.

use super::state::{Cut, States, soften};
use crate::kv::{PAGE, PageView};
use crate::simd::{Kernel, LANES, Simd};

/// Rows of a group.
pub(super) const GROUP: usize = 6;

/// Columns of a panel: one cache line, two vectors.
pub(super) const PANEL: usize = 2 * LANES;

type Weights = [[f32; PAGE]; GROUP];

/// Lays a page out in panels: keys `[PAGE / PANEL][head_dim][PANEL]`, values `[width / PANEL][PAGE][PANEL]` with
/// zeros behind the end of a row.
pub(super) struct LayOut<'a> {
    pub(super) from: PageView<'a>,
    /// Values per row in the store.
    pub(super) stride: usize,
    pub(super) keys: &'a mut [f32],
    pub(super) values: &'a mut [f32],
}

impl Kernel for LayOut<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.from {
            PageView::F32(keys, values) => {
                panels(s, keys, PAGE, self.keys, S::load);
                panels(s, values, self.stride, self.values, S::load);
            }
            PageView::F16(keys, values) => {
                panels(s, keys, PAGE, self.keys, S::load_f16);
                panels(s, values, self.stride, self.values, S::load_f16);
            }
        }
    }
}

/// Rows of `stride` elements, a multiple of `LANES`, to panels.
#[inline(always)]
fn panels<S: Simd, E>(s: S, from: &[E], stride: usize, to: &mut [f32], load: impl Fn(S, &[E]) -> S::V) {
    let rows = from.len() / stride;
    for (index, panel) in to.chunks_exact_mut(rows * PANEL).enumerate() {
        for (from, to) in from.chunks_exact(stride).zip(panel.as_chunks_mut::<PANEL>().0) {
            let from = &from[index * PANEL..];
            s.store(load(s, from), to);
            let second = if from.len() > LANES { load(s, &from[LANES..]) } else { s.splat(0.0) };
            s.store(second, &mut to[LANES..]);
        }
    }
}

/// Folds a page into the states of a tile.
pub(super) struct WidePage<'a> {
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    /// `[groups][head_dim][GROUP]`: scaled queries, zero for rows that fill up the last group.
    pub(super) packed: &'a [f32],
    /// `[rows]`: the keys of this page that a row sees, as (start, end).
    pub(super) seen: &'a [(usize, usize)],
    /// `[groups]`: room for scores.
    pub(super) scores: &'a mut [Weights],
    pub(super) width: usize,
    /// Those of `groups * GROUP` rows.
    pub(super) states: States<'a>,
}

impl Kernel for WidePage<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { keys, values, packed, seen, scores, width, states } = self;
        let head_dim = keys.len() / PAGE;
        for (index, panel) in keys.chunks_exact(head_dim * PANEL).enumerate() {
            let columns = index * PANEL..(index + 1) * PANEL;
            let groups = packed.chunks_exact(head_dim * GROUP).zip(scores.iter_mut()).zip(seen.chunks(GROUP));
            for ((packed, scores), seen) in groups {
                if seen.iter().any(|&(start, end)| start.max(columns.start) < end.min(columns.end)) {
                    score(s, packed.as_chunks().0, panel.as_chunks().0, scores, columns.start);
                }
            }
        }
        let rows = scores.as_flattened_mut().iter_mut().zip(seen);
        for ((row, mark), values) in rows.zip(states.marks).zip(states.values.chunks_exact_mut(width)) {
            if row.1.0 < row.1.1 {
                soften(s, row.0, *row.1, mark, values);
            }
        }
        for (index, panel) in values.as_chunks::<PANEL>().0.chunks_exact(PAGE).enumerate() {
            let first = index * PANEL;
            let groups = scores.iter().zip(states.values.chunks_exact_mut(GROUP * width)).zip(seen.chunks(GROUP));
            for ((weights, values), seen) in groups {
                weigh(s, weights, panel, seen, values, width, first);
            }
        }
    }
}

/// Scores of a group with the keys of a panel, to columns from `first` on.
#[inline(always)]
fn score<S: Simd>(s: S, packed: &[[f32; GROUP]], keys: &[[f32; PANEL]], scores: &mut Weights, first: usize) {
    let mut sums = [[s.splat(0.0); 2]; GROUP];
    for (q, key) in packed.iter().zip(keys) {
        let k = [s.load(key), s.load(&key[LANES..])];
        for r in 0..GROUP {
            let q = s.splat(q[r]);
            sums[r][0] = s.mul_add(q, k[0], sums[r][0]);
            sums[r][1] = s.mul_add(q, k[1], sums[r][1]);
        }
    }
    for r in 0..GROUP {
        let to = &mut scores[r][first..first + PANEL];
        s.store(sums[r][0], to);
        s.store(sums[r][1], &mut to[LANES..]);
    }
}

/// Adds a panel's weighted values to columns `first..` of a group's states. Rows see different keys at the ends of
/// what they see: each takes those alone, so that its order of additions is always by position.
#[inline(always)]
fn weigh<S: Simd>(
    s: S,
    weights: &Weights,
    panel: &[[f32; PANEL]],
    seen: &[(usize, usize)],
    values: &mut [f32],
    width: usize,
    first: usize,
) {
    let cut = Cut::new(seen);
    for (r, &seen) in seen.iter().enumerate() {
        let (weights, values) = (std::array::from_ref(&weights[r]), &mut values[r * width..]);
        add::<S, 1>(s, weights, cut.before(seen), panel, values, width, first);
    }
    add::<S, GROUP>(s, weights, cut.common, panel, values, width, first);
    for (r, &seen) in seen.iter().enumerate() {
        let (weights, values) = (std::array::from_ref(&weights[r]), &mut values[r * width..]);
        add::<S, 1>(s, weights, cut.behind(seen), panel, values, width, first);
    }
}

/// values[r][first..] += weights[r][key] * panel[key] for the keys from `start` to `end`, in rising order.
#[inline(always)]
fn add<S: Simd, const R: usize>(
    s: S,
    weights: &[[f32; PAGE]; R],
    (start, end): (usize, usize),
    panel: &[[f32; PANEL]],
    values: &mut [f32],
    width: usize,
    first: usize,
) {
    if start >= end {
        return;
    }
    let mut sums = [[s.splat(0.0); 2]; R];
    for r in 0..R {
        let from = &values[r * width + first..][..PANEL];
        sums[r] = [s.load(from), s.load(&from[LANES..])];
    }
    for (key, value) in (start..end.min(PAGE)).zip(&panel[start..]) {
        let v = [s.load(value), s.load(&value[LANES..])];
        for r in 0..R {
            let p = s.splat(weights[r][key]);
            sums[r][0] = s.mul_add(p, v[0], sums[r][0]);
            sums[r][1] = s.mul_add(p, v[1], sums[r][1]);
        }
    }
    for r in 0..R {
        let to = &mut values[r * width + first..][..PANEL];
        s.store(sums[r][0], to);
        s.store(sums[r][1], &mut to[LANES..]);
    }
}
