//! The head where only its best logits matter.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::product::{Inputs, Member, RowNorm, helping, lock, view};
use super::projection::{check_head, head};
use super::screen::search::{Collect, Largest, Mark, probe};
use super::screen::{COARSE, Screen};
use super::{Machine, Mode, Norm, ShapeError};
use crate::formats::{STRIP, Weights};
use crate::matmul::{self, Activations, Needs, OutView, TILE};
use crate::simd::dispatch;
use crate::team::Disjoint;

/// For more logits than this in all rows, the head is read as a whole: so many strips have one that may be among them that
/// reading the screen as well takes longer.
const MOST: usize = 128;

/// Strips that are looked through at a time.
const LOOKED_THROUGH: usize = 64;

/// What somebody wants of logits.
#[derive(Clone, Copy, Debug)]
pub struct Best<'a> {
    /// So many of the largest ones of a row have to be right.
    pub count: usize,
    /// Rows of the head that do not count, rising.
    pub excluded: &'a [i32],
}

/// As [`head`], but what is not among the `best` of a row may be wrong, and is less than any of these. Returns how many rows
/// of `proj` were computed.
///
/// Right ones have the bits that `head` gives them. After screens that were of little use the next ones are not looked at.
///
/// # Errors
/// When shapes do not fit or a row does not exist.
pub fn best_of_head(
    machine: &Machine,
    x: &[f32],
    rows: &[i32],
    norm: Norm<'_>,
    proj: Weights<'_>,
    screen: &Screen,
    best: Best<'_>,
    out: &mut [f32],
    mode: Mode,
) -> Result<usize, ShapeError> {
    let (width, cols, tokens) = (proj.rows(), proj.cols(), rows.len());
    check_head(x, rows, norm, proj, out)?;
    let (coarse, factor) = screen.coarse(proj)?;
    let scattered = proj.scattered();
    let is_whole =
        tokens == 0 || tokens > TILE || tokens * best.count > MOST || best.count >= width || mode == Mode::Exact;
    if is_whole || !screen.is_worth_it() {
        head(machine, x, rows, norm, proj, out, mode)?;
        return Ok(width);
    }
    let isa = machine.isa;
    let needs = [Needs::of(isa, &[proj], mode), Needs::of(isa, &[coarse], COARSE)];
    let inputs = Inputs { values: x, cols, rows: Some(rows), norm: RowNorm::Rms(norm), needs: needs[0] };
    let step = mode.precision(proj.format()).map_or(0.0, |precision| precision.max_code().recip());
    let found: Vec<Mutex<Vec<f32>>> = rows.iter().map(|_| Mutex::default()).collect();
    // Rows, and products of one of them with a token.
    let computed = Mutex::new((0, 0));
    let out = Disjoint::new(out);
    machine.with(|team, workspace| {
        let members = &workspace.members;
        team.run(|worker| {
            let Member { own, coarse: coarse_acts, singles, scratch, row, .. } = &mut *lock(&members[worker.index]);
            let values = inputs.rows(isa, 0, tokens, row);
            let probes: Vec<Vec<f32>> = values.chunks_exact(cols).map(|row| probe(row, step)).collect();
            let scaled: Vec<f32> = values.iter().map(|x| factor * x).collect();
            let inputs = [values, &*scaled];
            for ((acts, needs), values) in [&mut *own, &mut *coarse_acts].into_iter().zip(needs).zip(inputs) {
                acts.reset(tokens, cols, needs);
                // SAFETY: nobody else knows these.
                unsafe { acts.write_tile(0, values) };
            }
            let mut bests: Vec<Largest> = probes.iter().map(|_| Largest::new(best.count)).collect();
            // One token alone is `own`.
            singles.resize_with(if tokens > 1 { tokens } else { 0 }, Activations::default);
            for (acts, values) in singles.iter_mut().zip(values.chunks_exact(cols)) {
                acts.reset(1, cols, needs[0]);
                // SAFETY: nobody else knows these.
                unsafe { acts.write_tile(0, values) };
            }
            worker.stream(0, width, helping(width, tokens, worker.count), |range: Range<usize>| {
                // SAFETY: the share hands every row to one member, and the buffer outlives the region.
                let to = unsafe { view(&out, width) };
                matmul::multiply(isa, &coarse, range.clone(), coarse_acts, COARSE, to, scratch);
                for (token, (probe, best_of_token)) in probes.iter().zip(&mut bests).enumerate() {
                    // SAFETY: as above.
                    let logits = unsafe { out.range(token * width + range.start..token * width + range.end) };
                    let (first, excluded) = (range.start, best.excluded);
                    dispatch(isa, Collect { screen, first, logits, probe, excluded, best: best_of_token });
                }
            });
            for (found, best) in found.iter().zip(bests) {
                found.lock().unwrap_or_else(PoisonError::into_inner).extend(best.values);
            }
            worker.barrier();
            let floors: Vec<f32> = found
                .iter()
                .map(|found| Largest::of(best.count, &found.lock().unwrap_or_else(PoisonError::into_inner)).floor)
                .collect();
            let (mut own_rows, mut own_products) = (0, 0);
            worker.share(1, width.div_ceil(STRIP), LOOKED_THROUGH, |strips| {
                let mut wanted = [0; LOOKED_THROUGH];
                let looked_at = strips.start * STRIP..width.min(strips.end * STRIP);
                for (token, (probe, &floor)) in probes.iter().zip(&floors).enumerate() {
                    let at = token * width;
                    // SAFETY: the barrier is behind all writes of phase 0, and the share hands every strip to one member.
                    let logits = unsafe { out.range(at + looked_at.start..at + looked_at.end) };
                    let (first, wanted, bit) = (strips.start, &mut wanted, 1 << token);
                    dispatch(isa, Mark { screen, first, logits, probe, floor, wanted, bit });
                }
                let mut strips = strips.zip(wanted).filter(|(_, tokens)| *tokens != 0).peekable();
                while let Some((strip, wanted)) = strips.next() {
                    if let Some((next, _)) = strips.peek() {
                        proj.fetch(next * STRIP..(next + 1) * STRIP);
                    }
                    let rows = strip * STRIP..width.min((strip + 1) * STRIP);
                    own_rows += rows.len();
                    if 2 * wanted.count_ones() as usize > tokens {
                        own_products += tokens * rows.len();
                        // SAFETY: see above.
                        let to = unsafe { view(&out, width) };
                        matmul::multiply(isa, &scattered, rows, own, mode, to, scratch);
                        continue;
                    }
                    for token in (0..tokens).filter(|token| wanted >> token & 1 == 1) {
                        own_products += rows.len();
                        // SAFETY: see above.
                        let to = unsafe { OutView::from_raw(out.as_mut_ptr(), out.len(), width, token * width) };
                        matmul::multiply(isa, &scattered, rows.clone(), &singles[token], mode, to, scratch);
                    }
                }
            });
            let mut computed = computed.lock().unwrap_or_else(PoisonError::into_inner);
            computed.0 += own_rows;
            computed.1 += own_products;
        });
    });
    let (computed, products) = computed.into_inner().unwrap_or_else(PoisonError::into_inner);
    screen.learn(products / tokens);
    Ok(computed)
}
