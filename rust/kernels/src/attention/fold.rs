//! Folds the pages of a span into the states of a tile.

use std::iter::repeat_n;
use std::ops::Range;

use super::PAGES_PER_SPAN;
use super::check::visible;
use super::narrow::{self, NarrowPage};
use super::state::{Cut, States};
use super::tile::{Plan, Room, Tile};
use super::wide::{self, WidePage};
use crate::isa::Isa;
use crate::kv::PAGE;
use crate::simd::dispatch;

impl Plan<'_> {
    /// Scales the queries, and interleaves those of a group: element d of its rows lies together, which is the order
    /// in which scores need it.
    pub(super) fn pack(&self, tile: &Tile, packed: &mut [f32]) {
        let head_dim = self.inputs.store.head_dim();
        let rows = tile.tokens.len() * self.share;
        let group = if self.is_wide(tile) { wide::GROUP } else { narrow::GROUP };
        for (index, packed) in packed.chunks_exact_mut(group * head_dim).enumerate() {
            let members = (rows - index * group).min(group);
            let lanes = if self.is_wide(tile) { group } else { narrow::lanes(members) };
            packed.fill(0.0);
            for member in 0..members {
                let start = self.query(tile, index * group + member) * head_dim;
                let q = &self.inputs.q[start..start + head_dim];
                for (packed, &x) in packed.chunks_exact_mut(lanes).zip(q) {
                    packed[member] = x * self.inputs.scale;
                }
            }
        }
    }

    /// The states of a tile over the keys of one span. Where few rows wait for memory, pages up to the end of span
    /// `last` are fetched ahead: those that this thread folds next.
    pub(super) fn fold(&self, isa: Isa, tile: &Tile, spans: (usize, usize), room: &mut Room<'_>, state: &mut [f32]) {
        let (span, last) = spans;
        let mut states = self.states(tile, state);
        states.clear();
        let first = (span * PAGES_PER_SPAN).max(tile.seen.start / PAGE);
        let end = ((span + 1) * PAGES_PER_SPAN).min(tile.seen.end.div_ceil(PAGE));
        if self.is_wide(tile) {
            self.fold_wide(isa, tile, first..end, room, &mut states);
        } else {
            let ahead = ((last + 1) * PAGES_PER_SPAN).min(tile.seen.end.div_ceil(PAGE));
            self.fold_narrow(isa, tile, (first..end, ahead), room.packed, &mut states);
        }
    }

    fn fold_wide(&self, isa: Isa, tile: &Tile, pages: Range<usize>, room: &mut Room<'_>, states: &mut States<'_>) {
        let store = self.inputs.store;
        let visible: Vec<Range<usize>> = tile.tokens.clone().map(|token| visible(self.inputs, token)).collect();
        let mut seen = Vec::with_capacity(visible.len() * self.share);
        let mut cuts = Vec::with_capacity(seen.capacity().div_ceil(wide::GROUP));
        for index in pages {
            seen.clear();
            seen.extend(visible.iter().flat_map(|range| repeat_n(on_page(range, index), self.share)));
            if seen.iter().all(|(start, end)| start >= end) {
                continue;
            }
            cuts.clear();
            cuts.extend(seen.chunks(wide::GROUP).map(Cut::new));
            let page = WidePage {
                page: store.view(self.page(tile, index), self.inputs.layer, tile.kv_head),
                packed: room.packed,
                seen: &seen,
                cuts: &cuts,
                panels: room.panels,
                scores: room.scores.as_chunks_mut().0.as_chunks_mut().0,
                width: self.width,
                states: states.reborrow(),
            };
            dispatch(isa, page);
        }
    }

    fn fold_narrow(
        &self,
        isa: Isa,
        tile: &Tile,
        (pages, ahead): (Range<usize>, usize),
        packed: &[f32],
        states: &mut States<'_>,
    ) {
        let (store, layer) = (self.inputs.store, self.inputs.layer);
        let rows = tile.tokens.len() * self.share;
        for index in pages {
            let page = store.view(self.page(tile, index), layer, tile.kv_head);
            let mut next: &[u8] = &[];
            if index + 1 < ahead {
                next = store.bytes(self.page(tile, index + 1), layer, tile.kv_head);
            }
            let mut states = states.reborrow();
            for (group, packed) in packed.chunks_exact(narrow::GROUP * store.head_dim()).enumerate() {
                let first = group * narrow::GROUP;
                let members = (rows - first).min(narrow::GROUP);
                let mut seen = [(0, 0); narrow::GROUP];
                for (member, seen) in seen[..members].iter_mut().enumerate() {
                    let token = tile.tokens.start + (first + member) / self.share;
                    *seen = on_page(&visible(self.inputs, token), index);
                }
                let seen = &seen[..members];
                let states = states.take(members, self.width);
                if seen.iter().any(|(start, end)| start < end) {
                    dispatch(isa, NarrowPage { page, next, packed, seen, width: self.width, states });
                    next = &[];
                }
            }
        }
    }

    /// The id of the sequence's page `index`. Checked in `check`: every page between the first and the last visible
    /// one has a valid id.
    fn page(&self, tile: &Tile, index: usize) -> usize {
        let columns = self.inputs.page_table.len() / (self.inputs.row_starts.len() - 1);
        self.inputs.page_table[tile.sequence * columns + index] as usize
    }
}

/// The part of a range of positions that lies on page `index`, in slots.
fn on_page(range: &Range<usize>, index: usize) -> (usize, usize) {
    let inside = |position: usize| position.saturating_sub(index * PAGE).min(PAGE);
    (inside(range.start), inside(range.end))
}
