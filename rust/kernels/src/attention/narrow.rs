//! The arithmetic of one page for up to four query rows, straight from the store: for decode and short pieces of a
//! prompt, where keys and values come from memory and are used a few times.

#![allow(clippy::needless_range_loop, reason = "r and p index several arrays of vectors at a time")]

use std::array::from_ref;
use std::ops::Range;

use super::state::{Cut, States, panel_scales, rescale, settle, soften};
use crate::kv::{BLOCK, Element, PAGE, PANEL, PageView, Panels, Scales};
use crate::simd::{Kernel, Simd};

/// Most query rows of one kernel call. With AVX2 four rows by a panel keep eight registers of sums, and fewer rows take
/// several panels at a time to have as many; with AVX-512 four rows take four panels.
pub(super) const GROUP: usize = 4;

const CACHE_LINE: usize = 64;

/// Rows that the kernel for a group of `members` computes: the next power of two.
pub(super) fn lanes(members: usize) -> usize {
    members.next_power_of_two()
}

/// Folds a page into the states of a group.
pub(super) struct NarrowPage<'a> {
    pub(super) page: PageView<'a>,
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

impl Kernel for NarrowPage<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        match self.page {
            PageView::F32(page) => self.fold(s, page),
            PageView::F16(page) => self.fold(s, page),
            PageView::I8(page) => self.fold(s, page),
        }
    }
}

type Scores = [[f32; PAGE]; GROUP];

impl NarrowPage<'_> {
    #[inline(always)]
    fn fold<S: Simd, E: Element>(&mut self, s: S, page: Panels<'_, E>) {
        let mut scores = [[0.0; PAGE]; GROUP];
        let [key_scales, value_scales] = page.scales.map_or([None; 2], |scales| scales.map(Some));
        let (next_keys, rest) = self.next.split_at(self.next.len().min(size_of_val(page.keys)));
        let (next_values, next_scales) = rest.split_at(rest.len().min(size_of_val(page.values)));
        for at in (0..next_scales.len()).step_by(CACHE_LINE) {
            s.prefetch(next_scales, at);
        }
        let keys = Part { elements: page.keys, scales: key_scales, next: next_keys };
        let values = Part { elements: page.values, scales: value_scales, next: next_values };
        match lanes(self.seen.len()) {
            1 => keys.score::<S, 1, 4>(s, self.packed, &mut scores),
            2 if S::MANY => keys.score::<S, 2, 4>(s, self.packed, &mut scores),
            2 => keys.score::<S, 2, 2>(s, self.packed, &mut scores),
            _ if S::MANY => keys.score::<S, 4, 4>(s, self.packed, &mut scores),
            _ => keys.score::<S, 4, 1>(s, self.packed, &mut scores),
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
    fn weigh<S: Simd, E: Element>(&mut self, s: S, scores: &Scores, values: Part<'_, E>) {
        let cut = Cut::new(self.seen);
        let alone = Part { next: &[], ..values };
        if !cut.is_even() {
            for ((sums, scores), &seen) in self.states.values.chunks_exact_mut(self.width).zip(scores).zip(self.seen) {
                alone.add::<S, 1>(s, from_ref(scores), cut.before(seen), [sums]);
            }
        }
        let mut rows = self.states.values.chunks_exact_mut(self.width);
        match (rows.next(), rows.next(), rows.next(), rows.next()) {
            (Some(a), Some(b), Some(c), Some(d)) => {
                values.add::<S, 4>(s, scores, cut.common, [a, b, c, d]);
            }
            (Some(a), Some(b), c, _) => {
                values.add::<S, 2>(s, &[scores[0], scores[1]], cut.common, [a, b]);
                if let Some(c) = c {
                    alone.add::<S, 1>(s, from_ref(&scores[2]), cut.common, [c]);
                }
            }
            (Some(a), ..) => values.add::<S, 1>(s, from_ref(&scores[0]), cut.common, [a]),
            _ => {}
        }
        if !cut.is_even() {
            for ((sums, scores), &seen) in self.states.values.chunks_exact_mut(self.width).zip(scores).zip(self.seen) {
                alone.add::<S, 1>(s, from_ref(scores), cut.behind(seen), [sums]);
            }
        }
    }
}

/// Keys or values of a page, in panels.
#[derive(Clone, Copy)]
struct Part<'a, E> {
    elements: &'a [E],
    scales: Option<Scales<'a>>,
    /// Those of the next page.
    next: &'a [u8],
}

impl<'a, E: Element> Part<'a, E> {
    /// Rows of panels that fill a cache line.
    const ROWS_PER_LINE: usize = CACHE_LINE.div_ceil(PANEL * size_of::<E>());

    /// P panels of `rows` rows from panel `first` on.
    #[inline(always)]
    fn panels<const P: usize>(self, first: usize, rows: usize) -> [&'a [[E; PANEL]]; P] {
        let mut panels = [&[][..]; P];
        for (p, panel) in panels.iter_mut().enumerate() {
            *panel = &self.elements.as_chunks().0[(first + p) * rows..][..rows];
        }
        panels
    }

    /// Asks for row `row` of the next page's panels `first..first + P`.
    #[inline(always)]
    fn prefetch<S: Simd, const P: usize>(self, s: S, first: usize, rows: usize, row: usize) {
        if row.is_multiple_of(Self::ROWS_PER_LINE) {
            for p in 0..P {
                s.prefetch(self.next, ((first + p) * rows + row) * PANEL * size_of::<E>());
            }
        }
    }

