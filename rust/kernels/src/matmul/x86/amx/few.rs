//! Nine to sixteen tokens, one tile of them, and weights in strips: the matrix unit multiplies a block of sixteen rows with all tokens.
//!
//! ```text
//! for strip: for group: decode the next group to bytes
//!     for block: sums of products: the unit, exact in int32, to memory, while those of the block before become v
//!     result += (v + offsets) * activation scale
//! ```
//! Here tokens are the rows of the left factor, which may be fewer than sixteen, and weight rows are lanes. Integer scales
//! are not part of the bytes, as in [`super`]: with few tokens it is cheaper to scale sums.

use core::arch::x86_64::*;
use std::ops::Range;

use crate::formats::{BLOCK, STRIP, Weights};
use crate::matmul::activations::Activations;
use crate::matmul::codes::{Few, Quads};
use crate::matmul::tiled::TOKENS;
use crate::matmul::x86::lanes::{each8, unrolled};
use crate::matmul::x86::offsets::add_offsets;
use crate::matmul::x86::strip::{At, Strip};
use crate::matmul::x86::strips::{add_run, fetch};
use crate::matmul::{LANES, OutView};

use super::tiles::{Shapes, Unit, dot, load, store, zero};

/// Bytes of a group as the right factor: [four columns][row][column].
#[repr(C, align(64))]
struct Bytes([[i8; 64]; 64]);

/// Sums of the products of a block (or its halves) with the planes of each token: [half][plane][token][row].
#[repr(C, align(64))]
struct Sums([[[[i32; STRIP]; TOKENS]; 2]; 2]);

/// Products with a tile of tokens, whose codes have P planes. Absent tokens are anything: their results are not written.
///
/// # Safety
/// The CPU has AMX, and the system lets us use it.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(in crate::matmul::x86) unsafe fn multiply<D: Strip, const P: usize>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    activations: &Activations,
    out: &mut OutView<'_>,
) {
    let (blocks, tokens) = (weights.cols() / BLOCK, activations.tokens());
    assert!(tokens <= TOKENS, "{tokens} tokens are no tile");
    // SAFETY: the caller's promise; nothing else of this thread uses the tiles meanwhile.
    let _unit = unsafe { Unit::with(&shapes(tokens as u8, D::FORMAT.has_half_scales())) };
    let groups = blocks.div_ceil(LANES);
    let strips = rows.start / STRIP..rows.end.div_ceil(STRIP);
    let place = |item: usize| {
        let (strip, index) = (strips.start + item / groups, item % groups);
        let present = LANES.min(blocks - index * LANES);
        (index, present, At::group::<D>(weights.strip(strip).as_ptr(), index, present))
    };
    let items = strips.len() * groups;
    let mut bytes = [Bytes([[0; 64]; 64]), Bytes([[0; 64]; 64])];
    let mut sums = [const { Sums([[[[0; STRIP]; TOKENS]; 2]; 2]) }; 2];
    let mut results = [_mm512_setzero_ps(); TOKENS];
    if items > 0 {
        let (_, present, at) = place(0);
        // SAFETY: a strip has all groups of its rows, `present` blocks in this one; here and below.
        unsafe { decode::<D>(at, present, &mut bytes[0]) };
    }
    for item in 0..items {
        let (index, present, at) = place(item);
        let [even, odd] = &mut bytes;
        let (now, later) = if item % 2 == 0 { (even, odd) } else { (odd, even) };
        if item + 1 < items {
            let (_, present, at) = place(item + 1);
            // SAFETY: see above.
            unsafe { decode::<D>(at, present, later) };
        }
        // SAFETY: see above; the shapes are those of so many tokens.
        unsafe { accumulate::<D, P>(at, present, now, activations.few(index), &mut sums, &mut results) };
        if index + 1 == groups {
            let first = STRIP * (strips.start + item / groups);
            for (token, &result) in results[..tokens].iter().enumerate() {
                let mut values = [0.0_f32; STRIP];
                // SAFETY: sixteen floats.
                unsafe { _mm512_storeu_ps(values.as_mut_ptr(), result) };
                out.set_sixteen(token, first, &values, &rows);
            }
            results = [_mm512_setzero_ps(); TOKENS];
        }
    }
}

/// Tiles 0 and 1: sums. 2 and 3: codes of tokens, of a block or half of one. 4: bytes of weights.
fn shapes(tokens: u8, halves: bool) -> Shapes {
    let columns = if halves { 16 } else { 32 };
    let mut shapes = Shapes::NONE;
    for tile in [0, 1] {
        shapes.set(tile, tokens, 64);
    }
    for tile in [2, 3] {
        shapes.set(tile, tokens, columns);
    }
    shapes.set(4, columns as u8 / 4, 64);
    shapes
}

