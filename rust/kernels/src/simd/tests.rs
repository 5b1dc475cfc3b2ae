//! Operations that move or choose lanes: equal on every instruction set, and what their names say.

use super::*;

/// Writes what each operation gives for `rows` of sixteen.
struct Operations<'a>(&'a [[f32; LANES]; LANES]);

struct Results {
    transposed: Vec<[f32; LANES]>,
    bytes: Vec<[u8; LANES]>,
    roots: Vec<[f32; LANES]>,
    picked: Vec<[f32; LANES]>,
    halves: Vec<[f16; LANES]>,
}

impl Kernel for Operations<'_> {
    type Output = Results;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Results {
        let mut rows = [s.splat(0.0); LANES];
        for (row, from) in rows.iter_mut().zip(self.0) {
            *row = s.load(from);
        }
        let mut transposed = rows;
        s.transpose(&mut transposed);
        let mut results = Results { transposed: vec![], bytes: vec![], roots: vec![], picked: vec![], halves: vec![] };
        for i in 0..LANES {
            results.transposed.push(s.lanes(transposed[i]));
            let mut bytes = [0; LANES];
            s.store_bytes(s.nearest(rows[i]), &mut bytes);
            results.bytes.push(bytes);
            results.roots.push(s.lanes(s.sqrt(s.abs(rows[i]))));
            let next = rows[(i + 1) % LANES];
            results.picked.push(s.lanes(s.pick(rows[i], next, s.splat(1.0), next)));
            let mut halves = [f16::ZERO; LANES];
            // From subnormal f16 to infinity.
            let square = s.mul(rows[i], rows[i]);
            s.store_f16(s.mul(s.mul(square, square), s.mul(rows[i], s.splat(1e-5))), &mut halves);
            results.halves.push(halves);
        }
        results
    }
}

#[test]
fn lanes_are_moved_chosen_and_rounded_alike() {
    let mut rows = [[0.0_f32; LANES]; LANES];
    for (i, x) in rows.as_flattened_mut().iter_mut().enumerate() {
        *x = (i as f32 - 128.0) * 0.75;
    }
    rows[3][5] = f32::NAN;
    let finite = |x: f32| if x.is_nan() { 0.0 } else { x };
    for isa in Isa::available() {
        let results = dispatch(isa, Operations(&rows.map(|row| row.map(finite))));
        for (i, row) in rows.iter().enumerate() {
            for (j, x) in row.iter().copied().map(finite).enumerate() {
                assert_eq!(results.transposed[j][i], x);
                assert_eq!(results.bytes[i][j], x.round_ties_even() as i32 as u8);
                assert_eq!(results.roots[i][j], x.abs().sqrt());
                assert_eq!(results.halves[i][j].to_bits(), f16::from_f32((x * x) * (x * x) * (x * 1e-5)).to_bits());
            }
        }
        let results = dispatch(isa, Operations(&rows));
        for (i, row) in rows.iter().enumerate() {
            for (j, x) in row.iter().enumerate() {
                let next = rows[(i + 1) % LANES][j];
                let expected = if *x > next { 1.0 } else { next };
                assert_eq!(results.picked[i][j].to_bits(), expected.to_bits());
            }
        }
    }
}
