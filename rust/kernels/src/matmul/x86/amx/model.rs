//! The matrix unit in plain code, for tests.
//!
//! Source: Intel's manual, the operation of LDTILECFG, TILELOADD, TILESTORED, TILEZERO and TDPBSSD.

use std::cell::RefCell;

use super::tiles::Shapes;

/// Bytes of a row of a tile, and rows, at most.
const BYTES: usize = 64;
const ROWS: usize = 16;

struct State {
    shapes: Shapes,
    tiles: [[[u8; BYTES]; ROWS]; 8],
}

thread_local! {
    static UNIT: RefCell<State> = const { RefCell::new(State { shapes: Shapes::NONE, tiles: [[[0; BYTES]; ROWS]; 8] }) };
}

fn with<T>(run: impl FnOnce(&mut State) -> T) -> T {
    UNIT.with_borrow_mut(run)
}

pub(super) fn configure(shapes: &Shapes) {
    with(|unit| *unit = State { shapes: *shapes, tiles: [[[0; BYTES]; ROWS]; 8] });
}

pub(super) fn zero(tile: usize) {
    with(|unit| {
        assert_ne!(unit.shapes.of(tile), (0, 0), "tile {tile} has no shape");
        unit.tiles[tile] = [[0; BYTES]; ROWS];
    });
}

/// # Safety
/// The rows of the tile's shape can be read.
pub(super) unsafe fn load(tile: usize, from: *const u8, stride: usize) {
    with(|unit| {
        let (rows, bytes) = unit.shapes.of(tile);
        assert_ne!((rows, bytes), (0, 0), "tile {tile} has no shape");
        unit.tiles[tile] = [[0; BYTES]; ROWS];
        for (index, row) in unit.tiles[tile][..rows].iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { from.add(index * stride).copy_to_nonoverlapping(row.as_mut_ptr(), bytes) };
        }
    });
}

/// # Safety
/// The rows of the tile's shape can be written.
pub(super) unsafe fn store(tile: usize, to: *mut u8, stride: usize) {
    with(|unit| {
        let (rows, bytes) = unit.shapes.of(tile);
        for (index, row) in unit.tiles[tile][..rows].iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { to.add(index * stride).copy_from_nonoverlapping(row.as_ptr(), bytes) };
        }
    });
}

pub(super) fn dot(c: usize, a: usize, b: usize) {
    with(|unit| {
        let [(rows, width), (a_rows, depth), (b_rows, b_width)] = [c, a, b].map(|tile| unit.shapes.of(tile));
        // What the instruction faults on.
        assert!(a_rows == rows && b_width == width && 4 * b_rows == depth, "tiles {c}, {a} and {b} do not fit");
        for m in 0..rows {
            for n in 0..width / 4 {
                let product = |k: usize| {
                    let (a, b) = (unit.tiles[a][m][k], unit.tiles[b][k / 4][4 * n + k % 4]);
                    i32::from(a.cast_signed()) * i32::from(b.cast_signed())
                };
                let products: i32 = (0..depth).map(product).sum();
                let place = &mut unit.tiles[c][m].as_chunks_mut::<4>().0[n];
                *place = i32::from_le_bytes(*place).wrapping_add(products).to_le_bytes();
            }
        }
    });
}
