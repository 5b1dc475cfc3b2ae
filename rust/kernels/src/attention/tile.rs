//! A tile: some tokens of one sequence, with the query heads of one kv head.

use std::cell::RefCell;
use std::ops::Range;

use super::check::{visible, visible_to_any};
use super::kernel::{GROUP, Merge, Page, Pages, Widen};
use super::{Attend, SPAN, TILE_ROWS};
use crate::isa::Isa;
use crate::kv::{PAGE, PageView};
use crate::simd::dispatch;
use crate::team::Disjoint;

const PAGES_PER_SPAN: usize = SPAN / PAGE;

/// From this many groups of query rows on, converting a page once beats converting it for every group.
const GROUPS_TO_WIDEN: usize = 3;

pub(super) struct Tile {
    sequence: usize,
    kv_head: usize,
    tokens: Range<usize>,
    seen: Range<usize>,
    /// Numbers of the spans that hold something visible; span i starts at position i * SPAN. At least one.
    pub(super) spans: Range<usize>,
}

/// How the rows of a call are cut up.
pub(super) struct Plan<'a> {
    inputs: &'a Attend<'a>,
    /// Query heads per kv head.
    share: usize,
    /// `head_dim` rounded up to whole vectors.
    width: usize,
}

/// Memory of one member, kept between calls.
pub(super) struct Scratch;

