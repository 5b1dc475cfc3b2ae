//! The arithmetic of one page for many query rows.
//!
//! Panels of 16 columns are turned into f32 when their turn comes:
//! ```text
//! for each panel of keys (it stays in L1), for each group of 6 rows:      6 x 16 scores in registers
//! for each row:                                                           scores to weights
//! for each panel of values (it stays in L1), for each group of 6 rows:    6 x 16 weighted values in registers
//! ```
//! With AVX-512 all of that is done for four panels at a time: 24 sums. With AVX2, whose vectors are two registers,
//! it is one panel: twelve registers of sums, enough to hide the latency of fma, leave some for a step's operands.
//! Keys come [`DEPTH`] elements at a time, else four panels would not stay in L1.

#![allow(clippy::needless_range_loop, reason = "r and p index several arrays of vectors at a time")]

use super::state::{Cut, States, panel_scales, rescale, settle, soften};
use crate::kv::{BLOCK, Element, PAGE, PANEL, PageView, Panels, Scales};
use crate::simd::{Kernel, Simd};

/// Rows of a group.
pub(super) const GROUP: usize = 6;

/// Most panels that are worked on at a time.
const PANELS: usize = 4;

/// Elements of keys that are worked on at a time: whole blocks.
const DEPTH: usize = 4 * BLOCK;

/// Floats of room for panels of keys or values.
pub(super) const ROOM: usize = PANELS * PANEL * if DEPTH > PAGE { DEPTH } else { PAGE };

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
    /// [`ROOM`] floats for panels of keys or values.
    pub(super) panels: &'a mut [f32],
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
    fn fold<S: Simd, E: Element>(mut self, s: S, page: Panels<'_, E>) {
        let [key_scales, value_scales] = page.scales.map_or([None; 2], |scales| scales.map(Some));
        if S::MANY {
            self.score::<S, E, PANELS>(s, page.keys, key_scales);
        } else {
            self.score::<S, E, 1>(s, page.keys, key_scales);
        }
        let rows = self.scores.as_flattened_mut().iter_mut().zip(self.seen);
        let states = self.states.marks.iter_mut().zip(self.states.values.chunks_exact_mut(self.width));
        for ((scores, &seen), (mark, values)) in rows.zip(states) {
            if seen.0 < seen.1 {
                soften(s, scores, seen, mark, values);
            }
        }
        match (S::MANY, E::SCALED) {
            (true, true) => self.weigh::<S, E, PANELS, { PANELS * PANEL / BLOCK }>(s, page.values, value_scales),
            (true, false) => self.weigh::<S, E, PANELS, 1>(s, page.values, value_scales),
            (false, _) => self.weigh::<S, E, 1, 1>(s, page.values, value_scales),
        }
    }

    /// Scores of all rows, P panels of keys at a time.
    #[inline(always)]
    fn score<S: Simd, E: Element, const P: usize>(&mut self, s: S, keys: &[E], scales: Option<Scales<'_>>) {
        let head_dim = keys.len() / PAGE;
        for (index, panels) in keys.chunks_exact(P * head_dim * PANEL).enumerate() {
            let first = index * P;
            let columns = (first * PANEL, (first + P) * PANEL);
            if !self.cuts.iter().any(|cut| cut.touches(columns)) {
                continue;
            }
            for start in (0..head_dim).step_by(DEPTH) {
                let depth = DEPTH.min(head_dim - start);
                let mut rest = &mut *self.panels;
                let mut unpacked = [&[][..]; P];
                for (p, unpacked) in unpacked.iter_mut().enumerate() {
                    let (room, others) = rest.split_at_mut(depth * PANEL);
                    let panel = &panels[(p * head_dim + start) * PANEL..][..depth * PANEL];
                    (*unpacked, rest) = (E::unpack(s, panel, room).as_chunks().0, others);
                }
                let groups = self.packed.chunks_exact(head_dim * GROUP).zip(self.scores.iter_mut());
                for ((packed, scores), cut) in groups.zip(self.cuts) {
                    if cut.touches(columns) {
                        let packed = &packed.as_chunks().0[start..][..depth];
                        score::<S, E, P>(s, packed, unpacked, scales, scores, (first, start));
                    }
                }
            }
        }
    }

    /// Adds the weighted values of all rows, P panels at a time with W blocks of scales.
    #[inline(always)]
    fn weigh<S: Simd, E: Element, const P: usize, const W: usize>(
        &mut self,
        s: S,
        values: &[E],
        scales: Option<Scales<'_>>,
    ) {
        let (parts, rest) = values.split_at(values.len() / (P * PAGE * PANEL) * P * PAGE * PANEL);
        for (index, panels) in parts.chunks_exact(P * PAGE * PANEL).enumerate() {
            self.weigh_panels::<S, E, P, W>(s, panels, scales, index * P);
        }
        for (index, panel) in rest.chunks_exact(PAGE * PANEL).enumerate() {
            self.weigh_panels::<S, E, 1, 1>(s, panel, scales, parts.len() / (PAGE * PANEL) + index);
        }
    }

    /// The same for panels `first..first + P`.
    #[inline(always)]
    fn weigh_panels<S: Simd, E: Element, const P: usize, const W: usize>(
        &mut self,
        s: S,
        panels: &[E],
        scales: Option<Scales<'_>>,
        first: usize,
    ) {
        let mut scaled = [[[0.0; PAGE]; GROUP]; W];
        let panels = E::unpack(s, panels, self.panels).as_chunks().0;
        let mut parts = [panels; P];
        for (part, panel) in parts.iter_mut().zip(panels.chunks_exact(PAGE)) {
            *part = panel;
        }
        let groups = self.scores.iter().zip(self.states.values.chunks_exact_mut(GROUP * self.width));
        for (((weights, values), seen), cut) in groups.zip(self.seen.chunks(GROUP)).zip(self.cuts) {
            let mut weights = [weights; W];
            if let Some(scales) = scales.filter(|_| E::SCALED) {
                for (scaled, scales) in scaled.iter_mut().zip(&scales[first * PANEL / BLOCK..]) {
                    rescale(s, weights[0], scales, scaled);
                }
                for (weights, scaled) in weights.iter_mut().zip(&scaled) {
                    *weights = scaled;
                }
            }
            weigh::<S, P, W>(s, weights, parts, (seen, cut), values, (self.width, first * PANEL));
        }
    }
}

