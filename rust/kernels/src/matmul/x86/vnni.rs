//! The inner loops of the GEMM with AVX-512 VNNI: `vpdpwssd` multiplies and adds 32 columns of int16 at once.

use core::arch::x86_64::*;

use crate::matmul::activations::Group;

use super::decode::{Decode, parts};
use super::gemm::{Kernel, Results};
use super::panel::Panel;

/// Panels of a tile: 2 x 6 accumulators hide the latency of `vpdpwssd`, five cycles at two a cycle.
const PANELS: usize = 2;

pub(super) struct Vnni;

impl Kernel for Vnni {
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn tile<D: Decode, const T: usize>(panels: &[Panel], present: usize, x: &[Group; T], results: &mut [Results]) {
        let all = panels.len();
        for (index, panels) in panels.chunks(PANELS).enumerate() {
            let results = &mut results[PANELS * index..];
            match panels {
                [one] => add::<D, 1, T>([one], present, x, results, all),
                [one, two] => add::<D, PANELS, T>([one, two], present, x, results, all),
                _ => unreachable!("chunks have one or two panels"),
            }
        }
    }
}

/// The products of R panels; the results of a token are `stride` apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add<D: Decode, const R: usize, const T: usize>(
    panels: [&Panel; R],
    present: usize,
    x: &[Group; T],
    results: &mut [Results],
    stride: usize,
) {
    let run = D::FORMAT.run();
    let mut v = [[_mm512_setzero_ps(); R]; T];
    for index in 0..present / run {
        let mut sums = [[_mm512_setzero_si512(); R]; T];
        for pair in 16 * run * index..16 * run * (index + 1) {
            let mut w = [_mm512_setzero_si512(); R];
            for r in 0..R {
                w[r] = panels[r].codes[pair].load_all();
            }
            for t in 0..T {
                let a = broadcast_pair(&x[t], pair);
                for r in 0..R {
                    sums[t][r] = _mm512_dpwssd_epi32(sums[t][r], w[r], a);
                }
            }
        }
        for r in 0..R {
            let scale = _mm512_castsi512_ps(panels[r].scales[index].load_all());
            for t in 0..T {
                v[t][r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[t][r]), scale, v[t][r]);
            }
        }
    }
    for part in 0..parts::<D>(present) {
        for t in 0..T {
            let sum = if D::FORMAT.has_half_offsets() { x[t].halves[part] } else { x[t].blocks[part] };
            for r in 0..R {
                let offset = _mm512_castsi512_ps(panels[r].offsets[part].load_all());
                v[t][r] = _mm512_fmadd_ps(offset, _mm512_set1_ps(sum), v[t][r]);
            }
        }
    }
    for t in 0..T {
        let scale = _mm512_set1_ps(x[t].scale);
        for r in 0..R {
            let at = results[t * stride + r].0.as_mut_ptr().cast::<f32>();
            // SAFETY: sixteen floats, aligned to 64 bytes.
            unsafe { _mm512_store_ps(at, _mm512_fmadd_ps(v[t][r], scale, _mm512_load_ps(at))) };
        }
    }
}

/// Codes 2 * pair and 2 * pair + 1 in every lane; `pair` is below 128.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn broadcast_pair(x: &Group, pair: usize) -> __m512i {
    debug_assert!(pair < 128);
    // SAFETY: a group has 128 pairs of codes, aligned to 64 bytes.
    _mm512_set1_epi32(unsafe { x.codes.as_ptr().cast::<i32>().add(pair).read() })
}
