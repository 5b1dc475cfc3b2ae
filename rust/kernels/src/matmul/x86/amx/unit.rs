//! The matrix unit: eight tiles of up to sixteen rows of 64 bytes, and `tdpbssd`, which adds the products of two of them
//! to a third: `c[m][n] += sum over k of a[m][k] * b[k / 4][n][k % 4]`, int8 to int32.
//!
//! Here m are weight rows, n are tokens, k are columns.

use std::arch::asm;
use std::marker::PhantomData;

use crate::formats::BLOCK;
use crate::matmul::tiled::{COLS, STEPS, Step, TOKENS};

use super::panel::{Plane, ROWS};

/// Sums of the products of sixteen rows with sixteen tokens.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Products(pub [[i32; TOKENS]; ROWS]);

impl Products {
    pub(super) const ZERO: Self = Self([[0; TOKENS]; ROWS]);
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
pub(super) struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// No tile at all.
    pub(super) const NONE: Self =
        Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };

    /// A tile with so many rows.
    pub(super) const fn set(&mut self, tile: usize, rows: u8, row_bytes: u16) {
        self.rows[tile] = rows;
        self.row_bytes[tile] = row_bytes;
    }
}

/// Tiles 0 to 2: products. 3 and 4: weights. 5 and 6: activations of `columns` columns.
const fn shapes(columns: u8) -> Shapes {
    let mut shapes = Shapes::NONE;
    let mut tile = 0;
    while tile < 7 {
        let row_bytes = if tile == 3 || tile == 4 { columns as u16 } else { 64 };
        shapes.set(tile, if tile >= 5 { columns / 4 } else { 16 }, row_bytes);
        tile += 1;
    }
    shapes
}

static STEP: Shapes = shapes(COLS as u8);
static HALF: Shapes = shapes(BLOCK as u8);

/// Sets the unit up for this thread, until what comes back is dropped.
///
/// # Safety
/// The CPU has AMX, the system lets us use it, and no `Unit` lives on this thread.
pub(super) unsafe fn configure(shapes: &Shapes) -> Unit {
    // SAFETY: the caller's promise; the 64 bytes are read.
    unsafe { asm!("ldtilecfg [{}]", in(reg) shapes, options(nostack, preserves_flags, readonly)) };
    Unit(PhantomData)
}

/// The unit, set up for this thread. What one function leaves in its tiles the next one finds there: compiled code has no
/// use for them.
pub(super) struct Unit(PhantomData<*const ()>);

#[allow(clippy::unused_self, reason = "a unit is the proof that there is one")]
impl Unit {
    /// For products of whole steps, or of single blocks.
    ///
    /// # Safety
    /// The CPU has AMX, the system lets us use it, and no other `Unit` lives on this thread.
    pub(super) unsafe fn new(blocks: bool) -> Self {
        // SAFETY: the caller's promise.
        unsafe { configure(if blocks { &HALF } else { &STEP }) }
    }

