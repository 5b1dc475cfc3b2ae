//! Attention over the paged KV cache.
//!
//! Order of operations, the same for every instruction set, thread count, batch and chunking of a prompt:
//! * A score is fma(q[d] * scale, k[d], sum) for d rising, in f32; with int8 keys this
//!   is a sum over a block of 32 d, and the score is fma(sum, the block's scale, earlier blocks) for blocks rising.
//! * Keys come in blocks of one page (64 absolute positions). Within a span of [`SPAN`] absolute positions a block
//!   is folded in by online softmax: the new maximum m' over the block's visible keys and the old one; the sum and
//!   the weighted values so far are multiplied by exp(m - m'); then key after key p * v is added by fma; the sum
//!   adds key i to partial sum i mod 16, which are then added as in `Simd::sum`. With int8 values p is first
//!   multiplied by the scale of v's block.
//! * Spans start anew and are merged in rising order: with m' the larger maximum, each side is multiplied by
//!   exp(its m - m') and both are added (fma on the later one).
//! * The result is (weighted values) * (1 / sum).
//!
//! Masked keys take no part: they are neither multiplied by zero nor read as values, so that what a page holds
//! behind the end of its sequence never matters.
//!
//! Work is cut into tiles of some tokens of one sequence and the query heads of one kv head, which share every key
//! and value they read: few rows take a page as it is stored (`narrow`), many turn it into f32 first (`wide`). When
//! tiles are too few or too unequal for the team (decode), each span of a tile is an item of its own, and a second
//! phase merges them.

#![allow(clippy::inline_always, reason = "only what is inlined into `dispatch` is compiled for its instruction set")]

mod check;
mod fold;
mod narrow;
mod scratch;
mod state;
mod tile;
mod wide;

use thiserror::Error;

use crate::isa::Isa;
use crate::kv::{KvStore, PAGE};
use crate::team::{Disjoint, Team};

use scratch::{with_scratch, with_shared};
use tile::{Plan, Tile};

/// Absolute positions per span: small enough that a window of 512 keeps several members busy.
pub const SPAN: usize = 4 * PAGE;

const PAGES_PER_SPAN: usize = SPAN / PAGE;

/// Tiles are split into spans when one of them is more than a member's share of all spans divided by this.
const FEW_ITEMS: usize = 4;

/// Pieces of spans per member, where there are enough: more would end more evenly, but start at pages not yet fetched.
const SHARES: usize = 8;

/// Most floats that partial results of split tiles may take (16 MiB).
const MOST_PARTIAL: usize = 4 << 20;

/// The inputs of [`attend`]; n rows of s sequences.
#[derive(Clone, Copy)]
pub struct Attend<'a> {
    /// [n, heads * `head_dim`]; query head j uses kv head j / (heads / `kv_heads`).
    pub q: &'a [f32],
    /// [n], rising within a sequence.
    pub positions: &'a [i32],
    /// [n]: a row sees keys at positions below this.
    pub key_ends: &'a [i32],
    /// [s + 1]: sequence i owns rows `row_starts[i]..row_starts[i + 1]`.
    pub row_starts: &'a [i32],
    /// [s, pages]: entry j is the page that holds positions 64 j.. of the sequence; -1 where no row may look.
    pub page_table: &'a [i32],
    /// Keys and values, those of this step included.
    pub store: &'a KvStore,
    /// Layer of the store.
    pub layer: usize,
    /// Factor on q k.
    pub scale: f32,
    /// A row sees positions above its own minus this; 0: no lower bound.
    pub window: usize,
}

/// Inputs that do not fit together. Nothing has been written.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AttentionError {
    /// A slice has the wrong length.
    #[error("{name} has {len} elements, expected {expected}")]
    BadLength {
        /// Which slice.
        name: &'static str,
        /// What it has.
        len: usize,
        /// What it must have.
        expected: String,
    },
    /// The store has no such layer.
    #[error("layer {layer} of a store with {layers}")]
    NoSuchLayer {
        /// Asked for.
        layer: usize,
        /// There are.
        layers: usize,
    },
    /// `row_starts` does not rise from 0 to the number of rows.
    #[error("row_starts must rise from 0 to the number of rows")]
    BadRowStarts,
    /// A row of the sequence sees keys that the page table has no page for.
    #[error("sequence {sequence}: no usable page (id {id}) for visible positions from {position}")]
    NoPage {
        /// Index of the sequence in the batch.
        sequence: usize,
        /// First position of the page.
        position: usize,
        /// The table's entry, -1 also where the table ends.
        id: i32,
    },
}

