//! Shapes that do not fit are errors, found before anything is written; no rows are no error.

use super::*;

/// What no bad call may change.
const BEFORE: f32 = 7.0;

fn refused(result: Result<(), ShapeError>, out: &[f32], message: &str) {
    assert_eq!(result.unwrap_err().to_string(), message);
    assert!(out.iter().all(|x| x.to_bits() == BEFORE.to_bits()), "{message}: written");
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let noise = &mut Noise(5);
    let (proj, odd) = (Proj::new(Format::F16, 6, 9, noise), noise.take(10, 0.0));
    let (proj, x, out) = (proj.linear(), &[1.0; 3 * 9][..], &mut [BEFORE; 3 * 9][..]);
    let norm = LayerNorm { weight: &odd[..9], bias: &odd[..9], eps: EPS };
    let short = Linear { bias: &odd[..5], ..proj };
    let empty = Linear { weights: Weights::new(&[], Format::F32, 2, 0).unwrap(), bias: &odd[..2] };
    let wide = LayerNorm { weight: &odd, ..norm };
    let narrow = LayerNorm { bias: &odd[..8], ..norm };
    let none = LayerNorm { weight: &[], bias: &[], eps: EPS };
    for (machine, mode) in [(&MACHINES[0], Mode::Exact), (&MACHINES[MACHINES.len() - 1], INT14)] {
        let mut bad = |x: &[f32], proj, n: usize, message| {
            refused(linear(machine, x, proj, &mut out[..n], mode), &out[..n], message);
            refused(norm_gelu(machine, x, norm, proj, &mut out[..n], mode), &out[..n], message);
        };
        bad(&x[1..], proj, 18, "x: 26 values are no rows of 9");
        bad(x, proj, 17, "out: 17 values, expected 18");
        bad(x, proj, 0, "out: 0 values, expected 18");
        bad(x, short, 18, "proj: 5 values, expected 6");
        let mut bad = |norm, message| {
            refused(norm_gelu(machine, x, norm, proj, &mut out[..18], mode), &out[..18], message);
        };
        bad(wide, "norm: 10 values, expected 9");
        bad(narrow, "norm bias: 8 values, expected 9");
        refused(linear(machine, x, empty, out, mode), out, "x: 27 values are no rows of 0");

        let mut bad = |h: &[f32], proj, n: usize, message| {
            refused(linear_add(machine, &mut out[..n], h, proj, mode), &out[..n], message);
        };
        bad(&x[1..], proj, 18, "h: 26 values are no rows of 9");
        bad(x, proj, 12, "x: 12 values, expected 18");
        bad(x, short, 18, "proj: 5 values, expected 6");

        let mut bad = |x: &[f32], norm, n: usize, message| {
            refused(layer_norm(machine, x, norm, &mut out[..n]), &out[..n], message);
        };
        bad(&x[1..], norm, 26, "x: 26 values are no rows of 9");
        bad(x, norm, 18, "out: 18 values, expected 27");
        bad(x, narrow, 27, "norm bias: 8 values, expected 9");
        bad(x, none, 27, "x: 27 values are no rows of 0");
    }
}

#[test]
fn projections_and_stores_that_do_not_fit_are_refused() {
    let noise = &mut Noise(6);
    let [q, k, v] = [1, 2, 3].map(|_| Proj::new(Format::F32, 10, 9, noise));
    let (fewer_rows, fewer_cols) = (Proj::new(Format::F32, 5, 9, noise), Proj::new(Format::F32, 10, 8, noise));
    let (q, k, v, fewer_rows, fewer_cols) =
        (q.linear(), k.linear(), v.linear(), fewer_rows.linear(), fewer_cols.linear());
    let (x, norm_weight) = (noise.take(3 * 9, 0.0), noise.take(9, 0.0));
    let norm = LayerNorm { weight: &norm_weight, bias: &norm_weight, eps: EPS };
    let short = LayerNorm { weight: &norm_weight[1..], ..norm };
    let kv = noise.take(2 * PAGE * 10, 0.0);
    let mut store = filled(2, 5, KvType::F16, 2, [&kv, &kv], 0.0);
    let before = contents(&store, 1);
    let mut out = [BEFORE; 3 * 10];
    let [last, pages] = [2 * PAGE - 2, usize::MAX].map(|start| (start, "the store's 2 pages do not hold positions"));
    let k_bias = Linear { bias: &k.bias[1..], ..k };
    let cases = [
        ([fewer_rows, k, v], norm, 27, 30, (0, "q_proj: 5 values, expected 10")),
        ([q, fewer_rows, v], norm, 27, 30, (0, "k_proj: 5 values, expected 10")),
        ([q, k, fewer_rows], norm, 27, 30, (0, "v_proj: 5 values, expected 10")),
        ([q, k, fewer_cols], norm, 27, 30, (0, "v_proj: 8 columns for rows of 9 values")),
        ([q, k_bias, v], norm, 27, 30, (0, "k_proj: 9 values, expected 10")),
        ([q, k, v], short, 27, 30, (0, "norm: 8 values, expected 9")),
        ([q, k, v], norm, 26, 30, (0, "x: 26 values are no rows of 9")),
        ([q, k, v], norm, 27, 20, (0, "q: 20 values, expected 30")),
        ([q, k, v], norm, 27, 30, last),
        ([q, k, v], norm, 27, 30, pages),
    ];
    for machine in [&MACHINES[0], &MACHINES[MACHINES.len() - 1]] {
        for (proj, norm, xs, n, (start, message)) in cases {
            let result = encoder_qkv(machine, &x[..xs], norm, proj, start, &mut store, &mut out[..n], INT14);
            let found = result.unwrap_err().to_string();
            assert!(found.starts_with(message), "{found}");
            assert_eq!((out, contents(&store, 1)), ([BEFORE; 30], before.clone()), "{message}");
        }
        let bad = |q: &[f32], length, out: &mut [f32], message| {
            refused(attend_all(machine, q, 2, &store, length, out), out, message);
        };
        let q = [1.0; 30];
        bad(&q, 129, &mut out, "sequence 0: no usable page (id 2) for visible positions from 128");
        bad(&q, 128, &mut out[1..], "out has 29 elements, expected 30");
        bad(
            &q[1..],
            128,
            &mut out[1..],
            "q has 29 elements, expected whole heads per row, so many for each kv head: \
            a multiple of 20",
        );
    }
}

#[test]
fn no_rows_are_no_work() {
    let noise = &mut Noise(7);
    let proj = Proj::new(Format::F32, 10, 9, noise);
    let weight = noise.take(9, 0.0);
    let norm = LayerNorm { weight: &weight, bias: &weight, eps: EPS };
    let kv = noise.take(PAGE * 10, 0.0);
    let mut store = filled(2, 5, KvType::F32, 1, [&kv, &kv], 0.0);
    let before = contents(&store, 1);
    for machine in &*MACHINES {
        linear(machine, &[], proj.linear(), &mut [], INT14).unwrap();
        linear_add(machine, &mut [], &[], proj.linear(), INT14).unwrap();
        norm_gelu(machine, &[], norm, proj.linear(), &mut [], INT14).unwrap();
        layer_norm(machine, &[], norm, &mut []).unwrap();
        encoder_qkv(machine, &[], norm, [proj.linear(); 3], PAGE, &mut store, &mut [], INT14).unwrap();
        attend_all(machine, &[], 2, &store, PAGE, &mut []).unwrap();
        assert_eq!(contents(&store, 1), before);
    }
}
