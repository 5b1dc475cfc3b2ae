//! Rows of activations, as f32 and as blocks of integer codes.

use std::cell::UnsafeCell;

use crate::formats::{BLOCK, Weights};
use crate::isa::Isa;
use crate::room::room;

use super::codes::{Bytes, Few, Group, Quads, write_bytes, write_group, write_quads};
use super::tiled::{self, Step, Sums};
use super::{GROUP, LANES, Mode};

/// Which representations a batch of activations is kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The f32 rows.
    pub f32: bool,
    /// Integer codes.
    pub blocks: Option<Precision>,
    /// Integer codes of several tokens are kept for a matrix unit instead, and for nothing else.
    pub tiles: bool,
    /// Integer codes of up to so many tokens are kept for kernels that have sixteen rows as lanes, too.
    pub quads: usize,
    /// Codes of 8 bits of more than a few tokens are kept as bytes alone.
    pub bytes: bool,
}

/// How fine the integer codes of activations are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// Codes up to 127.
    Int8,
    /// Codes up to 8191.
    Int14,
}

impl Precision {
    /// The largest code.
    #[must_use]
    pub fn max_code(self) -> f32 {
        match self {
            Self::Int8 => 127.0,
            Self::Int14 => 8191.0,
        }
    }
}

impl Needs {
    /// What products of `isa` with these weights read.
    #[must_use]
    pub fn of(isa: Isa, weights: &[Weights<'_>], mode: Mode) -> Self {
        let precision = |weights: &Weights<'_>| mode.precision(weights.format());
        let strips = |weights: &Weights<'_>| weights.format().has_strips() && precision(weights).is_some();
        let quads = if !isa.reads_strips() || !weights.iter().any(strips) {
            0
        } else if isa == Isa::Amx && weights.iter().any(|weights| weights.packed_rows() > 0) {
            TILE
        } else {
            FEW
        };
        Self {
            f32: weights.iter().any(|weights| precision(weights).is_none()),
            blocks: weights.iter().filter_map(precision).max(),
            tiles: isa == Isa::Amx,
            quads,
            bytes: isa == Isa::Avx512Vnni,
        }
    }
}

/// Rows that one thread writes together.
pub const TILE: usize = tiled::TOKENS;

/// From this many tokens on, a matrix unit is used where there is one.
const FROM_TILED: usize = 5;

/// Up to this many tokens, weights are not unpacked; up to [`TILE`] with a matrix unit, if they are in strips.
pub(super) const FEW: usize = 8;

/// A batch of activations [tokens, cols].
///
/// Integer codes are symmetric in groups of 256 columns: `scale = max |x| / c` with c = [`Precision::max_code`], codes
/// are `x * (c / max |x|)` rounded to nearest, ties to even. A group whose largest value is below 3e-35 is zero. A group
/// with a NaN or an infinity has the scale NaN, so that every result of its token is NaN instead of silently wrong. f32
/// rows are kept as they are.
///
/// Threads may write different tiles of rows at once ([`Self::write_tile`]).
#[derive(Default)]
pub struct Activations {
    tokens: usize,
    cols: usize,
    needs: Needs,
    values: Vec<UnsafeCell<f32>>,
    /// [group][token]: the products take all tokens through one group of columns after the other.
    groups: Vec<UnsafeCell<Group>>,
    /// [group][token], in int8.
    bytes: Vec<UnsafeCell<Bytes>>,
    /// [group][token], for weights in strips.
    quads: Vec<UnsafeCell<Quads>>,
    /// Whether the codes are in the following two instead.
    tiled: bool,
    /// [group][tile]
    sums: Vec<UnsafeCell<Sums>>,
    /// [group][tile][plane][step]
    steps: Vec<UnsafeCell<Step>>,
}

// SAFETY: shared access only reads, except for `write_tile` and `write_columns`, whose contracts exclude races.
unsafe impl Sync for Activations {}

impl Activations {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes room for [tokens, cols] in the representations of `needs`. Memory is reused; the contents of rows are
    /// unspecified until they are written.
    ///
    /// # Panics
    /// When integer codes are asked for and `cols` is not a multiple of 32.
    pub fn reset(&mut self, tokens: usize, cols: usize, needs: Needs) {
        assert!(
            needs.blocks.is_none() || cols.is_multiple_of(BLOCK),
            "blocks in rows of {cols} columns: not a multiple of {BLOCK}"
        );
        (self.tokens, self.cols, self.needs) = (tokens, cols, needs);
        let values = if needs.f32 { tokens * self.padded_cols() } else { 0 };
        room(&mut self.values, values, Default::default);
        let from_tiled = FROM_TILED.max(needs.quads + 1);
        self.tiled = needs.tiles && needs.blocks.is_some() && tokens >= from_tiled;
        let tiles = if self.tiled { self.tiles() * cols.div_ceil(GROUP) } else { 0 };
        room(&mut self.sums, tiles, || UnsafeCell::new(Sums::ZERO));
        let steps = tiles * self.steps_of_group();
        room(&mut self.steps, steps, || UnsafeCell::new(Step::ZERO));
        let groups = if needs.blocks.is_some() && !self.tiled { tokens * cols.div_ceil(GROUP) } else { 0 };
        // Kernels for few tokens read as many as they are made for, from the last group on, too.
        let few = if self.has_quads() { groups + TILE } else { 0 };
        let words = if self.has_words() { groups.max(few) } else { 0 };
        room(&mut self.groups, words, || UnsafeCell::new(Group::ZERO));
        let bytes = if needs.blocks == Some(Precision::Int8) { groups } else { 0 };
        room(&mut self.bytes, bytes, || UnsafeCell::new(Bytes::ZERO));
        room(&mut self.quads, few, || UnsafeCell::new(Quads::ZERO));
    }

