//! Few tokens: every weight octet is decoded once, straight from the stored bytes, and meets each token in registers.
//!
//! ```text
//! for row: for octet of row:
//!     decode -> eight vectors of codes; for each token:
//!         eight dot products of 32 -> one vector of eight block sums (lane = block = partial sum)
//!         partial += block sums * scales (and offsets)
//! ```

use core::arch::x86_64::*;
use std::ops::Range;

use crate::formats::{BLOCK, Weights};
use crate::matmul::activations::{self, Activations, Plane};
use crate::matmul::{LANES, OutView};

use super::lanes::{each8, load_f32, load_i8, load_i16, load_pairs, reduce, sums8, widen_signed};
use super::octet::{COARSE_BITS, Decode, Octet, Sum};

/// Bytes between the weights being decoded and the ones being fetched.
const PREFETCH: usize = 2048;

/// An octet at the end of the data may be cut: it is decoded from here.
type Tail = [u8; LANES * 34];

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply<D: Decode, const T: usize, const FINE: bool>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations,
    out: &mut OutView<'_>,
) {
    let octets: [_; T] = std::array::from_fn(|t| x.octets(t));
    let blocks = weights.cols() / BLOCK;
    for row in rows {
        let mut bytes = weights.rows_from(row);
        let mut partial = [_mm256_setzero_ps(); T];
        let whole = blocks / LANES;
        for o in 0..whole {
            prefetch(bytes, D::BYTES);
            // SAFETY: this function has the target features.
            let octet = unsafe { D::decode(bytes) };
            for t in 0..T {
                partial[t] = accumulate::<D, FINE>(&octet, &octets[t][o], partial[t]);
            }
            bytes = &bytes[D::BYTES..];
        }
        if !blocks.is_multiple_of(LANES) {
            let octet = decode_cut::<D>(bytes);
            let present = first_lanes(blocks % LANES);
            for t in 0..T {
                let sum = accumulate::<D, FINE>(&octet, &octets[t][whole], partial[t]);
                partial[t] = _mm256_blendv_ps(partial[t], sum, present);
            }
        }
        for (t, &p) in partial.iter().enumerate() {
            out.set(t, row, reduce(p));
        }
    }
}

/// Fetches the lines that the octet `PREFETCH` bytes ahead begins in.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn prefetch(bytes: &[u8], count: usize) {
    let mut at = 0;
    while at < count {
        _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(PREFETCH + at).cast());
        at += 64;
    }
}

/// Decodes an octet of which only the first blocks belong to the row: what follows them is ignored by the caller.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn decode_cut<D: Decode>(bytes: &[u8]) -> Octet {
    if bytes.len() >= D::BYTES {
        // SAFETY: this function has the target features.
        return unsafe { D::decode(bytes) };
    }
    let mut tail: Tail = [0; LANES * 34];
    tail[..bytes.len()].copy_from_slice(bytes);
    // SAFETY: as above.
    unsafe { D::decode(&tail) }
}

/// All bits set in the first `count` lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn first_lanes(count: usize) -> __m256 {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn accumulate<D: Decode, const FINE: bool>(w: &Octet, x: &activations::Octet, partial: __m256) -> __m256 {
    let isum = if !FINE {
        code_sums::<D>(w, &x.coarse)
    } else if D::SUM == Sum::Signed {
        wide_sums(w, x)
    } else {
        let coarse = _mm256_slli_epi32::<COARSE_BITS>(code_sums::<D>(w, &x.coarse));
        _mm256_add_epi32(coarse, code_sums::<D>(w, &x.fine))
    };
    let scales = load_f32(&x.scales);
    let partial = _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum), _mm256_mul_ps(w.scale, scales), partial);
    if !D::OFFSET {
        return partial;
    }
    let sums = if D::STEPS {
        let mut msum = _mm256_madd_epi16(w.steps, load_pairs(&x.coarse.halves));
        if FINE {
            let fine = _mm256_madd_epi16(w.steps, load_pairs(&x.fine.halves));
            msum = _mm256_add_epi32(_mm256_slli_epi32::<COARSE_BITS>(msum), fine);
        }
        _mm256_mul_ps(scales, _mm256_cvtepi32_ps(msum))
    } else {
        load_f32(&x.sums)
    };
    _mm256_fmadd_ps(w.offset, sums, partial)
}

/// Sums of signed codes times whole activation codes, a lane per block: fewer operations than two planes with signs.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn wide_sums(w: &Octet, x: &activations::Octet) -> __m256i {
    sums8(&each8!(|J| {
        let low = _mm256_madd_epi16(widen_signed(w.codes[J], 0), load_i16(&x.wide[J], 0));
        _mm256_add_epi32(low, _mm256_madd_epi16(widen_signed(w.codes[J], 1), load_i16(&x.wide[J], 1)))
    }))
}

/// Sums of (codes - BIAS) times one plane of activations, a lane per block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn code_sums<D: Decode>(w: &Octet, x: &Plane) -> __m256i {
    let dots = each8!(|J| dot::<D>(w.codes[J], load_i8(&x.codes[J]), w.pairs, J));
    if D::BIAS == 0 {
        return sums8(&dots);
    }
    let bias = _mm256_mullo_epi16(w.pairs, _mm256_set1_epi16(D::BIAS));
    _mm256_sub_epi32(sums8(&dots), _mm256_madd_epi16(bias, load_pairs(&x.halves)))
}

/// Codes of block `j` times activations, as eight int32 that add up to the dot product.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot<D: Decode>(codes: __m256i, x: __m256i, pairs: __m256i, j: usize) -> __m256i {
    let one = _mm256_set1_epi16(1);
    match D::SUM {
        Sum::Nibble | Sum::Small => _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), one),
        Sum::Halves => {
            // The first scale of pair j through the low half of the vector, the second through the high half.
            let pair = _mm256_permutevar8x32_epi32(pairs, _mm256_set1_epi32(j as i32));
            let spread = _mm256_setr_epi64x(
                0x0100_0100_0100_0100,
                0x0100_0100_0100_0100,
                0x0302_0302_0302_0302,
                0x0302_0302_0302_0302,
            );
            _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), _mm256_shuffle_epi8(pair, spread))
        }
        Sum::Signed => _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes)), one),
    }
}
