//! Rows as they are stored, and strips in two planes, turned into strips group by group on their way to the products.

use std::ops::Range;

use crate::formats::strips::{Words, pack_group};
use crate::formats::{BLOCK, STRIP, Weights, planes};
use crate::isa::Isa;
use crate::matmul::LANES;

use super::decode::Decode;
use super::lanes::prefetch;
use super::legacy::Q5_0;
use super::strip::{AHEAD, At};

/// Most bytes of a group of a row: `Q8_0`.
const MOST: usize = 8 * 34;

/// Sixteen rows, of which groups are multiplied.
pub(super) enum Sixteen<'a> {
    Strip(&'a [u8]),
    Rows(&'a [u8]),
    /// Each plane from a strip on.
    Planes([&'a [u8]; 2]),
}

impl<'a> Sixteen<'a> {
    /// The rows from `first` on, which is the first one of a strip if it is in one.
    pub(super) fn of(weights: &Weights<'a>, first: usize) -> Self {
        if first >= weights.packed_rows() {
            Self::Rows(weights.rows_bytes(first..first + STRIP))
        } else if weights.has_planes() {
            Self::Planes(weights.planes_from(first / STRIP))
        } else {
            Self::Strip(weights.strip(first / STRIP))
        }
    }
}

/// Where sixteen rows begin that have some of `rows`, which are rows in strips, or rows behind them.
///
/// # Panics
/// When rows behind strips are not a multiple of sixteen.
pub(super) fn sixteens(weights: &Weights<'_>, rows: &Range<usize>) -> impl Iterator<Item = usize> + use<> {
    let in_strips = rows.start < weights.packed_rows();
    assert!(in_strips || rows.len().is_multiple_of(STRIP), "rows {rows:?} are no strips");
    (weights.first_with(rows.start)..rows.end).step_by(STRIP)
}

/// A group of sixteen rows that becomes one of a strip.
#[repr(C, align(64))]
struct Group([u8; STRIP * MOST]);

/// Groups of sixteen rows as those of strips.
pub(super) struct Repacked {
    /// Of rows that are in no strips; not touched without need.
    group: Option<Group>,
    scattered: bool,
}

impl Repacked {
    pub(super) fn of(weights: &Weights<'_>) -> Self {
        Self { group: None, scattered: weights.is_scattered() }
    }

    #[allow(clippy::unnecessary_lazy_evaluations, reason = "4 KiB of zeros")]
    fn group_of(&mut self, bytes: usize) -> &mut [u8] {
        &mut self.group.get_or_insert_with(|| Group([0; STRIP * MOST])).0[..bytes]
    }

    /// Group `index`, which has `present` blocks.
    ///
    /// # Safety
    /// The CPU has the instruction set of W, and there is such a group.
    #[allow(clippy::inline_always, reason = "compiled for the instruction set of its caller, as `pack_group`")]
    #[inline(always)]
    pub(super) unsafe fn group<D: Decode, W: Words>(&mut self, from: &Sixteen<'_>, index: usize, present: usize) -> At {
        let mut at = match *from {
            Sixteen::Strip(strip) => At::group::<D>(strip.as_ptr(), index, present),
            // SAFETY: the caller's promise.
            Sixteen::Rows(rows) => unsafe { self.packed::<D, W>(rows, index, present) },
            Sixteen::Planes(planes) => {
                let before = planes::nbytes(STRIP, BLOCK * LANES * index);
                let [upper, lower] = [0, 1].map(|plane| &planes[plane][before[plane]..]);
                if D::IN_PLANES {
                    At::group::<Q5_0>(upper.as_ptr(), 0, present).with_lower(lower.as_ptr())
                } else {
                    self.joined::<D>(W::ISA, upper, lower, present)
                }
            }
        };
        if self.scattered {
            at.next = at.start();
        }
        at
    }

    /// A group of the sixteen rows in `rows`.
    ///
    /// # Safety
    /// As [`group`](Self::group).
    #[allow(clippy::inline_always, reason = "compiled for the instruction set of its caller, as `pack_group`")]
    #[inline(always)]
    unsafe fn packed<D: Decode, W: Words>(&mut self, rows: &[u8], index: usize, present: usize) -> At {
        let from = rows.as_ptr().wrapping_add(index * D::BYTES);
        let group = self.group_of(STRIP * (D::BYTES * present / LANES));
        // SAFETY: the caller's promise.
        unsafe { pack_group::<W>(D::FORMAT, from, rows.len() / STRIP, group) };
        // The next group, into the L1 cache.
        for row in 0..STRIP {
            // SAFETY: the instruction sets of W include AVX2; a hint, for whatever place.
            unsafe { prefetch(from.wrapping_add(D::BYTES + row * (rows.len() / STRIP)), D::BYTES) };
        }
        let mut at = At::group::<D>(group.as_ptr(), 0, present);
        // The rows behind these, in the order of addresses.
        at.next = rows.as_ptr().wrapping_add(rows.len() + index * STRIP * D::BYTES);
        at
    }

    /// A group of both planes.
    fn joined<D: Decode>(&mut self, isa: Isa, upper: &[u8], lower: &[u8], present: usize) -> At {
        let group = self.group_of(STRIP * planes::WHOLE.block_bytes() * present);
        planes::join(isa, upper, lower, group);
        let mut at = At::group::<D>(group.as_ptr(), 0, present);
        // Of the upper plane, and more of it than becomes of the group. The lower one is asked for where it is read.
        at.next = upper.as_ptr().wrapping_add(AHEAD);
        at
    }
}
