//! Rows as they are stored, turned into strips group by group on their way to the products.

use crate::formats::STRIP;
use crate::formats::strips::{Words, pack_group};
use crate::matmul::LANES;

use super::decode::Decode;
use super::lanes::prefetch;
use super::strip::At;

/// Most bytes of a group of a row: `Q8_0`.
const MOST: usize = 8 * 34;

/// A group of sixteen rows that becomes one of a strip.
#[repr(C, align(64))]
pub(super) struct Repacked([u8; STRIP * MOST]);

impl Repacked {
    pub(super) const EMPTY: Self = Self([0; STRIP * MOST]);

    /// Group `index`, which has `present` blocks, of the sixteen rows in `rows`.
    ///
    /// # Safety
    /// The CPU has the instruction set of W, and there is such a group.
    #[allow(clippy::inline_always, reason = "compiled for the instruction set of its caller, as `pack_group`")]
    #[inline(always)]
    pub(super) unsafe fn group<D: Decode, W: Words>(&mut self, rows: &[u8], index: usize, present: usize) -> At {
        let from = rows.as_ptr().wrapping_add(index * D::BYTES);
        let group = &mut self.0[..STRIP * (D::BYTES * present / LANES)];
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
}