/// out = softmax(scale * q k^T) v over the visible keys, `[n, heads * head_dim]`; zero for a row that sees none.
///
/// # Errors
/// [`AttentionError`], before anything is computed.
pub fn attend(team: &Team, isa: Isa, inputs: &Attend<'_>, out: &mut [f32]) -> Result<(), AttentionError> {
    let heads = check::check(inputs, out.len())?;
    if heads == 0 {
        return Ok(());
    }
    let plan = Plan::new(inputs, heads);
    let wanted = if team.threads() > 1 { FEW_ITEMS * team.threads() } else { 1 };
    let tiles = plan.tiles(wanted);
    let spans: usize = tiles.iter().map(|tile| tile.spans.len()).sum();
    let most = tiles.iter().map(|tile| tile.spans.len()).max().unwrap_or(0);
    let split = team.threads() > 1 && most > 1 && most * wanted > spans && plan.partial_floats(&tiles) <= MOST_PARTIAL;
    let out = Disjoint::new(out);
    if split {
        run_spans(team, isa, &plan, &tiles, &out);
    } else {
        run_tiles(team, isa, &plan, &tiles, &out);
    }
    Ok(())
}

/// One item per tile.
fn run_tiles(team: &Team, isa: Isa, plan: &Plan<'_>, tiles: &[Tile], out: &Disjoint<'_, f32>) {
    team.run(|worker| {
        worker.share(0, tiles.len(), 1, |items| {
            // Later rows see more keys: the largest tiles go first, so that the end is even.
            for tile in items.map(|item| &tiles[tiles.len() - 1 - item]) {
                with_scratch(plan.scratch_floats(tile), |scratch| {
                    let total = plan.whole(isa, tile, scratch);
                    // SAFETY: every output element belongs to one tile, and a tile is handed out once.
                    unsafe { plan.finish(tile, total, out) };
                });
            }
        });
    });
}

/// One item per span of a tile, then one per tile to merge them.
fn run_spans(team: &Team, isa: Isa, plan: &Plan<'_>, tiles: &[Tile], out: &Disjoint<'_, f32>) {
    let mut items = Vec::new();
    let mut starts = Vec::with_capacity(tiles.len());
    let mut floats = 0;
    for (index, tile) in tiles.iter().enumerate() {
        starts.push(floats);
        items.extend(tile.spans.clone().map(|span| (index, span)));
        floats += tile.spans.len() * plan.state_floats(tile);
    }
    let place = |index: usize, span: usize| {
        let tile: &Tile = &tiles[index];
        let size = plan.state_floats(tile);
        let start = starts[index] + (span - tile.spans.start) * size;
        start..start + size
    };
    let room = tiles.iter().map(|tile| plan.scratch_floats(tile)).max().unwrap_or(0);
    // Neighbouring spans together: the first page of one is fetched during the last of the one before.
    let grain = (items.len() / (SHARES * team.threads())).max(1);
    with_shared(floats, |partial| {
        let partial = Disjoint::new(partial);
        team.run(|worker| {
            with_scratch(room, |scratch| {
                let mut packed = None;
                worker.share(0, items.len(), grain, |range| {
                    let last = items[range.end - 1];
                    for &(index, span) in &items[range] {
                        let tile = &tiles[index];
                        let last = if last.0 == index { last.1 } else { tile.spans.end };
                        let mut room = plan.room(tile, scratch);
                        if packed.replace(index) != Some(index) {
                            plan.pack(tile, room.packed);
                        }
                        // SAFETY: every (tile, span) has its own place and is handed out once.
                        let state = unsafe { partial.range(place(index, span)) };
                        plan.fold(isa, tile, (span, last), &mut room, state);
                    }
                });
            });
            worker.barrier();
            worker.share(1, tiles.len(), 1, |range| {
                for index in range {
                    let tile = &tiles[index];
                    let mut spans = tile.spans.clone();
                    // SAFETY: the barrier is behind all writes of phase 0, and a tile is handed out once.
                    let total = unsafe { partial.range(place(index, spans.start)) };
                    spans.next();
                    for span in spans {
                        // SAFETY: as above, and places do not overlap.
                        let part = unsafe { partial.range(place(index, span)) };
                        plan.merge(isa, tile, total, part);
                    }
                    // SAFETY: every output element belongs to one tile.
                    unsafe { plan.finish(tile, total, out) };
                }
            });
        });
    });
}

#[cfg(test)]
mod tests;