thread_local! {
    static FLOATS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Scratch {
    pub(super) fn with<T>(floats: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
        FLOATS.with_borrow_mut(|memory| {
            if memory.len() < floats {
                memory.resize(floats, 0.0);
            }
            work(&mut memory[..floats])
        })
    }
}

impl<'a> Plan<'a> {
    pub(super) fn new(inputs: &'a Attend<'a>, heads: usize) -> Self {
        Self { inputs, share: heads / inputs.store.kv_heads(), width: inputs.store.value_stride() }
    }

    pub(super) fn tiles(&self) -> Vec<Tile> {
        let tokens = (TILE_ROWS / self.share).max(1);
        let mut tiles = Vec::new();
        for (sequence, bounds) in self.inputs.row_starts.windows(2).enumerate() {
            let rows = bounds[0] as usize..bounds[1] as usize;
            for start in rows.clone().step_by(tokens) {
                let tokens = start..rows.end.min(start + tokens);
                let seen = visible_to_any(self.inputs, tokens.clone());
                let spans = seen.start / SPAN..seen.end.div_ceil(SPAN).max(seen.start / SPAN + 1);
                tiles.extend((0..self.inputs.store.kv_heads()).map(|kv_head| Tile {
                    sequence,
                    kv_head,
                    tokens: tokens.clone(),
                    seen: seen.clone(),
                    spans: spans.clone(),
                }));
            }
        }
        tiles
    }

    fn rows(&self, tile: &Tile) -> usize {
        tile.tokens.len() * self.share
    }

    /// A state is, for each query row: maximum, sum, and `width` weighted values.
    pub(super) fn state_floats(&self, tile: &Tile) -> usize {
        self.rows(tile) * (self.width + 2)
    }

    pub(super) fn partial_floats(&self, tiles: &[Tile]) -> usize {
        tiles.iter().map(|tile| tile.spans.len() * self.state_floats(tile)).sum()
    }

    /// Packed queries, one page in f32, two states.
    pub(super) fn scratch_floats(&self, tile: &Tile) -> usize {
        self.packed_floats(tile) + self.page_floats(tile) + 2 * self.state_floats(tile)
    }

    fn packed_floats(&self, tile: &Tile) -> usize {
        self.rows(tile).next_multiple_of(GROUP) * self.inputs.store.head_dim()
    }

    /// 0 where pages are used as they are.
    fn page_floats(&self, tile: &Tile) -> usize {
        let halves = self.inputs.store.dtype() == crate::kv::KvType::F16;
        let widened = halves && self.rows(tile).div_ceil(GROUP) >= GROUPS_TO_WIDEN;
        if widened { PAGE * (self.inputs.store.head_dim() + self.width) } else { 0 }
    }

    /// All spans of a tile, merged: its state, inside `scratch`.
    pub(super) fn whole<'s>(&self, isa: Isa, tile: &Tile, scratch: &'s mut [f32]) -> &'s mut [f32] {
        let (states, rest) = scratch.split_at_mut(2 * self.state_floats(tile));
        let (total, part) = states.split_at_mut(self.state_floats(tile));
        let (packed, page) = rest.split_at_mut(self.packed_floats(tile));
        self.pack(tile, packed);
        for span in tile.spans.clone() {
            let first = span == tile.spans.start;
            self.fold(isa, tile, span, packed, page, if first { &mut *total } else { &mut *part });
            if !first {
                self.merge(isa, tile, total, part);
            }
        }
        total
    }

    /// One span of a tile into `state`.
    pub(super) fn span(&self, isa: Isa, tile: &Tile, span: usize, scratch: &mut [f32], state: &mut [f32]) {
        let (packed, rest) = scratch.split_at_mut(self.packed_floats(tile));
        self.pack(tile, packed);
        self.fold(isa, tile, span, packed, &mut rest[..self.page_floats(tile)], state);
    }

    /// Query row r is token r / share, head r mod share. Groups of up to four rows are interleaved: element d of a
    /// group's rows lies together, which is the order in which a score needs it.
    fn pack(&self, tile: &Tile, packed: &mut [f32]) {
        let (rows, head_dim) = (self.rows(tile), self.inputs.store.head_dim());
        let heads = self.share * self.inputs.store.kv_heads();
        for (group, packed) in packed.chunks_exact_mut(GROUP * head_dim).enumerate() {
            let members = (rows - group * GROUP).min(GROUP);
            let lanes = lanes(members);
            packed.fill(0.0);
            for member in 0..members {
                let row = group * GROUP + member;
                let token = tile.tokens.start + row / self.share;
                let head = tile.kv_head * self.share + row % self.share;
                let q = &self.inputs.q[(token * heads + head) * head_dim..][..head_dim];
                for (d, &x) in q.iter().enumerate() {
                    packed[d * lanes + member] = x * self.inputs.scale;
                }
            }
        }
    }

    fn fold(&self, isa: Isa, tile: &Tile, span: usize, packed: &[f32], page: &mut [f32], state: &mut [f32]) {
        let store = self.inputs.store;
        let table_width = self.inputs.page_table.len() / (self.inputs.row_starts.len() - 1);
        let table = &self.inputs.page_table[tile.sequence * table_width..][..table_width];
        for row in state.chunks_exact_mut(self.width + 2) {
            row.fill(0.0);
            row[0] = f32::NEG_INFINITY;
        }
        let first = (span * PAGES_PER_SPAN).max(tile.seen.start / PAGE);
        let end = ((span + 1) * PAGES_PER_SPAN).min(tile.seen.end.div_ceil(PAGE));
        let widen = !page.is_empty();
        for index in first..end {
            // Checked in `check`: every page between the first and the last visible one has a valid id.
            let view = store.view(table[index] as usize, self.inputs.layer, tile.kv_head);
            let pages = match view {
                PageView::F32(keys, values) => Pages::F32(keys, values),
                PageView::F16(keys, values) if !widen => Pages::F16(keys, values),
                PageView::F16(keys, values) => {
                    let (wide_keys, wide_values) = page.split_at_mut(keys.len());
                    dispatch(isa, Widen { from: keys, to: wide_keys });
                    dispatch(isa, Widen { from: values, to: wide_values });
                    Pages::F32(wide_keys, wide_values)
                }
            };
            let direct = !widen && index + 1 < end;
            let next =
                if direct { store.bytes(table[index + 1] as usize, self.inputs.layer, tile.kv_head) } else { &[] };
            self.fold_page(isa, tile, index, pages, next, packed, state);
        }
    }

    fn fold_page(
        &self,
        isa: Isa,
        tile: &Tile,
        index: usize,
        pages: Pages<'_>,
        next: &[u8],
        packed: &[f32],
        state: &mut [f32],
    ) {
        let head_dim = self.inputs.store.head_dim();
        let groups = packed.chunks_exact(GROUP * head_dim).zip(state.chunks_mut(GROUP * (self.width + 2)));
        for (group, (packed, state)) in groups.enumerate() {
            let members = state.len() / (self.width + 2);
            let mut seen = [(0, 0); GROUP];
            for (member, seen) in seen[..members].iter_mut().enumerate() {
                let token = tile.tokens.start + (group * GROUP + member) / self.share;
                let range = visible(self.inputs, token);
                let inside = |position: usize| position.saturating_sub(index * PAGE).min(PAGE);
                *seen = (inside(range.start), inside(range.end));
            }
            if seen.iter().any(|(start, end)| start < end) {
                let next = if group == 0 { next } else { &[] };
                dispatch(isa, Page { pages, next, packed, members, seen, width: self.width, state });
            }
        }
    }

    /// total = total and the later `part`.
    pub(super) fn merge(&self, isa: Isa, tile: &Tile, total: &mut [f32], part: &[f32]) {
        debug_assert_eq!(total.len(), self.state_floats(tile), "a state of another tile");
        for (total, part) in total.chunks_exact_mut(self.width + 2).zip(part.chunks_exact(self.width + 2)) {
            dispatch(isa, Merge { total, part });
        }
    }

    /// Writes a tile's rows.
    ///
    /// # Safety
    /// Nobody else uses this tile's rows of `out` meanwhile.
    pub(super) unsafe fn finish(&self, tile: &Tile, total: &[f32], out: &Disjoint<'_, f32>) {
        let head_dim = self.inputs.store.head_dim();
        let heads = self.share * self.inputs.store.kv_heads();
        for (row, state) in total.chunks_exact(self.width + 2).enumerate() {
            let token = tile.tokens.start + row / self.share;
            let start = (token * heads + tile.kv_head * self.share + row % self.share) * head_dim;
            // SAFETY: the caller's promise.
            let out = unsafe { out.range(start..start + head_dim) };
            let sum = state[1];
            if sum == 0.0 {
                out.fill(0.0);
                continue;
            }
            let inverse = 1.0 / sum;
            for (to, from) in out.iter_mut().zip(&state[2..]) {
                *to = from * inverse;
            }
        }
    }
}

/// Rows that the kernel for a group of `members` computes: the next power of two.
pub(super) fn lanes(members: usize) -> usize {
    members.next_power_of_two()
}
