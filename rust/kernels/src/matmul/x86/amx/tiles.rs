//! The instructions of the matrix unit; with the feature `amx-model` also what they do, in plain code, for tests on CPUs
//! that have AVX-512 and no unit.
//!
//! Tiles belong to a thread. What one function leaves in them the next one finds there: compiled code has no use for them.

use std::arch::asm;
use std::marker::PhantomData;

#[cfg(feature = "amx-model")]
use super::model;

/// What `ldtilecfg` reads.
#[derive(Clone, Copy)]
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

    /// Rows of a tile, and bytes of a row.
    #[cfg(feature = "amx-model")]
    pub(super) fn of(&self, tile: usize) -> (usize, usize) {
        (self.rows[tile].into(), self.row_bytes[tile].into())
    }
}

/// The unit, set up for this thread.
pub(super) struct Unit(PhantomData<*const ()>);

/// The model's function where there is no unit, else the instruction.
macro_rules! instruction {
    (model $model:expr; $($asm:tt)*) => {{
        #[cfg(feature = "amx-model")]
        if !crate::isa::has_matrix_unit() {
            return $model;
        }
        // SAFETY: the promise of the function this is in.
        unsafe { asm!($($asm)*) }
    }};
}

impl Unit {
    /// Sets the unit up for this thread, until what comes back is dropped.
    ///
    /// # Safety
    /// The CPU has AMX, the system lets us use it, and no `Unit` lives on this thread.
    pub(super) unsafe fn with(shapes: &Shapes) -> Self {
        // SAFETY: the caller's promise.
        unsafe { configure(shapes) };
        Self(PhantomData)
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // SAFETY: a unit exists only where there is AMX.
        unsafe { release() }
    }
}

// SAFETY of all functions below: the CPU has AMX, the system lets us use it, and a `Unit` lives on this thread whose shapes
// these tiles have.

unsafe fn configure(shapes: &Shapes) {
    instruction!(model model::configure(shapes); "ldtilecfg [{}]", in(reg) shapes, options(nostack, preserves_flags, readonly));
}

unsafe fn release() {
    instruction!(model model::configure(&Shapes::NONE); "tilerelease", options(nomem, nostack, preserves_flags));
}

/// Clears a tile.
#[inline]
pub(super) unsafe fn zero<const TILE: usize>() {
    instruction!(model model::zero(TILE); "tilezero tmm{}", const TILE, options(nomem, nostack, preserves_flags));
}

/// Fills a tile with rows that are `stride` bytes apart.
#[inline]
pub(super) unsafe fn load<const TILE: usize, T>(from: *const T, stride: usize) {
    // SAFETY: the rows can be read.
    instruction!(model unsafe { model::load(TILE, from.cast(), stride) };
        "tileloadd tmm{}, [{} + {}]", const TILE, in(reg) from, in(reg) stride, options(nostack, preserves_flags, readonly));
}

/// Writes the rows of a tile, `stride` bytes apart.
#[inline]
pub(super) unsafe fn store<const TILE: usize, T>(to: *mut T, stride: usize) {
    // SAFETY: the rows can be written.
    instruction!(model unsafe { model::store(TILE, to.cast(), stride) };
        "tilestored [{} + {}], tmm{}", in(reg) to, in(reg) stride, const TILE, options(nostack, preserves_flags));
}

/// `c[m][n] += sum over k of a[m][k] * b[k / 4][n][k % 4]`, int8 to int32.
#[inline]
pub(super) unsafe fn dot<const C: usize, const A: usize, const B: usize>() {
    instruction!(model model::dot(C, A, B);
        "tdpbssd tmm{}, tmm{}, tmm{}", const C, const A, const B, options(nomem, nostack, preserves_flags));
}
