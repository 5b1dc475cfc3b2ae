use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const EPS: f32 = 1e-6;

fn naive(x: &[f32], weight: &[f32]) -> Vec<f64> {
    let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let scale = 1.0 / (squares / x.len() as f64 + f64::from(EPS)).sqrt();
    x.iter().zip(weight).map(|(&x, &w)| f64::from(x) * scale * f64::from(w)).collect()
}

/// Each partial sum of squares is off by (n / 16 + 5) rounding errors at most, half of that after the root; the
/// scale and the two products round once each.
fn tolerance(n: usize) -> f64 {
    ((n / 16 + 6) as f64 / 2.0 + 3.0) * f64::from(f32::EPSILON)
}

fn case() -> impl Strategy<Value = (Vec<f32>, Vec<f32>, Vec<f32>)> {
    (1usize..700, prop_oneof![Just(1e-3f32), Just(1.0), Just(1e5)])
        .prop_flat_map(|(n, size)| (vec(-size..size, n), vec(-200.0f32..1700.0, n), vec(-size..size, n)))
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #[test]
    fn close_to_f64_and_equal_on_every_isa((x, weight, residual) in case()) {
        let n = x.len();
        let mut want = vec![0.0; n];
        rms_norm(Isa::Scalar, &x, &weight, EPS, &mut want);
        for (have, exact) in want.iter().zip(naive(&x, &weight)) {
            prop_assert!((f64::from(*have) - exact).abs() <= tolerance(n) * exact.abs() + 1e-30);
        }
        let mut sum = residual.clone();
        add_norm(Isa::Scalar, &mut sum, &x, &weight, EPS);
        for ((have, exact), r) in sum.iter().zip(naive(&x, &weight)).zip(&residual) {
            let bound = tolerance(n) * exact.abs() + f64::from(f32::EPSILON) * (exact.abs() + f64::from(r.abs()));
            prop_assert!((f64::from(*have) - exact - f64::from(*r)).abs() <= bound + 1e-30);
        }
        for isa in Isa::available() {
            let mut have = vec![0.0; n];
            rms_norm(isa, &x, &weight, EPS, &mut have);
            prop_assert_eq!(bits(&have), bits(&want));
            let mut heads = [x.clone(), x.clone()].concat();
            rms_norm_heads(isa, &mut heads, &weight, EPS);
            prop_assert_eq!(bits(&heads), bits(&[want.clone(), want.clone()].concat()));
            let mut have = residual.clone();
            add_norm(isa, &mut have, &x, &weight, EPS);
            prop_assert_eq!(bits(&have), bits(&sum));
        }
    }
}

#[test]
fn zeros_stay_zero() {
    let mut out = [1.0; 24];
    rms_norm(Isa::Scalar, &[0.0; 24], &[3.0; 24], EPS, &mut out);
    assert_eq!(out, [0.0; 24]);
}

#[test]
#[should_panic(expected = "lengths of x, weight and out differ")]
fn lengths_are_checked() {
    rms_norm(Isa::Scalar, &[0.0; 3], &[0.0; 4], EPS, &mut [0.0; 3]);
}
