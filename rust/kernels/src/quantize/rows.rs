//! The Q and K families: whole rows, sixteen sub-blocks at a time.

use std::hint::black_box;
use std::ops::Range;

use crate::formats::Format;
use crate::pages::PAGE;
use crate::simd::{Kernel, LANES, Simd};

use super::group::{Group, LONGEST};
use super::plan::{Plan, Shape};
use super::{pack, search};

/// Bytes of a cache line.
const LINE: usize = 64;

/// Rows of `cols` weights to the blocks of a format that has a plan.
pub(super) struct Rows<'a> {
    pub format: Format,
    pub plan: Plan,
    pub values: &'a [f32],
    pub cols: usize,
    pub importance: Option<&'a [f32]>,
    /// Bytes that are needed next: fetched little by little.
    pub next: &'a [u8],
    pub out: &'a mut [u8],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { format, plan, .. } = self;
        let size = LANES * plan.len;
        let mut padded = [0.0_f32; LANES * LONGEST];
        let mut weights = [0.0_f32; LANES * LONGEST];
        let outs = self.out.chunks_mut(size / format.block() * format.block_bytes());
        let next = self.next.len().div_ceil(self.values.len().div_ceil(size)).next_multiple_of(LINE);
        for (index, (values, out)) in self.values.chunks(size).zip(outs).enumerate() {
            fetch(s, self.next, index * next..(index + 1) * next);
            let values = if values.len() == size {
                values
            } else {
                padded[..values.len()].copy_from_slice(values);
                &padded[..size]
            };
            let importance = self.importance.map(|all| {
                repeat(all, index * size % self.cols, &mut weights[..size]);
                &weights[..size]
            });
            let mut group = Group::new(s, values, importance, plan.rule, format.block() / plan.len);
            let found = match plan.shape {
                Shape::Offset { most, multiples, first, second } => {
                    search::offset(s, &mut group, most, multiples, [first, second])
                }
                Shape::Centred { codes, multiples, first, second } => {
                    search::centred(s, &mut group, codes, multiples, [first, second])
                }
            };
            pack::store(s, format, &mut group, &found, out);
        }
    }
}

/// Has bytes fetched, as far as there are that many. Of each page one byte is read: what is not mapped yet cannot be
/// fetched in advance.
#[inline(always)]
fn fetch<S: Simd>(s: S, bytes: &[u8], part: Range<usize>) {
    for at in part.step_by(LINE) {
        if at % PAGE < LINE {
            black_box(bytes.get(at).copied());
        }
        s.prefetch(bytes, at);
    }
}

/// `from` from element `start` on, again and again.
fn repeat(from: &[f32], mut start: usize, to: &mut [f32]) {
    let mut done = 0;
    while done < to.len() {
        let n = (to.len() - done).min(from.len() - start);
        to[done..done + n].copy_from_slice(&from[start..start + n]);
        done += n;
        start = 0;
    }
}
