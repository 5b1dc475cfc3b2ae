//! The k largest values of a row.
//!
//! One pass collects what is greater than the k-th best so far. Whenever twice that much has gathered, the best k
//! are kept and the bar rises; after a few thousand elements almost nothing passes it, and the pass runs at the
//! speed of memory. A later element equal to the bar loses the tie to k elements with smaller ids.

use crate::isa::Isa;
use crate::simd::{Kernel, LANES, Simd, dispatch};

/// Elements that one look at the bar covers.
const BLOCK: usize = 4 * LANES;
/// Least room for candidates, so that small k do not sort all the time.
const LEAST_ROOM: usize = 256;

/// Ids and values of the k largest elements (all of them if the row has fewer), in falling order.
///
/// Equal values (0 and -0 are equal) come in rising order of ids. NaN counts as -inf and is reported as such.
/// The row has at most 2^32 elements.
#[must_use]
pub fn top_k(isa: Isa, row: &[f32], k: usize) -> (Vec<u32>, Vec<f32>) {
    let k = k.min(row.len());
    if k == 0 {
        return (Vec::new(), Vec::new());
    }
    let room = (2 * k).max(LEAST_ROOM).min(row.len());
    let mut best = dispatch(isa, Scan { row, k, room });
    best.sort_unstable_by(|a, b| b.cmp(a));
    best.truncate(k);
    let mut ids: Vec<u32> = best.iter().map(|&key| id(key)).collect();
    if ids.len() < k {
        // Nothing beats -inf but what was collected: -inf and NaN fill up in order of ids.
        let rest = (0u32..).zip(row).filter(|(_, x)| x.is_nan() || **x == f32::NEG_INFINITY).map(|(id, _)| id);
        ids.extend(rest.take(k - best.len()));
    }
    let value = |&id: &u32| if row[id as usize].is_nan() { f32::NEG_INFINITY } else { row[id as usize] };
    let values = ids.iter().map(value).collect();
    (ids, values)
}

/// Keys order as (value, then smaller id first).
fn key(id: u32, x: f32) -> u64 {
    let bits = (x + 0.0).to_bits();
    let rising = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    (u64::from(rising) << 32) | u64::from(!id)
}

fn id(key: u64) -> u32 {
    !(key as u32)
}

struct Scan<'a> {
    row: &'a [f32],
    k: usize,
    room: usize,
}

impl Kernel for Scan<'_> {
    type Output = Vec<u64>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<u64> {
        let mut best: Vec<u64> = Vec::with_capacity(self.room + BLOCK);
        let mut bar = f32::NEG_INFINITY;
        let blocks = self.row.chunks_exact(BLOCK);
        let tail = blocks.remainder();
        let mut first = 0u32;
        for block in blocks {
            let mut passed = 0;
            let wide = s.splat(bar);
            for part in block.chunks_exact(LANES) {
                passed |= s.greater(s.load(part), wide);
            }
            if passed != 0 {
                self.collect(first, block, &mut bar, &mut best);
            }
            first = first.wrapping_add(BLOCK as u32);
        }
        self.collect(first, tail, &mut bar, &mut best);
        best
    }
}

impl Scan<'_> {
    fn collect(&self, first: u32, block: &[f32], bar: &mut f32, best: &mut Vec<u64>) {
        for (id, &x) in (first..).zip(block) {
            if x > *bar {
                best.push(key(id, x));
            }
        }
        if best.len() >= self.room && best.len() > self.k {
            let (_, &mut least, _) = best.select_nth_unstable_by(self.k - 1, |a, b| b.cmp(a));
            best.truncate(self.k);
            *bar = self.row[id(least) as usize];
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn naive(row: &[f32], k: usize) -> (Vec<u32>, Vec<f32>) {
        let clean = |x: f32| if x.is_nan() { f32::NEG_INFINITY } else { x };
        let mut order: Vec<u32> = (0..row.len() as u32).collect();
        order.sort_by(|&a, &b| clean(row[b as usize]).partial_cmp(&clean(row[a as usize])).unwrap().then(a.cmp(&b)));
        order.truncate(k);
        let values = order.iter().map(|&id| clean(row[id as usize])).collect();
        (order, values)
    }

    fn element() -> impl Strategy<Value = f32> {
        prop_oneof![
            8 => -50.0f32..50.0,
            8 => (-3i8..3).prop_map(f32::from),
            1 => Just(f32::NAN),
            1 => Just(f32::NEG_INFINITY),
            1 => Just(f32::INFINITY),
            1 => Just(-0.0),
        ]
    }

    proptest! {
        #[test]
        fn equals_a_stable_sort(row in vec(element(), 0..3000), k in prop_oneof![0usize..9, 0usize..4000]) {
            for isa in Isa::available() {
                let (ids, values) = top_k(isa, &row, k);
                let (want_ids, want) = naive(&row, k);
                prop_assert_eq!(&ids, &want_ids);
                prop_assert!(values.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
    }

    #[test]
    fn rising_falling_and_constant_rows() {
        let n = 262_144;
        for isa in Isa::available() {
            let rising: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(top_k(isa, &rising, 3).0, [n - 1, n - 2, n - 3]);
            let falling: Vec<f32> = (0..n).map(|i| -(i as f32)).collect();
            assert_eq!(top_k(isa, &falling, 64).0, (0..64).collect::<Vec<u32>>());
            assert_eq!(top_k(isa, &vec![1.5; n as usize], 200).0, (0..200).collect::<Vec<u32>>());
            assert_eq!(top_k(isa, &vec![f32::NAN; 100], 2), (vec![0, 1], vec![f32::NEG_INFINITY; 2]));
        }
    }
}
