//! The head where only its best logits matter: those have the bits of the whole head, and all others are less.

use ostro_kernels::formats::{Format, Weights, planes};
use ostro_kernels::isa::Isa;
use ostro_kernels::matmul::{Mode, Precision};
use ostro_kernels::quantize::quantize_rows;
use ostro_kernels::regions::{Best, Machine, Norm, Screen, best_of_head, head, repack};
use ostro_kernels::select::top_k;
use proptest::prelude::*;

mod regions;

use regions::{MACHINES, Noise};

/// A head [rows, cols] with rows of different lengths, and what goes into it.
struct Head {
    data: Vec<u8>,
    format: Format,
    rows: usize,
    cols: usize,
    norm: Vec<f32>,
    x: Vec<f32>,
    mode: Mode,
}

impl Head {
    fn new(format: Format, (rows, cols): (usize, usize), tokens: usize, mode: Mode, noise: &mut Noise) -> Self {
        let mut values = noise.take(rows * cols);
        for row in values.chunks_exact_mut(cols) {
            let length = noise.next().exp();
            for x in row {
                *x *= length;
            }
        }
        let mut data = vec![0; rows * format.row_bytes(cols).unwrap()];
        quantize_rows(Isa::Scalar, format, &values, cols, None, &mut data).unwrap();
        // A few columns are far larger than the others, as they are in Gemma.
        let norm = noise.take(cols).into_iter().map(|x| if x > 0.97 { 30.0 * x } else { x }).collect();
        Self { data, format, rows, cols, norm, x: noise.take(tokens * cols), mode }
    }

    fn weights(&self) -> Weights<'_> {
        Weights::new(&self.data, self.format, self.rows, self.cols).unwrap()
    }

    fn norm(&self) -> Norm<'_> {
        Norm { weight: &self.norm, eps: 1e-6 }
    }

    fn wanted(&self) -> Vec<i32> {
        (0..(self.x.len() / self.cols) as i32).rev().collect()
    }

    fn all(&self, machine: &Machine) -> Vec<f32> {
        let wanted = self.wanted();
        let mut out = vec![0.0; wanted.len() * self.rows];
        head(machine, &self.x, &wanted, self.norm(), self.weights(), &mut out, self.mode).unwrap();
        out
    }

    /// A screen made in two pieces.
    fn screen(&self, machine: &Machine) -> Screen {
        let mut screen = Screen::new(machine, self.rows, self.cols).unwrap();
        let middle = self.rows / 2 / 16 * 16;
        if middle > 0 {
            screen.extend(machine, self.weights(), middle).unwrap();
            assert!(!screen.is_complete() && screen.done() == middle);
        }
        screen.extend(machine, self.weights(), self.rows).unwrap();
        screen
    }

    /// Both planes, made in two pieces, and their screen.
    fn planes(&self, machine: &Machine) -> (Vec<u8>, Vec<u8>, Screen) {
        let [mut upper, mut lower] = planes::nbytes(self.rows, self.cols).map(|bytes| vec![0; bytes]);
        let mut screen = Screen::of_planes(self.rows, self.cols).unwrap();
        let middle = self.rows / 2 / 16 * 16;
        for rows in [0..middle, middle..self.rows].into_iter().filter(|rows| !rows.is_empty()) {
            let [from, to] = [rows.start, rows.end].map(|rows| planes::nbytes(rows, self.cols));
            let (upper, lower) = (&mut upper[from[0]..to[0]], &mut lower[from[1]..to[1]]);
            screen.split(machine, self.weights(), rows.end, upper, lower).unwrap();
            assert_eq!((screen.done(), screen.is_complete()), (rows.end, rows.end == self.rows));
        }
        (upper, lower, screen)
    }

    fn best(&self, machine: &Machine, weights: Weights<'_>, screen: &Screen, best: Best<'_>) -> (Vec<f32>, usize) {
        let wanted = self.wanted();
        let mut out = vec![f32::NAN; wanted.len() * self.rows];
        let computed =
            best_of_head(machine, &self.x, &wanted, self.norm(), weights, screen, best, &mut out, self.mode).unwrap();
        (out, computed)
    }
}

