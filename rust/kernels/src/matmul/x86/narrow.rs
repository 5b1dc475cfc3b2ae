//! Codes of 8 bits as bytes, and sums of codes, with AVX2: compilers put them together one by one.

use core::arch::x86_64::*;

use crate::formats::BLOCK;
use crate::matmul::LANES;
use crate::matmul::codes::{Bytes, Group};

/// As `codes::sum`.
#[target_feature(enable = "avx2")]
pub(in crate::matmul) fn sum(group: &mut Group) {
    let codes = group.codes.as_chunks::<BLOCK>().0;
    // Four columns of each half block, added up.
    let fours = |block: usize| {
        let at = codes[block].as_ptr().cast::<__m256i>();
        // SAFETY: 32 codes, the even ones and then the odd ones, aligned to 32 bytes.
        let both = unsafe { _mm256_add_epi16(_mm256_load_si256(at), _mm256_load_si256(at.add(1))) };
        _mm256_madd_epi16(both, _mm256_set1_epi16(1))
    };
    let sums = group.halves.as_chunks_mut::<8>().0.iter_mut().zip(group.blocks.as_chunks_mut::<4>().0);
    for (index, (halves, blocks)) in sums.enumerate() {
        let twos = |block: usize| _mm256_hadd_epi32(fours(4 * index + block), fours(4 * index + block + 1));
        // Lower halves of four blocks, then their upper halves.
        let sums = _mm256_hadd_epi32(twos(0), twos(2));
        let both = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
        let sums = _mm256_permutevar8x32_epi32(sums, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        // SAFETY: eight floats and four.
        unsafe {
            _mm256_storeu_ps(halves.as_mut_ptr(), _mm256_cvtepi32_ps(sums));
            _mm_storeu_ps(blocks.as_mut_ptr(), _mm_cvtepi32_ps(both));
        }
    }
}

/// As `codes::narrow`.
#[target_feature(enable = "avx2")]
pub(in crate::matmul) fn narrow(group: &Group, bytes: &mut Bytes) {
    let mut most = _mm256_setzero_si256();
    // [block][four columns of eight]: sums of absolute codes.
    let mut norms = [[0_u64; 4]; LANES];
    let blocks = bytes.codes.as_chunks_mut::<BLOCK>().0.iter_mut().zip(group.codes.as_chunks::<BLOCK>().0);
    for ((bytes, codes), norms) in blocks.zip(&mut norms) {
        let at = codes.as_ptr().cast::<__m256i>();
        // SAFETY: 32 codes, the even ones and then the odd ones, aligned to 32 bytes.
        let (even, odd) = unsafe { (_mm256_load_si256(at), _mm256_load_si256(at.add(1))) };
        let both = _mm256_or_si256(_mm256_and_si256(even, _mm256_set1_epi16(0xff)), _mm256_slli_epi16::<8>(odd));
        let eights = _mm256_sad_epu8(_mm256_abs_epi8(both), _mm256_setzero_si256());
        let halves = _mm256_add_epi64(eights, _mm256_shuffle_epi32::<0b01_00_11_10>(eights));
        most = _mm256_max_epi16(most, halves);
        // SAFETY: 32 bytes each.
        unsafe {
            _mm256_storeu_si256(bytes.as_mut_ptr().cast(), both);
            _mm256_storeu_si256(norms.as_mut_ptr().cast(), halves);
        }
    }
    bytes.norm = _mm256_extract_epi16::<0>(most).max(_mm256_extract_epi16::<8>(most)) as i16;
    // SAFETY: sixteen and eight floats, and as many 16-bit numbers.
    unsafe {
        let sums = |at: *const f32| _mm256_cvtps_epi32(_mm256_loadu_ps(at));
        let at = group.halves.as_ptr();
        let halves = _mm256_packs_epi32(sums(at), sums(at.add(LANES)));
        _mm256_storeu_si256(bytes.halves.as_mut_ptr().cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(halves));
        let blocks = sums(group.blocks.as_ptr());
        let (low, high) = (_mm256_castsi256_si128(blocks), _mm256_extracti128_si256::<1>(blocks));
        _mm_storeu_si128(bytes.blocks.as_mut_ptr().cast(), _mm_packs_epi32(low, high));
    }
    let sides =
        norms.iter().zip(bytes.blocks).map(|(norms, sum)| (norms[0] + norms[2] + u64::from(sum.unsigned_abs())) / 2);
    bytes.side = sides.fold(0, u64::max) as i16;
    bytes.scale = group.scale;
}
