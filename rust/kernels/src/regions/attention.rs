//! Queries, keys and values of a layer, and attention over the cache.

use super::product::{Inputs, RowNorm, lock, multiply, room};
use super::{Machine, Mode, Norm, ShapeError, check, check_len, rows_of};
use crate::attention::{self, Attend};
use crate::formats::Weights;
use crate::kv::{KvStore, PAGE};
use crate::matmul::Needs;
use crate::norm::rms_norm_heads;
use crate::rope::rotate_heads;
use crate::team::Disjoint;

/// Where the rows of a batch lie in the sequences' pages; n rows of s sequences.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// [n], rising by 1 within a sequence.
    pub positions: &'a [i32],
    /// [s + 1]: sequence i owns rows `row_starts[i]..row_starts[i + 1]`.
    pub row_starts: &'a [i32],
    /// [s, pages]: entry j is the page that holds positions 64 j.. of the sequence, -1 for none.
    pub page_table: &'a [i32],
}

impl Rows<'_> {
    /// (page, slot) of every row.
    fn places(&self, pages: usize) -> Result<Vec<(usize, usize)>, ShapeError> {
        let sequences = self.row_starts.len().saturating_sub(1);
        let n = self.positions.len();
        let ends = (self.row_starts.first().copied(), self.row_starts.last().copied());
        let rise = self.row_starts.windows(2).all(|pair| pair[0] <= pair[1]);
        check(ends == (Some(0), i32::try_from(n).ok()) && rise, || {
            format!("row_starts must rise from 0 to the number of rows, {n}")
        })?;
        let width = self.page_table.len().checked_div(sequences).unwrap_or(0);
        check_len("page_table", self.page_table.len(), width * sequences)?;
        let mut places = Vec::with_capacity(n);
        for sequence in 0..sequences {
            let table = &self.page_table[sequence * width..][..width];
            for row in self.row_starts[sequence]..self.row_starts[sequence + 1] {
                let position = self.positions[row as usize];
                let at = usize::try_from(position).unwrap_or(usize::MAX);
                let page = table.get(at / PAGE).and_then(|&id| usize::try_from(id).ok()).filter(|&id| id < pages);
                let page = page.ok_or_else(|| {
                    ShapeError(format!("sequence {sequence}: no usable page for position {position}"))
                })?;
                places.push((page, at % PAGE));
            }
        }
        Ok(places)
    }
}

/// q = rotate(norm(y @ q^T)) per head, with y = norm(x); keys likewise and values go to the store.
///
/// x: [n, D]; projections: query, key and value matrices; `rotation`: [n, `head_dim`]; q: [n, heads * `head_dim`].
///
/// # Errors
/// When shapes do not fit or a row has no page; nothing is written then.
pub fn qkv(
    machine: &Machine,
    x: &[f32],
    norm: Norm<'_>,
    projections: [Weights<'_>; 3],
    head_norms: [Norm<'_>; 2],
    rotation: &[f32],
    rows: &Rows<'_>,
    store: &mut KvStore,
    layer: usize,
    q: &mut [f32],
    mode: Mode,
) -> Result<(), ShapeError> {
    let [q_proj, k_proj, v_proj] = projections;
    let [q_norm, k_norm] = head_norms;
    let (cols, dim, kv_heads) = (q_proj.cols(), store.head_dim(), store.kv_heads());
    let (q_width, kv_width) = (q_proj.rows(), dim * kv_heads);
    let tokens = rows_of("x", x, cols)?;
    check(k_proj.cols() == cols && v_proj.cols() == cols, || "projections differ in columns".into())?;
    check_len("k_proj", k_proj.rows(), kv_width)?;
    check_len("v_proj", v_proj.rows(), kv_width)?;
    check(q_width.is_multiple_of(dim), || format!("q_proj: {q_width} rows are no heads of {dim}"))?;
    check_len("norm", norm.weight.len(), cols)?;
    check_len("q_norm", q_norm.weight.len(), dim)?;
    check_len("k_norm", k_norm.weight.len(), dim)?;
    check_len("rope", rotation.len(), tokens * dim)?;
    check_len("positions", rows.positions.len(), tokens)?;
    check_len("q", q.len(), tokens * q_width)?;
    check(dim.is_multiple_of(2), || format!("rope: a head of {dim} has no halves"))?;
    check(layer < store.layers(), || format!("layer {layer} of a store with {}", store.layers()))?;
    let places = rows.places(store.pages())?;

    let needs = Needs::of(machine.isa, &projections, mode);
    let inputs = Inputs { values: x, cols, rows: None, norm: RowNorm::Rms(norm), needs };
    let isa = machine.isa;
    let (q, writer) = (Disjoint::new(q), store.writer());
    machine.with(|team, workspace| {
        inputs.reset(&mut workspace.shared);
        let (shared, members) = (&workspace.shared, &workspace.members);
        let [keys, values] = &mut workspace.products;
        let keys = Disjoint::new(room(keys, tokens * kv_width));
        let values = Disjoint::new(room(values, tokens * kv_width));
        team.run(|worker| {
            let member = &mut *lock(&members[worker.index]);
            let acts = inputs.write(worker, 0, isa, shared, &mut member.own, &mut member.row);
            multiply(worker, 1, isa, &q_proj, acts, mode, &q, &mut member.scratch);
            multiply(worker, 2, isa, &k_proj, acts, mode, &keys, &mut member.scratch);
            multiply(worker, 3, isa, &v_proj, acts, mode, &values, &mut member.scratch);
            worker.barrier();
            worker.share(4, tokens, 16, |range| {
                for token in range {
                    let turn = &rotation[token * dim..][..dim];
                    let kv = token * kv_width..(token + 1) * kv_width;
                    // SAFETY: the share hands every token to one member, behind all writes of the products.
                    let (q, k, v) = unsafe {
                        (q.range(token * q_width..(token + 1) * q_width), keys.range(kv.clone()), values.range(kv))
                    };
                    rms_norm_heads(isa, q, q_norm.weight, q_norm.eps);
                    rotate_heads(isa, q, turn);
                    rms_norm_heads(isa, k, k_norm.weight, k_norm.eps);
                    rotate_heads(isa, k, turn);
                    let (page, slot) = places[token];
                    for (head, (k, v)) in k.chunks_exact(dim).zip(v.chunks_exact(dim)).enumerate() {
                        // SAFETY: a place belongs to one token of one sequence; nobody reads during the region.
                        unsafe { writer.write(page, layer, head, slot, k, v) };
                    }
                }
            });
        });
    });
    Ok(())
}

/// out = softmax(scale * q k^T) v over the visible keys; see [`Attend`].
///
/// # Errors
/// When shapes do not fit or a visible page is absent; nothing is written then.
pub fn attend(machine: &Machine, inputs: &Attend<'_>, out: &mut [f32]) -> Result<(), ShapeError> {
    attention::attend(&machine.team, machine.isa, inputs, out).map_err(|error| ShapeError(error.to_string()))
}
