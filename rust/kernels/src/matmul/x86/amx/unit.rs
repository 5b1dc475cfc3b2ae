//! The matrix unit: eight tiles of up to sixteen rows of 64 bytes, and the products of two of them, added to a third.
//!
//! Here rows of the left factor are weight rows, columns of the right one are tokens.

use crate::formats::BLOCK;
use crate::matmul::tiled::{COLS, STEPS, Step, TOKENS};

use super::panel::{Plane, ROWS};
use super::tiles::{Shapes, Unit, dot, load, store, zero};

/// Bytes from a row of a tile to the next one, in memory.
const STRIDE: usize = 64;

/// Sums of the products of sixteen rows with sixteen tokens.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Products(pub [[i32; TOKENS]; ROWS]);

impl Products {
    pub(super) const ZERO: Self = Self([[0; TOKENS]; ROWS]);
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

#[allow(clippy::unused_self, reason = "a unit is the proof that there is one")]
impl Unit {
    /// For products of whole steps, or of single blocks.
    ///
    /// # Safety
    /// The CPU has AMX, the system lets us use it, and no other `Unit` lives on this thread.
    pub(super) unsafe fn new(blocks: bool) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self::with(if blocks { &HALF } else { &STEP }) }
    }

    /// P is the steps of all planes of the activations, here and below.
    ///
    /// Products of block `block` of weights with the planes of a group of activations: to[0] with the low one, to[1]
    /// with the high one, if there is one.
    #[inline]
    pub(super) fn block<const P: usize>(&self, weights: &Plane, x: &[Step; P], block: usize, to: &mut [Products; 2]) {
        let step = block / 2;
        let [c, d] = to;
        // SAFETY: a unit exists only where there is AMX, and this one has the shapes of blocks: sixteen rows of 32 of
        // the 64 bytes of a step of weights, and eight of the sixteen rows of a step of activations.
        unsafe {
            zero::<0>();
            load::<3, _>(weights[step].as_ptr().wrapping_byte_add(block % 2 * BLOCK), STRIDE);
            load::<5, _>(x[step].0[block % 2 * 8..].as_ptr(), STRIDE);
            dot::<0, 3, 5>();
            if let Some(high) = x.get(STEPS + step) {
                zero::<1>();
                load::<6, _>(high.0[block % 2 * 8..].as_ptr(), STRIDE);
                dot::<1, 3, 6>();
            }
            store::<0, _>(c, STRIDE);
            if P > STEPS {
                store::<1, _>(d, STRIDE);
            }
        }
    }

    /// Clears the sums that [`Self::step`] adds to.
    #[inline]
    pub(super) fn clear(&self) {
        // SAFETY: a unit exists only where there is AMX.
        unsafe {
            zero::<0>();
            zero::<1>();
            zero::<2>();
        }
    }

    /// Adds the products of step `step` of both planes of weights with all planes of a group of activations.
    #[inline]
    pub(super) fn step<const P: usize>(&self, [low, high]: [&Plane; 2], x: &[Step; P], step: usize) {
        // SAFETY: as for `block`, with the shapes of steps.
        unsafe {
            load::<5, _>(&raw const x[step], STRIDE);
            load::<3, _>(low[step].as_ptr(), STRIDE);
            dot::<0, 3, 5>();
            if let Some(x_high) = x.get(STEPS + step) {
                load::<6, _>(x_high, STRIDE);
                dot::<1, 3, 6>();
            }
            load::<4, _>(high[step].as_ptr(), STRIDE);
            dot::<1, 4, 5>();
            if P > STEPS {
                dot::<2, 4, 6>();
            }
        }
    }

    /// The sums: to[i] are those whose weight is 128^i, the last of them only for activations in two planes.
    #[inline]
    pub(super) fn finish<const P: usize>(&self, to: &mut [Products; 3]) {
        let [c, d, e] = to;
        // SAFETY: as above; each has room for sixteen rows of 64 bytes.
        unsafe {
            store::<0, _>(c, STRIDE);
            store::<1, _>(d, STRIDE);
            if P > STEPS {
                store::<2, _>(e, STRIDE);
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
            dot::<0, 3, 5>();
            dot::<1, 3, 5>();
            dot::<2, 4, 5>();
            dot::<6, 4, 5>();
        }
    }
}
