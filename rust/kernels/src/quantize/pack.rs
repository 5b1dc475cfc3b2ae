//! Codes, as exact small floats, into the bytes of a format.

use half::f16;

use crate::formats::Format;
use crate::simd::{LANES, Simd};

use super::group::{Group, LONGEST};
use super::search::Found;

/// Writes the storage blocks of a group whose weights are codes; `out` has at most as many as the group.
#[inline(always)]
pub(super) fn store<S: Simd>(s: S, format: Format, group: &mut Group<S>, found: &Found<S::V>, out: &mut [u8]) {
    let codes = &mut group.x;
    let blocks = out.chunks_exact_mut(format.block_bytes());
    match format {
        Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 => {
            let bias = match format {
                Format::Q4_0 => 8.0,
                Format::Q5_0 => 16.0,
                _ => 0.0,
            };
            for code in codes.iter_mut() {
                *code = s.add(*code, s.splat(bias));
            }
            let five = matches!(format, Format::Q5_0 | Format::Q5_1);
            let high = if five { fifth_bits(s, codes) } else { [[0; LANES]; 4] };
            let mut bytes = [s.splat(0.0); LANES];
            for (i, byte) in bytes.iter_mut().enumerate() {
                *byte = join(s, codes[i], codes[i + LANES], 16.0);
            }
            s.transpose(&mut bytes);
            for (j, out) in blocks.enumerate() {
                let mut at = put(out, 0, found.scale.stored[j]);
                if format.has_offset() {
                    at = put(out, at, found.low.stored[j]);
                }
                if five {
                    out[at..at + 4].copy_from_slice(&[high[0][j], high[1][j], high[2][j], high[3][j]]);
                    at += 4;
                }
                s.store_bytes(bytes[j], &mut out[at..]);
            }
        }
        Format::Q8_0 => {
            let halves = halves(s, codes);
            for (j, out) in blocks.enumerate() {
                put(out, 0, found.scale.stored[j]);
                s.store_bytes(halves[0][j], &mut out[2..]);
                s.store_bytes(halves[1][j], &mut out[18..]);
            }
        }
        Format::Q4_K | Format::Q5_K => {
            let (counts, minima) = (s.lanes(found.counts), s.lanes(found.minima));
            let mut low = halves(s, codes);
            let mut high = low;
            let five = format == Format::Q5_K;
            if five {
                for (low, high) in low.as_flattened_mut().iter_mut().zip(high.as_flattened_mut()) {
                    (*high, *low) = split(s, *low, 16.0);
                }
            }
            for (block, out) in blocks.enumerate() {
                let first = 8 * block;
                put(out, 0, found.scale.stored[first]);
                put(out, 2, found.low.stored[first]);
                six_bits(&counts[first..first + 8], &minima[first..first + 8], &mut out[4..16]);
                let mut at = 16;
                if five {
                    for (half, out) in high.iter().zip(out[16..48].chunks_exact_mut(LANES)) {
                        bits(s, &half[first..first + 8], out);
                    }
                    at = 48;
                }
                for (pair, out) in out[at..].chunks_exact_mut(32).enumerate() {
                    let first = first + 2 * pair;
                    s.store_bytes(join(s, low[0][first], low[0][first + 1], 16.0), out);
                    s.store_bytes(join(s, low[1][first], low[1][first + 1], 16.0), &mut out[LANES..]);
                }
            }
        }
        _ => store_sixteens(s, format, &mut codes.as_chunks_mut::<LANES>().0[0], found, out),
    }
}

