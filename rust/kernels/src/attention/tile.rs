//! A tile: some tokens of one sequence, with the query heads of one kv head.

use std::ops::Range;

use super::check::visible_to_any;
use super::scratch::LINE;
use super::state::{Merge, States};
use super::{Attend, SPAN, narrow, wide};
use crate::isa::Isa;
use crate::kv::PAGE;
use crate::simd::dispatch;
use crate::team::Disjoint;

/// Most query rows (tokens times query heads of a kv head) per tile, unless one token has more: so many use a panel
/// that turning it into f32 costs little, and their states still fit L2 beside it.
const TILE_ROWS: usize = 96;

/// Tiles are not cut below this for the sake of more members.
const LEAST_TILE_ROWS: usize = 24;

/// Up to so many query rows use a page as it lies in the store: measured, unpacking it does not pay before.
const NARROW_ROWS: usize = 8 * narrow::GROUP;

pub(super) struct Tile {
    pub(super) sequence: usize,
    pub(super) kv_head: usize,
    pub(super) tokens: Range<usize>,
    pub(super) seen: Range<usize>,
    /// Numbers of the spans that hold something visible; span i starts at position i * SPAN. At least one.
    pub(super) spans: Range<usize>,
}

/// How the rows of a call are cut up.
pub(super) struct Plan<'a> {
    pub(super) inputs: &'a Attend<'a>,
    /// Query heads per kv head.
    pub(super) share: usize,
    /// Weighted values per row of a state, those of whole panels.
    pub(super) width: usize,
}

/// The parts of a member's memory, besides states.
pub(super) struct Room<'a> {
    /// Queries, in groups of rows; each `[head_dim][rows of the group]`.
    pub(super) packed: &'a mut [f32],
    /// Panels of keys or values, and scores; empty where pages are used as they are.
    pub(super) panels: &'a mut [f32],
    pub(super) scores: &'a mut [f32],
}

impl<'a> Plan<'a> {
    pub(super) fn new(inputs: &'a Attend<'a>, heads: usize) -> Self {
        Self { inputs, share: heads / inputs.store.kv_heads(), width: inputs.store.value_width() }
    }