/// Codes without their bias, and the lines of what follows are asked for.
///
/// # Safety
/// `at` is a group of D of `present` blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn decode<D: Strip>(at: At, present: usize, to: &mut Bytes) {
    let bias = _mm512_set1_epi8(D::BIAS as i8);
    for base in (0..present).step_by(D::PERIOD) {
        each8!(|PHASE| {
            if PHASE < D::PERIOD {
                each8!(|QUAD| {
                    fetch::<D>(at, base + PHASE, QUAD);
                    // SAFETY: the caller's promise; a line has 64 bytes, aligned like the whole.
                    unsafe {
                        let codes = _mm512_sub_epi8(D::codes(at, base, PHASE, QUAD), bias);
                        _mm512_store_si512(to.0[8 * (base + PHASE) + QUAD].as_mut_ptr().cast(), codes);
                    }
                });
            }
        });
    }
}

/// Adds the products of one group of columns to the results.
///
/// # Safety
/// `at` is a group of D of `present` blocks, and the tiles have the shapes of no more tokens than `x` has.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn accumulate<D: Strip, const P: usize>(
    at: At,
    present: usize,
    bytes: &Bytes,
    x: Few<'_, TOKENS>,
    sums: &mut [Sums; 2],
    results: &mut [__m512; TOKENS],
) {
    let run = D::FORMAT.run(P == 1);
    let halves = D::FORMAT.has_half_scales();
    let mut v = [_mm512_setzero_ps(); TOKENS];
    let mut scaled = [_mm512_setzero_si512(); TOKENS];
    let mut integers = [_mm512_setzero_si512(); 2 * LANES];
    if D::FORMAT.has_integer_scales() {
        unrolled!(|J| if D::FORMAT.has_half_scales() { 16 } else { 8 } => {
            // SAFETY: the caller's promise, here and below.
            integers[J] = unsafe { D::integer(at, J) };
        });
    }
    let [even, odd] = sums;
    // SAFETY: see above.
    unsafe { products::<P>(bytes, &x.quads[0], 0, halves, even) };
    for block in 0..present {
        let (now, later) = if block % 2 == 0 { (&mut *even, &mut *odd) } else { (&mut *odd, &mut *even) };
        if block + 1 < present {
            // SAFETY: see above.
            unsafe { products::<P>(bytes, &x.quads[0], block + 1, halves, later) };
        }
        if !D::FORMAT.has_integer_scales() {
            let mut sums = [_mm512_setzero_si512(); TOKENS];
            for t in 0..TOKENS {
                sums[t] = whole::<P>(&now.0[0], t);
            }
            // SAFETY: see above.
            add_run(&sums, unsafe { D::run_scale(at, block) }, &mut v);
            continue;
        }
        for t in 0..TOKENS {
            let first = if halves { integers[2 * block] } else { integers[block] };
            scaled[t] = _mm512_add_epi32(scaled[t], _mm512_mullo_epi32(whole::<P>(&now.0[0], t), first));
            if halves {
                let second = _mm512_mullo_epi32(whole::<P>(&now.0[1], t), integers[2 * block + 1]);
                scaled[t] = _mm512_add_epi32(scaled[t], second);
            }
        }
        if block % run == run - 1 {
            // SAFETY: see above.
            add_run(&scaled, unsafe { D::run_scale(at, block / run) }, &mut v);
            scaled = [_mm512_setzero_si512(); TOKENS];
        }
    }
    // SAFETY: see above.
    unsafe { add_offsets::<D, TOKENS, P>(at, present, x, &mut v) };
    for t in 0..TOKENS {
        results[t] = _mm512_fmadd_ps(v[t], _mm512_set1_ps(x.groups[t].scale), results[t]);
    }
}

/// The sums of a token, of all planes.
#[inline]
#[target_feature(enable = "avx512f")]
fn whole<const P: usize>(sums: &[[[i32; STRIP]; TOKENS]; 2], token: usize) -> __m512i {
    // SAFETY: lines of 64 bytes, aligned like the whole.
    let plane = |plane: usize| unsafe { _mm512_load_si512(sums[plane][token].as_ptr().cast()) };
    if P > 1 { _mm512_add_epi32(plane(0), _mm512_slli_epi32::<7>(plane(1))) } else { plane(0) }
}

/// The unit's work on block `block`, or on both of its halves.
///
/// # Safety
/// The tiles have the shapes of so many tokens as lie behind `x`, itself included.
#[inline]
unsafe fn products<const P: usize>(bytes: &Bytes, x: &Quads, block: usize, halves: bool, to: &mut Sums) {
    let parts = if halves { 2 } else { 1 };
    for part in 0..parts {
        let first = BLOCK * block + 16 * part;
        let (low, high) = (x.low[first..].as_ptr(), x.high[first..].as_ptr());
        let weights = bytes.0[8 * block + 4 * part..].as_ptr();
        let [c, d] = &mut to.0[part];
        // SAFETY: the caller's promise; a tile of weights is 4 or 8 lines of 64 bytes, and there is room for all sums.
        unsafe {
            zero::<0>();
            load::<4, _>(weights, 64);
            load::<2, _>(low, size_of::<Quads>());
            dot::<0, 2, 4>();
            store::<0, _>(c, 64);
            if P > 1 {
                zero::<1>();
                load::<3, _>(high, size_of::<Quads>());
                dot::<1, 3, 4>();
                store::<1, _>(d, 64);
            }
        }
    }
}
