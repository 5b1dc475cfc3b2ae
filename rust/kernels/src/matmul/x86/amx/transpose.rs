//! Sixteen vectors of sixteen 32-bit elements, turned around.

use core::arch::x86_64::*;

/// Element j of result i is element i of `v[j]`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(v: &[__m512i; 16]) -> [__m512i; 16] {
    let mut a = [_mm512_setzero_si512(); 16];
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
    // b[4 i + c]: column c of each 128-bit lane, of rows 4 i to 4 i + 3.
    let mut b = [_mm512_setzero_si512(); 16];
    for i in 0..4 {
        let [p, q, r, s] = [a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3]];
        b[4 * i] = _mm512_unpacklo_epi64(p, r);
        b[4 * i + 1] = _mm512_unpackhi_epi64(p, r);
        b[4 * i + 2] = _mm512_unpacklo_epi64(q, s);
        b[4 * i + 3] = _mm512_unpackhi_epi64(q, s);
    }
    let mut out = [_mm512_setzero_si512(); 16];
    for c in 0..4 {
        let low = _mm512_shuffle_i32x4::<0x88>(b[c], b[4 + c]);
        let high = _mm512_shuffle_i32x4::<0xdd>(b[c], b[4 + c]);
        let low2 = _mm512_shuffle_i32x4::<0x88>(b[8 + c], b[12 + c]);
        let high2 = _mm512_shuffle_i32x4::<0xdd>(b[8 + c], b[12 + c]);
        out[c] = _mm512_shuffle_i32x4::<0x88>(low, low2);
        out[8 + c] = _mm512_shuffle_i32x4::<0xdd>(low, low2);
        out[4 + c] = _mm512_shuffle_i32x4::<0x88>(high, high2);
        out[12 + c] = _mm512_shuffle_i32x4::<0xdd>(high, high2);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        if !is_x86_feature_detected!("avx512f") {
            return;
        }
        let from: [[i32; 16]; 16] = std::array::from_fn(|i| std::array::from_fn(|j| (16 * i + j) as i32));
        let mut to = [[0_i32; 16]; 16];
        // SAFETY: the CPU has AVX-512; loads and stores are of whole rows.
        unsafe {
            let rows = from.map(|row| _mm512_loadu_si512(row.as_ptr().cast()));
            for (row, v) in to.iter_mut().zip(transpose(&rows)) {
                _mm512_storeu_si512(row.as_mut_ptr().cast(), v);
            }
        }
        assert!((0..16).all(|i| (0..16).all(|j| to[i][j] == from[j][i])));
    }
}
