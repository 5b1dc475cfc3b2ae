//! Codes of sixteen tokens in the order of the matrix unit.

use core::arch::x86_64::*;

use crate::formats::BLOCK;
use crate::matmul::codes::Group;
use crate::matmul::tiled::{STEPS, Step, Sums, TOKENS};

use super::panel::pair;
use super::transpose::transpose;

/// As the loops of [`crate::matmul::tiled`].
#[target_feature(enable = "avx512f,avx512bw")]
pub(in crate::matmul) fn pack(groups: &[Group; TOKENS], sums: &mut Sums, steps: &mut [Step]) {
    for (token, group) in groups.iter().enumerate() {
        sums.set(token, group);
    }
    let (low, high) = steps.split_at_mut(STEPS);
    for (index, low) in low.iter_mut().enumerate() {
        let mut rows = [[_mm512_setzero_si512(); TOKENS]; 2];
        for (token, group) in groups.iter().enumerate() {
            let [even, odd] = columns(group, index);
            if high.is_empty() {
                rows[0][token] = pair(even, odd);
                continue;
            }
            let half = _mm512_set1_epi16(64);
            let high = [even, odd].map(|codes| _mm512_srai_epi16::<7>(_mm512_add_epi16(codes, half)));
            let rest = |codes, high| _mm512_sub_epi16(codes, _mm512_slli_epi16::<7>(high));
            rows[0][token] = pair(rest(even, high[0]), rest(odd, high[1]));
            rows[1][token] = pair(high[0], high[1]);
        }
        store(&rows[0], low);
        if let Some(high) = high.get_mut(index) {
            store(&rows[1], high);
        }
    }
}

/// Codes of 64 columns from 64 * `index`: even ones and odd ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn columns(group: &Group, index: usize) -> [__m512i; 2] {
    let blocks = &group.codes.as_chunks::<BLOCK>().0[2 * index..][..2];
    // SAFETY: a block of codes has 64 bytes, aligned like its group.
    let [a, b] =
        unsafe { [_mm512_load_si512(blocks[0].as_ptr().cast()), _mm512_load_si512(blocks[1].as_ptr().cast())] };
    [_mm512_shuffle_i64x2::<0x44>(a, b), _mm512_shuffle_i64x2::<0xee>(a, b)]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn store(rows: &[__m512i; TOKENS], to: &mut Step) {
    for (line, v) in to.0.iter_mut().zip(transpose(rows)) {
        // SAFETY: a line has 64 bytes, aligned like the step.
        unsafe { _mm512_store_si512(line.as_mut_ptr().cast(), v) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::tiled::set_codes;

    #[test]
    fn a_tile_is_what_its_rows_make_one_by_one() {
        if !is_x86_feature_detected!("avx512f") || !is_x86_feature_detected!("avx512bw") {
            return;
        }
        let mut groups = [Group::ZERO; TOKENS];
        for (token, group) in groups.iter_mut().enumerate() {
            for (i, code) in group.codes.iter_mut().enumerate() {
                *code = ((i * 7919 + token * 104_729) % 16_383) as i16 - 8191;
            }
            group.scale = token as f32;
            group.halves = std::array::from_fn(|i| (token * 100 + i) as f32);
            group.blocks = std::array::from_fn(|i| (token * 100 + i) as f32 + 0.5);
        }
        for planes in [1, 2] {
            if planes == 1 {
                for group in &mut groups {
                    group.codes = group.codes.map(|code| code / 65);
                }
            }
            let (mut sums, mut want_sums) = (Sums::ZERO, Sums::ZERO);
            let (mut steps, mut want) = (vec![Step::ZERO; planes * STEPS], vec![Step::ZERO; planes * STEPS]);
            // SAFETY: the CPU has the features.
            unsafe { pack(&groups, &mut sums, &mut steps) };
            for (token, group) in groups.iter().enumerate() {
                want_sums.set(token, group);
                set_codes(&mut want, token, group);
            }
            assert!(steps.iter().zip(&want).all(|(a, b)| a.0 == b.0));
            assert!(sums.scale == want_sums.scale && sums.blocks == want_sums.blocks);
            assert!(sums.halves == want_sums.halves && sums.halves16 == want_sums.halves16);
            assert!(sums.blocks16 == want_sums.blocks16);
        }
    }
}