/// The ids and bits of the largest, without some ids.
fn largest(row: &[f32], best: Best<'_>) -> Vec<(u32, u32)> {
    let mut row = row.to_vec();
    for &id in best.excluded {
        if let Some(x) = row.get_mut(id as usize) {
            *x = f32::NEG_INFINITY;
        }
    }
    let (ids, values) = top_k(Isa::Scalar, &row, best.count);
    ids.into_iter().zip(values.into_iter().map(f32::to_bits)).collect()
}

fn formats() -> impl Strategy<Value = Format> {
    prop::sample::select(vec![Format::Q8_0, Format::F16, Format::BF16, Format::Q4_1])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_best_are_those_of_the_whole_head(
        format in formats(), rows in 1_usize..900, blocks in 1_usize..13, tokens in 0_usize..20, count in 0_usize..12,
        excluded in prop::collection::btree_set(0_i32..900, 0..20), int8: bool, seed: u64,
    ) {
        let mode = if int8 { Mode::Blocks(Precision::Int8) } else { Mode::Mixed };
        let head = Head::new(format, (rows, 32 * blocks), tokens, mode, &mut Noise(seed));
        let excluded: Vec<i32> = excluded.into_iter().collect();
        let best = Best { count, excluded: &excluded };
        let mut first = None;
        for machine in &*MACHINES {
            let all = head.all(machine);
            let (out, computed) = head.best(machine, head.weights(), &head.screen(machine), best);
            for (all, out) in all.chunks(rows).zip(out.chunks(rows)) {
                prop_assert_eq!(largest(all, best), largest(out, best));
                prop_assert!(out.iter().all(|x| x.is_finite()));
            }
            // As many are computed whoever computes, and the same bits come out.
            let bits: Vec<u32> = out.into_iter().map(f32::to_bits).collect();
            let found = (computed, bits);
            prop_assert_eq!(first.get_or_insert_with(|| found.clone()), &found);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_best_of_planes_are_those_of_the_whole_head(
        strips in 1_usize..60, blocks in 1_usize..13, tokens in 0_usize..20, count in 0_usize..12,
        excluded in prop::collection::btree_set(0_i32..900, 0..20), int8: bool, seed: u64,
    ) {
        let mode = if int8 { Mode::Blocks(Precision::Int8) } else { Mode::Mixed };
        let head = Head::new(Format::Q8_0, (16 * strips, 32 * blocks), tokens, mode, &mut Noise(seed));
        let excluded: Vec<i32> = excluded.into_iter().collect();
        let best = Best { count, excluded: &excluded };
        let mut first = None;
        for machine in &*MACHINES {
            let all = head.all(machine);
            let (upper, lower, screen) = head.planes(machine);
            let weights = Weights::with_planes(&upper, &lower, &[], head.rows, head.cols).unwrap();
            let (out, computed) = head.best(machine, weights, &screen, best);
            for (all, out) in all.chunks(head.rows).zip(out.chunks(head.rows)) {
                prop_assert_eq!(largest(all, best), largest(out, best));
            }
            let bits: Vec<u32> = out.into_iter().map(f32::to_bits).collect();
            let found = (computed, bits);
            prop_assert_eq!(first.get_or_insert_with(|| found.clone()), &found);
        }
    }
}

#[test]
fn what_is_in_vain_is_not_tried_each_time() {
    let mut head = Head::new(Format::Q8_0, (3_200, 320), 1, Mode::Mixed, &mut Noise(6));
    let ordinary = head.x.clone();
    let machine = &MACHINES[0];
    let (upper, lower, screen) = head.planes(machine);
    let weights = Weights::with_planes(&upper, &lower, &[], head.rows, head.cols).unwrap();
    let computed = |head: &Head| head.best(machine, weights, &screen, Best { count: 1, excluded: &[] }).1;
    assert!(computed(&head) < 800);
    // A logit is a weight of one column then, and may be as far off as that.
    head.x.fill(1e-3);
    head.x[7] = 1e3;
    let found: Vec<usize> = (0..200).map(|_| computed(&head)).collect();
    let looks = found.iter().filter(|&&computed| computed < head.rows).count();
    assert!((1..12).contains(&looks), "{found:?}");
    assert!(found.iter().all(|&computed| computed > 800));
    // What is worth it again is tried each time, soon.
    head.x = ordinary;
    let found: Vec<usize> = (0..200).map(|_| computed(&head)).collect();
    let first = found.iter().position(|&computed| computed < head.rows).unwrap();
    assert!(first <= 64 && found[first..].iter().all(|&computed| computed < 800), "{found:?}");
}

/// The screens of the two ways to have one.
fn with_each_screen(head: &Head, machine: &Machine, mut test: impl FnMut(Weights<'_>, &Screen)) {
    test(head.weights(), &head.screen(machine));
    let (upper, lower, screen) = head.planes(machine);
    test(Weights::with_planes(&upper, &lower, &[], head.rows, head.cols).unwrap(), &screen);
}

#[test]
fn most_rows_are_passed_over() {
    let head = Head::new(Format::Q8_0, (20_000, 640), 3, Mode::Mixed, &mut Noise(5));
    for machine in &*MACHINES {
        with_each_screen(&head, machine, |weights, screen| {
            let (out, computed) = head.best(machine, weights, screen, Best { count: 1, excluded: &[] });
            assert!((16..2_000).contains(&computed), "{computed} rows of 20,000");
            let all = head.all(machine);
            for (all, out) in all.chunks(20_000).zip(out.chunks(20_000)) {
                let right = all.iter().zip(out).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
                assert!((16..3_000).contains(&right), "{right} right logits");
                // What is wrong is near.
                let errors = all.iter().zip(out).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
                let squares = all.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>();
                assert!(errors < squares / 300.0, "{errors} of {squares}");
            }
            // Of so many in three rows, all are computed.
            let (out, computed) = head.best(machine, weights, screen, Best { count: 43, excluded: &[] });
            assert_eq!((out, computed), (all, 20_000));
        });
    }
}

#[test]
fn heads_that_were_moved_have_the_same_best() {
    let head = Head::new(Format::Q8_0, (2_000, 96), 2, Mode::Mixed, &mut Noise(9));
    let best = Best { count: 3, excluded: &[] };
    for machine in &*MACHINES {
        let mut moved = vec![0; head.data.len()];
        repack(machine, head.weights(), 0..2_000, &mut moved).unwrap();
        let strips = if ostro_kernels::regions::wants_strips(machine, head.format) { moved.len() } else { 0 };
        let (strips, rest) = moved.split_at(strips);
        let moved = Weights::with_strips(strips, rest, head.format, 2_000, 96).unwrap();
        let mut screen = Screen::new(machine, 2_000, 96).unwrap();
        screen.extend(machine, moved, 2_000).unwrap();
        assert_eq!(
            head.best(machine, moved, &screen, best),
            head.best(machine, head.weights(), &head.screen(machine), best)
        );
    }
}

#[test]
fn what_is_no_number_stays_none() {
    let mut head = Head::new(Format::Q8_0, (608, 64), 2, Mode::Mixed, &mut Noise(1));
    head.x[70] = f32::NAN;
    let best = Best { count: 1, excluded: &[] };
    for machine in &*MACHINES {
        with_each_screen(&head, machine, |weights, screen| {
            let (out, _) = head.best(machine, weights, screen, best);
            // Wanted rows are in reverse.
            assert!(out[..608].iter().all(|x| x.is_nan()));
            assert_eq!(largest(&out[608..], best), largest(&head.all(machine)[608..], best));
        });
    }
}

#[test]
fn rows_of_zeros_and_rows_alike_are_told_apart_by_their_ids() {
    let mut head = Head::new(Format::Q8_0, (640, 64), 1, Mode::Mixed, &mut Noise(2));
    let row_bytes = head.data.len() / 640;
    head.data[..320 * row_bytes].fill(0);
    let (from, to) = head.data.split_at_mut(400 * row_bytes);
    to[..80 * row_bytes].copy_from_slice(&from[320 * row_bytes..]);
    let best = Best { count: 5, excluded: &[] };
    for machine in &*MACHINES {
        for x in [Noise(3).take(64), vec![0.0; 64]] {
            head.x = x;
            with_each_screen(&head, machine, |weights, screen| {
                let (out, _) = head.best(machine, weights, screen, best);
                assert_eq!(largest(&out, best), largest(&head.all(machine), best));
            });
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let machine = &MACHINES[0];
    let head = Head::new(Format::Q8_0, (64, 32), 1, Mode::Mixed, &mut Noise(4));
    let best = Best { count: 1, excluded: &[] };
    let mut out = vec![0.0; 64];
    let mut try_with = |screen: &Screen| {
        best_of_head(machine, &head.x, &[0], head.norm(), head.weights(), screen, best, &mut out, head.mode)
            .map_err(|error| error.to_string())
    };
    let mut screen = Screen::new(machine, 64, 32).unwrap();
    assert!(try_with(&screen).unwrap_err().contains("0 rows of [64, 32]"));
    assert!(screen.extend(machine, head.weights(), 8).unwrap_err().to_string().contains("stop 8"));
    assert!(screen.extend(machine, head.weights(), 65).is_err());
    screen.extend(machine, head.weights(), 64).unwrap();
    assert!(screen.extend(machine, head.weights(), 64).is_err());
    assert!(try_with(&screen).is_ok());
    let mut other = Screen::new(machine, 48, 32).unwrap();
    assert!(other.extend(machine, head.weights(), 48).is_err());
    assert!(try_with(&other).is_err());
    assert!(Screen::new(machine, 64, 33).is_err());
    let split = |source: Weights<'_>, stop: usize, upper: usize| {
        let [mut upper, mut lower] = [upper, stop / 16 * 256].map(|bytes| vec![0; bytes]);
        let mut screen = Screen::of_planes(64, 32).unwrap();
        screen.split(machine, source, stop, &mut upper, &mut lower).map(|()| screen).map_err(|error| error.to_string())
    };
    assert!(split(head.weights(), 8, 8 * 22).is_err());
    assert!(split(head.weights(), 80, 64 * 22).is_err());
    assert!(split(head.weights(), 64, 63 * 22).is_err());
    let floats = vec![0; 64 * 32 * 4];
    assert!(split(Weights::new(&floats, Format::F32, 64, 32).unwrap(), 64, 64 * 22).is_err());
    assert!(split(head.weights(), 64, 64 * 22).unwrap().extend(machine, head.weights(), 64).is_err());
    // A screen of planes for a head that is in none.
    assert!(try_with(&split(head.weights(), 64, 64 * 22).unwrap()).unwrap_err().contains("not in planes"));
    let mut broken = head.data.clone();
    broken[5 * 34 + 1] |= 0x7c;
    let error = split(Weights::new(&broken, Format::Q8_0, 64, 32).unwrap(), 64, 64 * 22).err().unwrap();
    assert!(error.contains("row 5 has a weight that is not a finite number"), "{error}");
    let infinite: Vec<u8> = [f32::INFINITY; 32].iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut screen = Screen::new(machine, 1, 32).unwrap();
    let error = screen.extend(machine, Weights::new(&infinite, Format::F32, 1, 32).unwrap(), 1).unwrap_err();
    assert!(error.to_string().contains("is not a finite number"), "{error}");
}