    /// Rows in the batch.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Values in a row.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The representations that are kept.
    #[must_use]
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// Whether codes are kept for a matrix unit.
    pub(super) fn is_tiled(&self) -> bool {
        self.tiled
    }

    /// Whether codes are kept for kernels that have sixteen rows as lanes.
    pub(super) fn has_quads(&self) -> bool {
        self.needs.blocks.is_some() && self.tokens <= self.needs.quads
    }

    /// Whether codes are kept as 16-bit numbers, perhaps beside others.
    pub(super) fn has_words(&self) -> bool {
        let bytes_alone = self.needs.bytes && self.needs.blocks == Some(Precision::Int8) && self.tokens > FEW;
        self.needs.blocks.is_some() && !self.tiled && !bytes_alone
    }

    /// Tiles of [`TILE`] tokens, the last one perhaps not full.
    #[must_use]
    pub fn tiles(&self) -> usize {
        self.tokens.div_ceil(TILE)
    }

    fn padded_cols(&self) -> usize {
        self.cols.next_multiple_of(LANES)
    }

    /// Stores `row` as row `token`.
    ///
    /// # Panics
    /// When `token` is not a row or `row` is not `cols` long.
    pub fn set_row(&mut self, token: usize, row: &[f32]) {
        assert!(token < self.tokens, "token {token} of {}", self.tokens);
        assert_eq!(row.len(), self.cols, "a row has {} values", self.cols);
        // SAFETY: the exclusive borrow excludes every other access.
        unsafe { self.write_values(token, row) };
        let Some(precision) = self.needs.blocks else { return };
        for (index, values) in row.chunks(GROUP).enumerate() {
            if self.tiled {
                let mut group = Group::ZERO;
                write_group(values, precision, &mut group);
                let (tile, lane) = (token / TILE, token % TILE);
                // SAFETY: as above.
                let (sums, steps) = unsafe { self.tile_mut(index, tile) };
                sums.set(lane, &group);
                tiled::set_codes(steps, lane, &group);
            } else {
                // SAFETY: as above.
                unsafe { self.write_codes(token, index, values, precision) };
            }
        }
    }