    /// Scores of R rows with all keys of a page, P panels at a time.
    #[inline(always)]
    fn score<S: Simd, const R: usize, const P: usize>(self, s: S, packed: &[f32], scores: &mut Scores) {
        let head_dim = self.elements.len() / PAGE;
        let packed = &packed.as_chunks::<R>().0[..head_dim];
        for first in (0..PAGE / PANEL).step_by(P) {
            let size = if E::SCALED { BLOCK } else { head_dim };
            for (block, packed) in packed.chunks(size).enumerate() {
                let start = block * size;
                let mut sums = [[s.splat(0.0); P]; R];
                let mut panels = self.panels::<P>(first, head_dim);
                for panel in &mut panels {
                    *panel = &panel[start..][..packed.len()];
                }
                for (d, q) in packed.iter().enumerate() {
                    self.prefetch::<S, P>(s, first, head_dim, start + d);
                    for p in 0..P {
                        let k = E::load(s, &panels[p][d]);
                        for r in 0..R {
                            sums[r][p] = s.mul_add(s.splat(q[r]), k, sums[r][p]);
                        }
                    }
                }
                for p in 0..P {
                    let panel = first + p;
                    let scales = if E::SCALED { panel_scales(s, self.scales, block, panel) } else { None };
                    for r in 0..R {
                        settle(s, sums[r][p], scales, block, &mut scores[r].as_chunks_mut().0[panel]);
                    }
                }
            }
        }
    }

    /// sums[r] += weights[r][key] * value of the key, for the keys from `start` to `end`.
    #[inline(always)]
    fn add<S: Simd, const R: usize>(
        self,
        s: S,
        weights: &[[f32; PAGE]; R],
        seen: (usize, usize),
        mut sums: [&mut [f32]; R],
    ) {
        if seen.0 >= seen.1 {
            return;
        }
        let panels = self.elements.len() / (PAGE * PANEL);
        let Some(scales) = self.scales.filter(|_| E::SCALED) else {
            let (weights, all) = ([weights], 0..panels);
            return match (S::MANY, R) {
                (true, 1 | 2) => self.add_all::<S, R, 8, 1>(s, weights, seen, &mut sums, all),
                (true, _) | (false, 1) => self.add_all::<S, R, 4, 1>(s, weights, seen, &mut sums, all),
                (false, 2) => self.add_all::<S, R, 2, 1>(s, weights, seen, &mut sums, all),
                (false, _) => self.add_all::<S, R, 1, 1>(s, weights, seen, &mut sums, all),
            };
        };
        let mut scaled = [[[0.0; PAGE]; R]; 2];
        let at_once = if S::MANY { 2 } else { 1 };
        for (index, scales) in scales.chunks(at_once).enumerate() {
            for (scaled, scales) in scaled.iter_mut().zip(scales) {
                rescale(s, weights, scales, scaled);
            }
            let first = index * at_once * BLOCK / PANEL;
            let all = first..panels.min(first + at_once * BLOCK / PANEL);
            if S::MANY {
                self.add_all::<S, R, 4, 2>(s, [&scaled[0], &scaled[1]], seen, &mut sums, all);
            } else if R < GROUP {
                self.add_all::<S, R, 2, 1>(s, [&scaled[0]], seen, &mut sums, all);
            } else {
                self.add_all::<S, R, 1, 1>(s, [&scaled[0]], seen, &mut sums, all);
            }
        }
    }

    /// The same for some panels, P at a time; each W-th part of these P has weights of its own.
    #[inline(always)]
    fn add_all<S: Simd, const R: usize, const P: usize, const W: usize>(
        self,
        s: S,
        weights: [&[[f32; PAGE]; R]; W],
        seen: (usize, usize),
        sums: &mut [&mut [f32]; R],
        panels: Range<usize>,
    ) {
        let mut first = panels.start;
        while first + P <= panels.end {
            self.add_panels::<S, R, P, W>(s, weights, seen, sums, first);
            first += P;
        }
        for (p, panel) in (first..panels.end).enumerate() {
            self.add_panels::<S, R, 1, 1>(s, [weights[p * W / P]], seen, sums, panel);
        }
    }

    #[inline(always)]
    fn add_panels<S: Simd, const R: usize, const P: usize, const W: usize>(
        self,
        s: S,
        weights: [&[[f32; PAGE]; R]; W],
        (start, end): (usize, usize),
        sums: &mut [&mut [f32]; R],
        first: usize,
    ) {
        let panels = self.panels::<P>(first, PAGE);
        let mut acc = [[s.splat(0.0); P]; R];
        for r in 0..R {
            for p in 0..P {
                acc[r][p] = s.load(&sums[r][(first + p) * PANEL..]);
            }
        }
        for key in start..end.min(PAGE) {
            self.prefetch::<S, P>(s, first, PAGE, key);
            for p in 0..P {
                let v = E::load(s, &panels[p][key]);
                for r in 0..R {
                    acc[r][p] = s.mul_add(s.splat(weights[p * W / P][r][key]), v, acc[r][p]);
                }
            }
        }
        for r in 0..R {
            for p in 0..P {
                s.store(acc[r][p], &mut sums[r][(first + p) * PANEL..]);
            }
        }
    }
}
