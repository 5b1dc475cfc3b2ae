//! The arithmetic of one page for many query rows.
//!
//! Panels of 16 columns are turned into f32 one at a time, when their turn comes:
//! ```text
//! for each panel of keys (it stays in L1), for each group of 6 rows:      6 x 16 scores in registers
//! for each row:                                                           scores to weights
//! for each panel of values (it stays in L1), for each group of 6 rows:    6 x 16 weighted values in registers
//! ```
//! 6 rows by two vectors are twelve sums, enough to hide the latency of fma, and leave registers for one step's
//! two vectors and a query element.

use super::state::{Cut, States, panel_scales, rescale, settle, soften};
use crate::kv::{BLOCK, Element, PAGE, PANEL, PageView, Panels, Scales};
use crate::simd::{Kernel, LANES, Simd};

/// Rows of a group.
pub(super) const GROUP: usize = 6;

type Weights = [[f32; PAGE]; GROUP];

/// Folds a page into the states of a tile.
pub(super) struct WidePage<'a> {
    pub(super) page: PageView<'a>,
    /// `[groups][head_dim][GROUP]`: scaled queries, zero for rows that fill up the last group.
    pub(super) packed: &'a [f32],
    /// `[rows]`: the keys of this page that a row sees, as (start, end).
    pub(super) seen: &'a [(usize, usize)],
    /// `[groups]`: those of its rows.
    pub(super) cuts: &'a [Cut],
    /// Room for a panel of keys or values.
    pub(super) panel: &'a mut [f32],
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
        match self.page {
            PageView::F32(page) => self.fold(s, page),
            PageView::F16(page) => self.fold(s, page),
            PageView::I8(page) => self.fold(s, page),
        }
    }
}

impl WidePage<'_> {
    #[inline(always)]
    fn fold<S: Simd, E: Element>(self, s: S, page: Panels<'_, E>) {
        let Self { packed, seen, cuts, panel: room, scores, width, states, .. } = self;
        let head_dim = page.keys.len() / PAGE;
        let [key_scales, value_scales] = page.scales.map_or([None; 2], |scales| scales.map(Some));
        for (index, panel) in page.keys.chunks_exact(head_dim * PANEL).enumerate() {
            let columns = (index * PANEL, (index + 1) * PANEL);
            if !cuts.iter().any(|cut| cut.touches(columns)) {
                continue;
            }
            let panel = E::unpack(s, panel, room).as_chunks().0;
            for ((packed, scores), cut) in packed.chunks_exact(head_dim * GROUP).zip(scores.iter_mut()).zip(cuts) {
                if cut.touches(columns) {
                    score::<S, E>(s, packed.as_chunks().0, panel, key_scales, scores, index);
                }
            }
        }
        let rows = scores.as_flattened_mut().iter_mut().zip(seen);
        for ((row, mark), values) in rows.zip(states.marks).zip(states.values.chunks_exact_mut(width)) {
            if row.1.0 < row.1.1 {
                soften(s, row.0, *row.1, mark, values);
            }
        }
        let mut scaled = [[0.0; PAGE]; GROUP];
        for (index, panel) in page.values.chunks_exact(PAGE * PANEL).enumerate() {
            let panel = E::unpack(s, panel, room).as_chunks().0;
            let scales = value_scales.map(|scales| &scales[index * PANEL / BLOCK]);
            let groups = scores.iter().zip(states.values.chunks_exact_mut(GROUP * width));
            for (((weights, values), seen), cut) in groups.zip(seen.chunks(GROUP)).zip(cuts) {
                let place = (width, index * PANEL);
                if let Some(scales) = scales {
                    rescale(s, weights.each_ref(), scales, &mut scaled);
                    weigh(s, &scaled, panel, (seen, cut), values, place);
                } else {
                    weigh(s, weights, panel, (seen, cut), values, place);
                }
            }
        }
    }
}

/// Scores of a group with the keys of panel `index`.
#[inline(always)]
fn score<S: Simd, E: Element>(
    s: S,
    packed: &[[f32; GROUP]],
    keys: &[[f32; PANEL]],
    scales: Option<Scales<'_>>,
    scores: &mut Weights,
    index: usize,
) {
    let size = if E::SCALED { BLOCK } else { keys.len() };
    for (block, (packed, keys)) in packed.chunks(size).zip(keys.chunks(size)).enumerate() {
        let mut sums = [[s.splat(0.0); 2]; GROUP];
        for (q, key) in packed.iter().zip(keys) {
            let k = [s.load(key), s.load(&key[LANES..])];
            for r in 0..GROUP {
                let q = s.splat(q[r]);
                sums[r][0] = s.mul_add(q, k[0], sums[r][0]);
                sums[r][1] = s.mul_add(q, k[1], sums[r][1]);
            }
        }
        let scales = if E::SCALED { panel_scales(s, scales, block, index) } else { None };
        for r in 0..GROUP {
            settle(s, sums[r], scales, block, &mut scores[r].as_chunks_mut().0[index]);
        }
    }
}

/// Adds a panel's weighted values to columns `first..` of a group's states. Rows see different keys at the ends of
/// what they see: each takes those alone, so that its order of additions is always by position.
#[inline(always)]
fn weigh<S: Simd>(
    s: S,
    weights: &Weights,
    panel: &[[f32; PANEL]],
    (seen, cut): (&[(usize, usize)], &Cut),
    values: &mut [f32],
    (width, first): (usize, usize),
) {
    if cut.is_even() {
        return add::<S, GROUP>(s, weights, cut.common, panel, values, width, first);
    }
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
