//! The state of online softmax: for each query row a maximum, a sum, and the weighted values so far.

use half::f16;

use crate::kv::{PAGE, PANEL, Scales};
use crate::simd::{Kernel, LANES, Simd, exp};

/// States of some query rows.
pub(super) struct States<'a> {
    /// `[rows][width]`: weighted values.
    pub(super) values: &'a mut [f32],
    /// `[rows]`: maximum, sum.
    pub(super) marks: &'a mut [[f32; 2]],
}

impl<'a> States<'a> {
    /// Floats that the states of `rows` rows take.
    pub(super) fn floats(rows: usize, width: usize) -> usize {
        rows * (width + 2)
    }

    /// Cuts `floats` up; those behind [`floats`](Self::floats) are left alone.
    pub(super) fn of(floats: &'a mut [f32], rows: usize, width: usize) -> Self {
        let (values, rest) = floats.split_at_mut(rows * width);
        Self { values, marks: rest[..2 * rows].as_chunks_mut().0 }
    }

    /// The states before any key.
    pub(super) fn clear(&mut self) {
        self.values.fill(0.0);
        self.marks.fill([f32::NEG_INFINITY, 0.0]);
    }

    /// The same states, for a while.
    pub(super) fn reborrow(&mut self) -> States<'_> {
        States { values: self.values, marks: self.marks }
    }

    /// The next `rows` rows, taken off the front.
    pub(super) fn take(&mut self, rows: usize, width: usize) -> States<'a> {
        let values = self.values.split_off_mut(..rows * width);
        let marks = self.marks.split_off_mut(..rows);
        States { values: values.unwrap_or_default(), marks: marks.unwrap_or_default() }
    }
}

/// Turns a row's scores into weights exp(score - new maximum), and brings its state to that maximum. The row sees
/// keys `start..end` of the page, at least one; the other weights become zero.
#[inline(always)]
pub(super) fn soften<S: Simd>(
    s: S,
    scores: &mut [f32; PAGE],
    (start, end): (usize, usize),
    [most, sum]: &mut [f32; 2],
    values: &mut [f32],
) {
    if end - start < PAGE {
        scores[..start].fill(f32::NEG_INFINITY);
        scores[end..].fill(f32::NEG_INFINITY);
    }
    let mut highest = s.splat(*most);
    for part in scores.as_chunks::<LANES>().0 {
        highest = s.max(s.load(part), highest);
    }
    let highest = s.largest(highest);
    let mut added = s.splat(0.0);
    for part in scores.as_chunks_mut::<LANES>().0 {
        let p = exp(s, s.sub(s.load(part), s.splat(highest)));
        added = s.add(added, p);
        s.store(p, part);
    }
    let added = s.sum(added);
    let correction = s.lanes(exp(s, s.splat(*most - highest)))[0];
    *most = highest;
    *sum = sum.mul_add(correction, added);
    // Bitwise, 1 * x = x.
    if correction.to_bits() != 1f32.to_bits() {
        for part in values.as_chunks_mut::<LANES>().0 {
            s.store(s.mul(s.load(part), s.splat(correction)), part);
        }
    }
}

/// to[r][key] = weights[r][key] * scales[key].
#[inline(always)]
pub(super) fn rescale<S: Simd, const R: usize>(
    s: S,
    weights: &[[f32; PAGE]; R],
    scales: &[f16; PAGE],
    to: &mut [[f32; PAGE]; R],
) {
    for (at, scales) in scales.as_chunks::<LANES>().0.iter().enumerate() {
        let scale = s.load_f16(scales);
        for r in 0..R {
            let weight = s.load(&weights[r].as_chunks::<LANES>().0[at]);
            s.store(s.mul(weight, scale), &mut to[r].as_chunks_mut::<LANES>().0[at]);
        }
    }
}

/// The scales of block `block` of the keys of panel `panel`; None where there are none.
#[inline(always)]
pub(super) fn panel_scales<S: Simd>(s: S, scales: Option<Scales<'_>>, block: usize, panel: usize) -> Option<S::V> {
    Some(s.load_f16(&scales?[block].as_chunks::<PANEL>().0[panel]))
}

/// Writes sums over block `block` of the queries to the scores of a panel: with scales added to what is there from
/// earlier blocks, each sum times its key's scale.
#[inline(always)]
pub(super) fn settle<S: Simd>(s: S, sums: S::V, scales: Option<S::V>, block: usize, to: &mut [f32; PANEL]) {
    let Some(scales) = scales else { return s.store(sums, to) };
    let before = if block > 0 { s.load(to) } else { s.splat(0.0) };
    s.store(s.mul_add(scales, sums, before), to);
}

/// The keys of a page that some rows see, cut into those that all of them see and what each sees besides.
pub(super) struct Cut {
    pub(super) common: (usize, usize),
    /// The smallest range that holds all that is seen.
    hull: (usize, usize),
}

impl Cut {
    pub(super) fn new(seen: &[(usize, usize)]) -> Self {
        let (mut common, mut hull) = ((0, PAGE), (PAGE, 0));
        for &(start, end) in seen {
            common = (common.0.max(start), common.1.min(end));
            if start < end {
                hull = (hull.0.min(start), hull.1.max(end));
            }
        }
        Self { common: if common.0 < common.1 { common } else { (PAGE, PAGE) }, hull }
    }

    /// Whether all rows see the same.
    #[inline(always)]
    pub(super) fn is_even(&self) -> bool {
        self.common == self.hull
    }

    /// Whether a row sees one of these keys.
    #[inline(always)]
    pub(super) fn touches(&self, (start, end): (usize, usize)) -> bool {
        self.hull.0.max(start) < self.hull.1.min(end)
    }

    /// What the row sees before the common part; all it sees if there is none.
    #[inline(always)]
    pub(super) fn before(&self, seen: (usize, usize)) -> (usize, usize) {
        (seen.0, seen.1.min(self.common.0))
    }

    /// What the row sees behind the common part.
    #[inline(always)]
    pub(super) fn behind(&self, seen: (usize, usize)) -> (usize, usize) {
        (seen.0.max(self.common.1), seen.1)
    }
}

/// Folds the later states `part` into `total`.
pub(super) struct Merge<'a> {
    pub(super) total: States<'a>,
    pub(super) part: States<'a>,
    pub(super) width: usize,
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let total = self.total.values.chunks_exact_mut(self.width).zip(self.total.marks);
        let part = self.part.values.chunks_exact(self.width).zip(self.part.marks);
        for ((total, [most, sum]), (part, &mut [part_most, part_sum])) in total.zip(part) {
            // A sum is at least 1 once a key was seen.
            if part_sum == 0.0 {
                continue;
            }
            if *sum == 0.0 {
                total.copy_from_slice(part);
                (*most, *sum) = (part_most, part_sum);
                continue;
            }
            let highest = if part_most > *most { part_most } else { *most };
            let old = s.lanes(exp(s, s.splat(*most - highest)))[0];
            let new = s.lanes(exp(s, s.splat(part_most - highest)))[0];
            *most = highest;
            *sum = part_sum.mul_add(new, *sum * old);
            for (to, from) in total.chunks_exact_mut(LANES).zip(part.chunks_exact(LANES)) {
                let kept = s.mul(s.load(to), s.splat(old));
                s.store(s.mul_add(s.load(from), s.splat(new), kept), to);
            }
        }
    }
}