    /// P is the steps of all planes of the activations, here and below.
    ///
    /// Products of block `block` of weights with the planes of a group of activations: to[0] with the low one, to[1]
    /// with the high one, if there is one.
    #[inline]
    pub(super) fn block<const P: usize>(&self, weights: &Plane, x: &[Step; P], block: usize, to: &mut [Products; 2]) {
        let step = block / 2;
        let a = weights[step].as_ptr().wrapping_byte_add(block % 2 * BLOCK);
        let low = x[step].0[block % 2 * 8..].as_ptr();
        let [c, d] = to;
        // SAFETY: a unit exists only where there is AMX, and this one has the shapes of blocks: sixteen rows of 32 of
        // the 64 bytes of a step of weights, and eight of the sixteen rows of a step of activations.
        unsafe {
            if let Some(high) = x.get(STEPS + step) {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tileloadd tmm3, [{a} + {s}]",
                    "tileloadd tmm5, [{low} + {s}]",
                    "tdpbssd tmm0, tmm3, tmm5",
                    "tileloadd tmm6, [{high} + {s}]",
                    "tdpbssd tmm1, tmm3, tmm6",
                    "tilestored [{c} + {s}], tmm0",
                    "tilestored [{d} + {s}], tmm1",
                    a = in(reg) a, low = in(reg) low, high = in(reg) high.0[block % 2 * 8..].as_ptr(),
                    c = in(reg) c, d = in(reg) d, s = in(reg) 64_usize,
                    options(nostack, preserves_flags)
                );
            } else {
                asm!(
                    "tilezero tmm0",
                    "tileloadd tmm3, [{a} + {s}]",
                    "tileloadd tmm5, [{low} + {s}]",
                    "tdpbssd tmm0, tmm3, tmm5",
                    "tilestored [{c} + {s}], tmm0",
                    a = in(reg) a, low = in(reg) low, c = in(reg) c, s = in(reg) 64_usize,
                    options(nostack, preserves_flags)
                );
            }
        }
    }

    /// Clears the sums that [`Self::step`] adds to.
    #[inline]
    pub(super) fn clear(&self) {
        // SAFETY: a unit exists only where there is AMX.
        unsafe { asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", options(nomem, nostack, preserves_flags)) };
    }

    /// Adds the products of step `step` of both planes of weights with all planes of a group of activations.
    #[inline]
    pub(super) fn step<const P: usize>(&self, [low, high]: [&Plane; 2], x: &[Step; P], step: usize) {
        // SAFETY: as for `block`, with the shapes of steps.
        unsafe {
            if let Some(x_high) = x.get(STEPS + step) {
                asm!(
                    "tileloadd tmm5, [{xl} + {s}]",
                    "tileloadd tmm3, [{wl} + {s}]",
                    "tdpbssd tmm0, tmm3, tmm5",
                    "tileloadd tmm6, [{xh} + {s}]",
                    "tdpbssd tmm1, tmm3, tmm6",
                    "tileloadd tmm4, [{wh} + {s}]",
                    "tdpbssd tmm1, tmm4, tmm5",
                    "tdpbssd tmm2, tmm4, tmm6",
                    wl = in(reg) low[step].as_ptr(), wh = in(reg) high[step].as_ptr(), s = in(reg) 64_usize,
                    xl = in(reg) &raw const x[step], xh = in(reg) x_high,
                    options(nostack, preserves_flags)
                );
            } else {
                asm!(
                    "tileloadd tmm5, [{xl} + {s}]",
                    "tileloadd tmm3, [{wl} + {s}]",
                    "tdpbssd tmm0, tmm3, tmm5",
                    "tileloadd tmm4, [{wh} + {s}]",
                    "tdpbssd tmm1, tmm4, tmm5",
                    wl = in(reg) low[step].as_ptr(), wh = in(reg) high[step].as_ptr(), s = in(reg) 64_usize,
                    xl = in(reg) &raw const x[step],
                    options(nostack, preserves_flags)
                );
            }
        }
    }

    /// The sums: to[i] are those whose weight is 128^i, the last of them only for activations in two planes.
    #[inline]
    pub(super) fn finish<const P: usize>(&self, to: &mut [Products; 3]) {
        let [c, d, e] = to;
        // SAFETY: as above; each has room for sixteen rows of 64 bytes.
        unsafe {
            asm!(
                "tilestored [{c} + {s}], tmm0",
                "tilestored [{d} + {s}], tmm1",
                c = in(reg) c, d = in(reg) d, s = in(reg) 64_usize,
                options(nostack, preserves_flags)
            );
            if P > STEPS {
                asm!("tilestored [{e} + {s}], tmm2", e = in(reg) e, s = in(reg) 64_usize,
                    options(nostack, preserves_flags));
            }
        }
    }
}

/// Products of a step of [`multiply_registers`]: four pairs of tiles.
pub(crate) const PRODUCTS: usize = 4 * ROWS * TOKENS * COLS;

/// Multiplies tiles that stay in registers, `steps` times four: what the unit does at best.
///
/// # Safety
/// The CPU has AMX, and the system lets us use it.
pub(crate) unsafe fn multiply_registers(steps: u32) {
    // SAFETY: the caller's promise; all tiles in use have sixteen rows of 64 bytes.
    unsafe {
        let _unit = Unit::new(false);
        for _ in 0..steps {
            asm!(
                "tdpbssd tmm0, tmm3, tmm5",
                "tdpbssd tmm1, tmm3, tmm5",
                "tdpbssd tmm2, tmm4, tmm5",
                "tdpbssd tmm6, tmm4, tmm5",
                options(nomem, nostack, preserves_flags)
            );
        }
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: a unit exists only where there is AMX.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}