/// Formats whose storage block is sixteen sub-blocks of sixteen.
#[inline(always)]
fn store_sixteens<S: Simd>(s: S, format: Format, codes: &mut [S::V; LANES], found: &Found<S::V>, out: &mut [u8]) {
    let (bias, unit) = match format {
        Format::Q3_K => (4.0, 4.0),
        Format::Q6_K => (32.0, 16.0),
        _ => (0.0, 4.0),
    };
    for code in codes.iter_mut() {
        *code = s.add(*code, s.splat(bias));
    }
    s.transpose(codes);
    let mut high = *codes;
    for (low, high) in codes.iter_mut().zip(&mut high) {
        (*high, *low) = split(s, *low, unit);
    }
    let counts = s.lanes(found.counts);
    match format {
        Format::Q2_K => {
            s.store_bytes(join(s, found.counts, found.minima, 16.0), out);
            crumbs(s, codes, &mut out[16..80]);
            put(out, 80, found.scale.stored[0]);
            put(out, 82, found.low.stored[0]);
        }
        Format::Q3_K => {
            for half in 0..2 {
                let mut each = [s.splat(0.0); 8];
                for (i, each) in each.iter_mut().enumerate() {
                    *each = high[2 * i + half];
                }
                bits(s, &each, &mut out[16 * half..]);
            }
            crumbs(s, codes, &mut out[32..96]);
            for j in 0..4 {
                let [a, b, c, d] = [0, 4, 8, 12].map(|first| (counts[first + j] + 32.0) as u8);
                out[96 + j] = a & 15 | (c & 15) << 4;
                out[100 + j] = b & 15 | (d & 15) << 4;
                out[104 + j] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6;
            }
            put(out, 108, found.scale.stored[0]);
        }
        _ => {
            // Byte i of 64 holds weights of two blocks of 32 (two sub-blocks each) that lie two blocks apart.
            for (place, out) in out[..128].chunks_exact_mut(LANES).enumerate() {
                let first = place / 4 * 8 + place % 4;
                s.store_bytes(join(s, codes[first], codes[first + 4], 16.0), out);
            }
            crumbs(s, &high, &mut out[128..192]);
            s.store_bytes(found.counts, &mut out[192..]);
            put(out, 208, found.scale.stored[0]);
        }
    }
}

/// Stores at `at`; returns where the next one goes.
fn put(out: &mut [u8], at: usize, value: f16) -> usize {
    out[at..at + 2].copy_from_slice(&value.to_le_bytes());
    at + 2
}

/// Two codes of which `high` goes above the other: `low + high * unit`.
#[inline(always)]
fn join<S: Simd>(s: S, low: S::V, high: S::V, unit: f32) -> S::V {
    s.mul_add(high, s.splat(unit), low)
}

/// How often `unit`, a power of two, goes into codes below 256, and the rest.
#[inline(always)]
fn split<S: Simd>(s: S, code: S::V, unit: f32) -> (S::V, S::V) {
    // Half a unit less half a code lower than the quotient: never a tie.
    let high = s.nearest(s.mul_add(code, s.splat(1.0 / unit), s.splat(0.5 / unit - 0.5)));
    (high, s.mul_add(high, s.splat(-unit), code))
}

/// Codes of the first and of the last sixteen weights, a sub-block in each vector.
#[inline(always)]
fn halves<S: Simd>(s: S, codes: &[S::V; LONGEST]) -> [[S::V; LANES]; 2] {
    let (parts, _) = codes.as_chunks::<LANES>();
    let mut halves = [parts[0], parts[1]];
    for half in &mut halves {
        s.transpose(half);
    }
    halves
}

/// A bit of each of eight vectors per byte, from the low one on.
#[inline(always)]
fn bits<S: Simd>(s: S, each: &[S::V], out: &mut [u8]) {
    let mut byte = each[7];
    for bit in each[..7].iter().rev() {
        byte = join(s, *bit, byte, 2.0);
    }
    s.store_bytes(byte, out);
}

/// Takes the fifth bits off the codes: four bytes of each lane.
#[inline(always)]
fn fifth_bits<S: Simd>(s: S, codes: &mut [S::V; LONGEST]) -> [[u8; LANES]; 4] {
    let mut bytes = [[0; LANES]; 4];
    for (codes, bytes) in codes.as_chunks_mut::<8>().0.iter_mut().zip(&mut bytes) {
        let mut high = *codes;
        for (code, high) in codes.iter_mut().zip(&mut high) {
            (*high, *code) = split(s, *code, 16.0);
        }
        bits(s, &high, bytes);
    }
    bytes
}

/// Two bits of each of four blocks of 32 (two vectors each) per byte.
#[inline(always)]
fn crumbs<S: Simd>(s: S, codes: &[S::V; LANES], out: &mut [u8]) {
    for (place, out) in out.chunks_exact_mut(LANES).enumerate() {
        let first = place / 2 * 8 + place % 2;
        let low = join(s, codes[first], codes[first + 2], 4.0);
        let high = join(s, codes[first + 4], codes[first + 6], 4.0);
        s.store_bytes(join(s, low, high, 16.0), out);
    }
}

/// Eight 6-bit scales and minima in twelve bytes.
fn six_bits(counts: &[f32], minima: &[f32], out: &mut [u8]) {
    for j in 0..4 {
        let (s, m) = (counts[j] as u8, minima[j] as u8);
        let (s4, m4) = (counts[j + 4] as u8, minima[j + 4] as u8);
        out[j] = s | s4 >> 4 << 6;
        out[j + 4] = m | m4 >> 4 << 6;
        out[j + 8] = s4 & 15 | (m4 & 15) << 4;
    }
}
