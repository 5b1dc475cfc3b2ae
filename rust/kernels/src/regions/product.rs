//! The products inside a region: scratch memory, activations, and how rows are handed out.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{LayerNorm, Norm};
use crate::formats::Weights;
use crate::isa::Isa;
use crate::matmul::{self, Activations, Mode, Needs, OutView, TILE};
use crate::norm::{add_norm, layer_norm, rms_norm};
use crate::team::{Disjoint, Worker};

/// Scratch memory that is kept from call to call.
pub(super) struct Workspace {
    /// The activations that members share, written in turns.
    pub(super) shared: Activations,
    /// One per member; the locks are never contended.
    pub(super) members: Vec<Mutex<Member>>,
    /// The same, of what is computed inside a region and multiplied again.
    pub(super) hidden: Activations,
    /// Products [tokens, rows] that a later phase of the region reads.
    pub(super) products: [Vec<f32>; 2],
}

/// One member's own scratch memory.
#[derive(Default)]
pub(super) struct Member {
    pub(super) own: Activations,
    /// The same for a screen.
    pub(super) coarse: Activations,
    /// Each row of `own` alone.
    pub(super) singles: Vec<Activations>,
    pub(super) scratch: matmul::Scratch,
    pub(super) row: Vec<f32>,
    /// Products of a helping of rows, and what is made of them.
    pub(super) products: [Vec<f32>; 2],
}

impl Workspace {
    pub(super) fn new(members: usize) -> Self {
        Self {
            shared: Activations::new(),
            hidden: Activations::new(),
            members: (0..members).map(|_| Mutex::default()).collect(),
            products: [Vec::new(), Vec::new()],
        }
    }
}

/// Locks a member's scratch memory.
pub(super) fn lock(member: &Mutex<Member>) -> MutexGuard<'_, Member> {
    member.lock().unwrap_or_else(PoisonError::into_inner)
}

/// At least `len` elements of unspecified content.
pub(super) fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    crate::room::room(buffer, len, || 0.0)
}

/// What is done to a row before it is multiplied.
#[derive(Clone, Copy)]
pub(super) enum RowNorm<'a> {
    None,
    Rms(Norm<'a>),
    Layer(LayerNorm<'a>),
}

/// The rows that a region multiplies: row t is row `rows(t)` of `values`, normed.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) values: &'a [f32],
    pub(super) cols: usize,
    /// Which rows of `values`, in order; None: all of them.
    pub(super) rows: Option<&'a [i32]>,
    pub(super) norm: RowNorm<'a>,
    pub(super) needs: Needs,
}

impl Inputs<'_> {
    pub(super) fn tokens(&self) -> usize {
        self.rows.map_or(self.values.len() / self.cols, <[i32]>::len)
    }

    /// Whether every member prepares its own activations: there is only work for one. Members that came late would miss
    /// the whole run if it had a barrier here.
    fn redundant(&self) -> bool {
        self.tokens() <= TILE
    }

    /// Before the region: makes room for what members share.
    pub(super) fn reset(&self, shared: &mut Activations) {
        if !self.redundant() {
            shared.reset(self.tokens(), self.cols, self.needs);
        }
    }

    /// Inside the region, phase `phase`: writes the activations and returns when they are complete.
    pub(super) fn write<'m>(
        &self,
        worker: &Worker<'_>,
        phase: usize,
        isa: Isa,
        shared: &'m Activations,
        own: &'m mut Activations,
        row: &mut Vec<f32>,
    ) -> &'m Activations {
        let tokens = self.tokens();
        if self.redundant() {
            own.reset(tokens, self.cols, self.needs);
            if tokens > 0 {
                // SAFETY: nobody else knows these.
                unsafe { own.write_tile(0, self.rows(isa, 0, tokens, row)) };
            }
            return own;
        }
        worker.share(phase, shared.tiles(), 1, |tiles| {
            for tile in tiles {
                let first = tile * TILE;
                let count = TILE.min(tokens - first);
                let rows = self.rows(isa, first, count, row);
                // SAFETY: the share hands every tile to one member; readers wait at the barrier below.
                unsafe { shared.write_tile(tile, rows) };
            }
        });
        worker.barrier();
        shared
    }

    /// `count` rows from row `first` on, as they are multiplied; `scratch` is working memory.
    pub(super) fn rows<'r>(&'r self, isa: Isa, first: usize, count: usize, scratch: &'r mut Vec<f32>) -> &'r [f32] {
        if let (RowNorm::None, None) = (self.norm, self.rows) {
            return &self.values[first * self.cols..][..count * self.cols];
        }
        let rows = room(scratch, count * self.cols);
        for (lane, out) in rows.chunks_exact_mut(self.cols).enumerate() {
            self.input(isa, first + lane, out);
        }
        rows
    }

    /// Row `token`, as it is multiplied.
    fn input(&self, isa: Isa, token: usize, out: &mut [f32]) {
        let at = self.rows.map_or(token, |rows| rows[token] as usize);
        let values = &self.values[at * self.cols..][..self.cols];
        match self.norm {
            RowNorm::None => out.copy_from_slice(values),
            RowNorm::Rms(norm) => rms_norm(isa, values, norm.weight, norm.eps, out),
            RowNorm::Layer(norm) => layer_norm(isa, values, norm.weight, norm.bias, norm.eps, out),
        }
    }
}