    /// Stores `rows`, of `cols` values each, as rows `TILE * tile..`, from any thread.
    ///
    /// # Safety
    /// Nobody else reads or writes a row of this tile during the call, and reads later are ordered after it.
    ///
    /// # Panics
    /// When `rows` are not the rows of the tile: [`TILE`] of them, fewer in the last one.
    pub unsafe fn write_tile(&self, tile: usize, rows: &[f32]) {
        let first = tile * TILE;
        let count = TILE.min(self.tokens.saturating_sub(first));
        assert!(count > 0, "tile {tile} of {} rows", self.tokens);
        assert_eq!(rows.len(), count * self.cols, "{count} rows have {} values each", self.cols);
        for (lane, row) in rows.chunks_exact(self.cols.max(1)).enumerate() {
            // SAFETY: the caller has sole access to the rows, here and below.
            unsafe { self.write_values(first + lane, row) };
        }
        let Some(precision) = self.needs.blocks else { return };
        if !self.tiled {
            // Row by row, in the order of memory.
            for (lane, row) in rows.chunks_exact(self.cols.max(1)).enumerate() {
                for (index, values) in row.chunks(GROUP).enumerate() {
                    // SAFETY: see above.
                    unsafe { self.write_codes(first + lane, index, values, precision) };
                }
            }
            return;
        }
        for index in 0..self.cols.div_ceil(GROUP) {
            let columns = index * GROUP..self.cols.min((index + 1) * GROUP);
            let values = (0..count).map(|lane| &rows[lane * self.cols..][columns.clone()]);
            // SAFETY: see above.
            unsafe { self.write_tile_group(tile, index, values, precision) };
        }
    }