/// Scores of a group with elements `start..` of the keys of panels `first..first + P`, added to those of the elements
/// before.
#[inline(always)]
fn score<S: Simd, E: Element, const P: usize>(
    s: S,
    packed: &[[f32; GROUP]],
    panels: [&[[f32; PANEL]]; P],
    scales: Option<Scales<'_>>,
    scores: &mut Weights,
    (first, start): (usize, usize),
) {
    let size = if E::SCALED { BLOCK } else { DEPTH };
    for (block, packed) in packed.chunks(size).enumerate() {
        let mut sums = [[s.splat(0.0); P]; GROUP];
        if !E::SCALED && start > 0 {
            for r in 0..GROUP {
                for p in 0..P {
                    sums[r][p] = s.load(&scores[r].as_chunks::<PANEL>().0[first + p]);
                }
            }
        }
        let mut panels = panels;
        for panel in &mut panels {
            *panel = &panel[block * size..][..packed.len()];
        }
        for (d, q) in packed.iter().enumerate() {
            let mut k = [s.splat(0.0); P];
            for p in 0..P {
                k[p] = s.load(&panels[p][d]);
            }
            for r in 0..GROUP {
                let q = s.splat(q[r]);
                for p in 0..P {
                    sums[r][p] = s.mul_add(q, k[p], sums[r][p]);
                }
            }
        }
        let block = start / BLOCK + block;
        for p in 0..P {
            let panel = first + p;
            let scales = if E::SCALED { panel_scales(s, scales, block, panel) } else { None };
            for r in 0..GROUP {
                settle(s, sums[r][p], scales, block, &mut scores[r].as_chunks_mut().0[panel]);
            }
        }
    }
}

/// Adds the weighted values of P panels to columns `first..` of a group's states. Rows see different keys at the ends
/// of what they see: each takes those alone, so that its order of additions is always by position.
#[inline(always)]
fn weigh<S: Simd, const P: usize, const W: usize>(
    s: S,
    weights: [&Weights; W],
    panels: [&[[f32; PANEL]]; P],
    (seen, cut): (&[(usize, usize)], &Cut),
    values: &mut [f32],
    (width, first): (usize, usize),
) {
    if cut.is_even() {
        return add::<S, GROUP, P, W>(s, weights, cut.common, panels, values, width, first);
    }
    for (r, &seen) in seen.iter().enumerate() {
        let values = &mut values[r * width..];
        add::<S, 1, P, W>(s, row(weights, r), cut.before(seen), panels, values, width, first);
    }
    add::<S, GROUP, P, W>(s, weights, cut.common, panels, values, width, first);
    for (r, &seen) in seen.iter().enumerate() {
        let values = &mut values[r * width..];
        add::<S, 1, P, W>(s, row(weights, r), cut.behind(seen), panels, values, width, first);
    }
}

/// Row `r` alone.
#[inline(always)]
fn row<const W: usize>(weights: [&Weights; W], r: usize) -> [&[[f32; PAGE]; 1]; W] {
    let mut alone = [std::array::from_ref(&weights[0][r]); W];
    for w in 1..W {
        alone[w] = std::array::from_ref(&weights[w][r]);
    }
    alone
}

/// values[r][first..] += weights[..][r][key] * panels[..][key] for the keys from `start` to `end`, in rising order.
#[inline(always)]
fn add<S: Simd, const R: usize, const P: usize, const W: usize>(
    s: S,
    weights: [&[[f32; PAGE]; R]; W],
    (start, end): (usize, usize),
    panels: [&[[f32; PANEL]]; P],
    values: &mut [f32],
    width: usize,
    first: usize,
) {
    if start >= end {
        return;
    }
    let mut sums = [[s.splat(0.0); P]; R];
    for r in 0..R {
        let from = &values[r * width + first..][..P * PANEL];
        for p in 0..P {
            sums[r][p] = s.load(&from[p * PANEL..]);
        }
    }
    for key in start..end.min(PAGE) {
        let mut v = [s.splat(0.0); P];
        for p in 0..P {
            v[p] = s.load(&panels[p][key]);
        }
        for r in 0..R {
            for p in 0..P {
                let weight = s.splat(weights[p * W / P][r][key]);
                sums[r][p] = s.mul_add(weight, v[p], sums[r][p]);
            }
        }
    }
    for r in 0..R {
        let to = &mut values[r * width + first..][..P * PANEL];
        for p in 0..P {
            s.store(sums[r][p], &mut to[p * PANEL..]);
        }
    }
}