/// Rows that a member takes at a time: a few dozen helpings in all, so that a slow member does not hold up the others.
pub(super) fn helping(rows: usize, tokens: usize, members: usize) -> usize {
    let fair = rows / (members * 8);
    if tokens > TILE && rows >= 2 * PAIR * members {
        return (fair / PAIR * PAIR).clamp(PAIR, 128);
    }
    let most = if tokens < 4 { FEW_ROWS } else { 128 };
    fair.next_multiple_of(16).clamp(16, most)
}

/// Rows that many tokens meet at least, where there are enough for everybody: sixteen leave a core idle for a third of the time.
const PAIR: usize = 32;

/// Most rows of a helping with few tokens: those of a member lie in a row, hence there is no need for long ones.
const FEW_ROWS: usize = 64;

/// Shares the rows of `weights` out and writes `out[t * weights.rows() + r]`.
pub(super) fn multiply(
    worker: &Worker<'_>,
    phase: usize,
    isa: Isa,
    weights: &Weights<'_>,
    x: &Activations,
    mode: Mode,
    out: &Disjoint<'_, f32>,
    scratch: &mut matmul::Scratch,
) {
    let rows = weights.rows();
    worker.stream(phase, rows, helping(rows, x.tokens(), worker.count), |range: Range<usize>| {
        // SAFETY: the share hands every row to one member, and the buffer outlives the region.
        let view = unsafe { view(out, rows) };
        matmul::multiply(isa, weights, range, x, mode, view, scratch);
    });
}

/// x += norm(branch), row by row. Both have rows as long as the norm; the branch is complete.
pub(super) fn add_branch(
    worker: &Worker<'_>,
    phase: usize,
    isa: Isa,
    x: &Disjoint<'_, f32>,
    branch: &Disjoint<'_, f32>,
    norm: Norm<'_>,
) {
    let width = norm.weight.len();
    worker.share(phase, x.len().checked_div(width).unwrap_or(0), 8, |range| {
        for token in range {
            let at = token * width..(token + 1) * width;
            // SAFETY: the share hands every token to one member, and nobody else touches either.
            let (row, branch) = unsafe { (x.range(at.clone()), branch.range(at)) };
            add_norm(isa, row, branch, norm.weight, norm.eps);
        }
    });
}

/// A view of products [tokens, width].
///
/// # Safety
/// As [`OutView::from_raw`]: the rows that are written through this view are this member's own.
pub(super) unsafe fn view<'a>(out: &Disjoint<'a, f32>, width: usize) -> OutView<'a> {
    // SAFETY: the pointer and length of a live slice; exclusive use is the caller's promise.
    unsafe { OutView::from_raw(out.as_mut_ptr(), out.len(), width, 0) }
}