    /// # Safety
    /// Nobody else accesses row `token`.
    unsafe fn write_values(&self, token: usize, row: &[f32]) {
        if self.needs.f32 {
            let padded = self.padded_cols();
            let cells = &self.values[token * padded..][..padded];
            // SAFETY: UnsafeCell<f32> has the layout of f32, the slice bounds were checked, and the caller has sole
            // access to the row.
            let values = unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(cells.as_ptr()), padded) };
            values[..self.cols].copy_from_slice(row);
            values[self.cols..].fill(0.0);
        }
    }

    /// Codes that are not in tiles, of group `index` of row `token`.
    ///
    /// # Safety
    /// Nobody else accesses this group of row `token`.
    unsafe fn write_codes(&self, token: usize, index: usize, values: &[f32], precision: Precision) {
        let at = index * self.tokens + token;
        let mut passing = Group::ZERO;
        let group = match self.groups.get(at).filter(|_| self.has_words()) {
            // SAFETY: the caller has sole access to the group.
            Some(cell) => unsafe { &mut *cell.get() },
            None => &mut passing,
        };
        write_group(values, precision, group);
        let mut side = 0;
        if precision == Precision::Int8 {
            // SAFETY: as above.
            let bytes = unsafe { &mut *self.bytes[at].get() };
            write_bytes(group, bytes);
            side = bytes.side;
        }
        if self.has_quads() {
            // SAFETY: as above.
            let quads = unsafe { &mut *self.quads[at].get() };
            write_quads(group, precision, quads);
            quads.side = side;
        }
    }

    /// Stores the columns of group `index` of all rows, from any thread: `values` are [tokens, columns of the group].
    ///
    /// # Safety
    /// Nobody else reads or writes this group during the call, and reads later are ordered after it.
    ///
    /// # Panics
    /// When there are more or fewer values, or rows are kept as f32.
    pub unsafe fn write_columns(&self, index: usize, values: &[f32]) {
        let columns = GROUP.min(self.cols - index * GROUP);
        assert_eq!(values.len(), self.tokens * columns, "group {index} has {columns} columns");
        assert!(!self.needs.f32, "rows are f32");
        let Some(precision) = self.needs.blocks else { return };
        if self.tiled {
            for (tile, rows) in values.chunks(TILE * columns).enumerate() {
                // SAFETY: the caller has sole access to the group of all tiles.
                unsafe { self.write_tile_group(tile, index, rows.chunks_exact(columns), precision) };
            }
        } else {
            for (token, values) in values.chunks_exact(columns).enumerate() {
                // SAFETY: as above.
                unsafe { self.write_codes(token, index, values, precision) };
            }
        }
    }

    /// Codes in tiles, of group `index` of the rows of tile `tile`.
    ///
    /// # Safety
    /// Nobody else accesses this group of the tile.
    unsafe fn write_tile_group<'r>(
        &self,
        tile: usize,
        index: usize,
        rows: impl Iterator<Item = &'r [f32]>,
        precision: Precision,
    ) {
        let mut groups = [Group::ZERO; TILE];
        for (group, values) in groups.iter_mut().zip(rows) {
            write_group(values, precision, group);
        }
        // SAFETY: the caller has sole access.
        let (sums, steps) = unsafe { self.tile_mut(index, tile) };
        tiled::pack(&groups, sums, steps);
    }

    /// Group `index` of tile `tile`: sums, and the steps of all planes.
    ///
    /// # Safety
    /// Nobody else accesses the tile while the references live.
    #[allow(clippy::mut_from_ref, reason = "interior mutability, under the caller's promise")]
    unsafe fn tile_mut(&self, index: usize, tile: usize) -> (&mut Sums, &mut [Step]) {
        let at = index * self.tiles() + tile;
        let count = self.steps_of_group();
        let steps = &self.steps[at * count..][..count];
        // SAFETY: UnsafeCell<Step> has the layout of Step, and the caller has sole access.
        unsafe {
            let steps = std::slice::from_raw_parts_mut(UnsafeCell::raw_get(steps.as_ptr()), count);
            (&mut *self.sums[at].get(), steps)
        }
    }

    /// Steps of a group of a tile, in all planes.
    fn steps_of_group(&self) -> usize {
        self.needs.blocks.map_or(0, |precision| tiled::planes(precision) * tiled::STEPS)
    }

    /// Group `index` of columns of every tile: sums, and the steps of all planes, tile after tile.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn tile_group(&self, index: usize) -> (&[Sums], &[Step]) {
        assert!(self.tiled, "these activations are not in tiles");
        let (tiles, count) = (self.tiles(), self.steps_of_group());
        let sums = &self.sums[index * tiles..][..tiles];
        let steps = &self.steps[index * tiles * count..][..tiles * count];
        // SAFETY: the layout of what the cells hold, and the contract of `write_tile` excludes a writer.
        let (sums, steps) = unsafe {
            (
                std::slice::from_raw_parts(UnsafeCell::raw_get(sums.as_ptr()), tiles),
                std::slice::from_raw_parts(UnsafeCell::raw_get(steps.as_ptr()), tiles * count),
            )
        };
        (sums, steps)
    }

    /// Row `token` as f32, with zeros to a multiple of 8 columns.
    pub(super) fn values(&self, token: usize) -> &[f32] {
        assert!(self.needs.f32 && token < self.tokens, "these activations have no f32 rows");
        let padded = self.padded_cols();
        let cells = &self.values[token * padded..][..padded];
        // SAFETY: same layout and bounds; the contract of `write_tile` excludes a writer.
        unsafe { std::slice::from_raw_parts(UnsafeCell::raw_get(cells.as_ptr()), padded) }
    }

    /// Group `index` of columns, of every token.
    pub(super) fn groups(&self, index: usize) -> &[Group] {
        assert!(self.has_words(), "these activations have no 16-bit codes");
        let cells = &self.groups[index * self.tokens..][..self.tokens];
        // SAFETY: UnsafeCell<Group> has the layout of Group, and the contract of `write_tile` excludes a writer.
        unsafe { std::slice::from_raw_parts(UnsafeCell::raw_get(cells.as_ptr()), cells.len()) }
    }

    /// Group `index` of columns of T tokens, for weights in strips. Those behind the last token are anything.
    ///
    /// # Panics
    /// When the batch has more tokens than T.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn few<const T: usize>(&self, index: usize) -> Few<'_, T> {
        const { assert!(T <= TILE, "room behind the last group is for TILE tokens") };
        assert!(self.has_quads(), "these activations have no codes for strips");
        assert!(self.tokens <= T, "{} tokens are more than {T}", self.tokens);
        let (groups, quads) = (&self.groups[index * self.tokens..][..T], &self.quads[index * self.tokens..][..T]);
        // SAFETY: cells have the layout of what they hold, there are T of each, all were initialised, and the contract of
        // `write_tile` excludes a writer.
        unsafe { Few { groups: &*groups.as_ptr().cast(), quads: &*quads.as_ptr().cast() } }
    }

    /// As [`Self::groups`], in bytes.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn bytes(&self, index: usize) -> &[Bytes] {
        assert!(self.needs.blocks == Some(Precision::Int8) && !self.tiled, "these activations have no 8-bit codes");
        let cells = &self.bytes[index * self.tokens..][..self.tokens];
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(UnsafeCell::raw_get(cells.as_ptr()), cells.len()) }
    }
}