    /// At least `wanted` tiles, if there is work for so many; those that see more keys come later in a sequence.
    pub(super) fn tiles(&self, wanted: usize) -> Vec<Tile> {
        let mut rows = TILE_ROWS;
        let count = |rows: usize| -> usize {
            let most = self.most_tokens(rows);
            self.inputs.row_starts.windows(2).map(|pair| ((pair[1] - pair[0]) as usize).div_ceil(most)).sum::<usize>()
                * self.inputs.store.kv_heads()
        };
        while rows / 2 >= LEAST_TILE_ROWS && count(rows) < wanted {
            rows /= 2;
        }
        let most = self.most_tokens(rows);
        let mut tiles = Vec::with_capacity(count(rows));
        for (sequence, bounds) in self.inputs.row_starts.windows(2).enumerate() {
            let (mut start, end) = (bounds[0] as usize, bounds[1] as usize);
            while start < end {
                // Tiles of a sequence are equal up to a unit.
                let left = (end - start).div_ceil(most);
                let tokens = (end - start).div_ceil(left).next_multiple_of(self.unit(most));
                let tokens = start..end.min(start + tokens);
                start = tokens.end;
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

    /// Tokens of at most `rows` rows: whole units, but at least one token.
    fn most_tokens(&self, rows: usize) -> usize {
        let tokens = (rows / self.share).max(1);
        tokens / self.unit(tokens) * self.unit(tokens)
    }

    /// The fewest tokens whose rows fill whole groups, if not more than `most`; else 1.
    fn unit(&self, most: usize) -> usize {
        let whole = |&tokens: &usize| (tokens * self.share).is_multiple_of(wide::GROUP);
        (1..=most.min(wide::GROUP)).find(whole).unwrap_or(1)
    }

    fn rows(&self, tile: &Tile) -> usize {
        tile.tokens.len() * self.share
    }

    pub(super) fn is_wide(&self, tile: &Tile) -> bool {
        self.rows(tile) > NARROW_ROWS
    }

    /// Rows of a tile's states: wide ones have those that fill up the last group.
    fn state_rows(&self, tile: &Tile) -> usize {
        if self.is_wide(tile) { self.rows(tile).next_multiple_of(wide::GROUP) } else { self.rows(tile) }
    }

    pub(super) fn state_floats(&self, tile: &Tile) -> usize {
        States::floats(self.state_rows(tile), self.width).next_multiple_of(LINE)
    }

    pub(super) fn states<'s>(&self, tile: &Tile, floats: &'s mut [f32]) -> States<'s> {
        States::of(floats, self.state_rows(tile), self.width)
    }

    pub(super) fn partial_floats(&self, tiles: &[Tile]) -> usize {
        tiles.iter().map(|tile| tile.spans.len() * self.state_floats(tile)).sum()
    }

    /// What [`whole`](Self::whole) and [`span`](Self::span) need: [`Room`], and two states for the former.
    pub(super) fn scratch_floats(&self, tile: &Tile) -> usize {
        2 * self.state_floats(tile) + self.room_floats(tile).iter().sum::<usize>()
    }

    /// Packed queries, panels, scores.
    fn room_floats(&self, tile: &Tile) -> [usize; 3] {
        let head_dim = self.inputs.store.head_dim();
        let packed = (self.packed_rows(tile) * head_dim).next_multiple_of(LINE);
        if !self.is_wide(tile) {
            return [packed, 0, 0];
        }
        [packed, wide::ROOM, self.packed_rows(tile) * PAGE]
    }

    fn packed_rows(&self, tile: &Tile) -> usize {
        self.rows(tile).next_multiple_of(if self.is_wide(tile) { wide::GROUP } else { narrow::GROUP })
    }

    pub(super) fn room<'s>(&self, tile: &Tile, scratch: &'s mut [f32]) -> Room<'s> {
        let [packed, panels, scores] = self.room_floats(tile);
        let (packed, rest) = scratch.split_at_mut(packed);
        let (panels, rest) = rest.split_at_mut(panels);
        // What rounds it up to whole lines holds groups of its own when heads are tiny.
        let used = self.packed_rows(tile) * self.inputs.store.head_dim();
        Room { packed: &mut packed[..used], panels, scores: &mut rest[..scores] }
    }

    /// All spans of a tile, merged: its state, inside `scratch`.
    pub(super) fn whole<'s>(&self, isa: Isa, tile: &Tile, scratch: &'s mut [f32]) -> &'s mut [f32] {
        let (total, rest) = scratch.split_at_mut(self.state_floats(tile));
        let (part, rest) = rest.split_at_mut(self.state_floats(tile));
        let mut room = self.room(tile, rest);
        self.pack(tile, room.packed);
        for span in tile.spans.clone() {
            let spans = (span, tile.spans.end);
            if span == tile.spans.start {
                self.fold(isa, tile, spans, &mut room, total);
            } else {
                self.fold(isa, tile, spans, &mut room, part);
                self.merge(isa, tile, total, part);
            }
        }
        total
    }

    /// total = total and the later `part`.
    pub(super) fn merge(&self, isa: Isa, tile: &Tile, total: &mut [f32], part: &mut [f32]) {
        let (total, part) = (self.states(tile, total), self.states(tile, part));
        dispatch(isa, Merge { total, part, width: self.width });
    }

    /// Writes a tile's rows.
    ///
    /// # Safety
    /// Nobody else uses this tile's rows of `out` meanwhile.
    pub(super) unsafe fn finish(&self, tile: &Tile, total: &mut [f32], out: &Disjoint<'_, f32>) {
        let states = self.states(tile, total);
        let head_dim = self.inputs.store.head_dim();
        let rows = states.values.chunks_exact(self.width).zip(states.marks);
        for (row, (values, &mut [_, sum])) in rows.take(self.rows(tile)).enumerate() {
            let start = self.query(tile, row) * head_dim;
            // SAFETY: the caller's promise.
            let out = unsafe { out.range(start..start + head_dim) };
            if sum == 0.0 {
                out.fill(0.0);
                continue;
            }
            let inverse = 1.0 / sum;
            for (to, from) in out.iter_mut().zip(values) {
                *to = from * inverse;
            }
        }
    }

    /// Where query row `row` of a tile lies in q, in heads: row r is token r / share, head r mod share.
    pub(super) fn query(&self, tile: &Tile, row: usize) -> usize {
        let heads = self.share * self.inputs.store.kv_heads();
        (tile.tokens.start + row / self.share) * heads + tile.kv_head * self.share + row % self.share
    }
}
