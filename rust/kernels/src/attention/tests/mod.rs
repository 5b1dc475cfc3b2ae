//! Bit equality however a call is cut, closeness to f64, and errors.

mod world;

use proptest::prelude::*;

use super::*;
use crate::kv::KvType;
use world::{Piece, Shape, World};

fn bits(rows: &[f32]) -> Vec<u32> {
    rows.iter().map(|x| x.to_bits()).collect()
}

fn shape() -> impl Strategy<Value = Shape> {
    let heads = prop_oneof![Just((1, 4)), Just((2, 1)), Just((2, 3)), Just((1, 2)), Just((1, 5)), Just((1, 40))];
    let dims = prop_oneof![Just(24usize), Just(64), Just(7), Just(100), Just(81), Just(200)];
    let dtype = prop_oneof![Just(KvType::F32), Just(KvType::F16), Just(KvType::I8)];
    let window = prop_oneof![Just(0usize), Just(1), 2usize..100, Just(512)];
    (heads, dims, dtype, window).prop_map(|((kv_heads, share), head_dim, dtype, window)| Shape {
        kv_heads,
        share,
        head_dim,
        dtype,
        window,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_same_bits_however_it_is_cut(
        shape in shape(),
        lengths in prop::collection::vec(1usize..330, 1..4),
        seed in any::<u64>(),
        chunk in 1usize..150,
        threads in 2usize..5,
    ) {
        let world = World::new(&shape, &lengths, seed);
        let alone = Team::new(1).unwrap();
        let team = Team::new(threads).unwrap();
        let want = world.attend(&alone, Isa::Scalar, &world.whole());
        for (sequence, rows) in want.iter().enumerate() {
            for (row, have) in rows.chunks(shape.row()).enumerate() {
                for (&have, (exact, bound)) in have.iter().zip(world.naive(sequence, row)) {
                    prop_assert!((f64::from(have) - exact).abs() <= bound, "row {row}: {have}, want {exact}, {bound}");
                }
            }
        }
        for isa in Isa::available() {
            let have = world.attend(&team, isa, &world.whole());
            prop_assert!(have.iter().zip(&want).all(|(a, b)| bits(a) == bits(b)), "{isa:?}, {threads} threads");
        }
        let isa = Isa::detect();
        // One sequence after the other, in chunks; then last rows of all together, as in a decode step.
        for (sequence, &length) in lengths.iter().enumerate() {
            let mut have = Vec::new();
            for from in (0..length).step_by(chunk) {
                have.extend(world.attend(&team, isa, &[(sequence, from, length.min(from + chunk))]).concat());
            }
            prop_assert_eq!(bits(&have), bits(&want[sequence]), "chunks of {}", chunk);
        }
        let last: Vec<Piece> = lengths.iter().enumerate().map(|(sequence, &n)| (sequence, n - 1, n)).collect();
        for (have, want) in world.attend(&team, isa, &last).iter().zip(&want) {
            prop_assert_eq!(bits(have), bits(&want[want.len() - shape.row()..]));
        }
    }
}

#[test]
fn decode_far_into_a_long_sequence_is_split_and_equal() {
    let shape = Shape { kv_heads: 1, share: 4, head_dim: 16, dtype: KvType::F16, window: 0 };
    let world = World::new(&shape, &[5000], 3);
    let row = [(0, 4999, 5000)];
    let want = world.attend(&Team::new(1).unwrap(), Isa::Scalar, &row);
    for threads in 2..5 {
        let have = world.attend(&Team::new(threads).unwrap(), Isa::detect(), &row);
        assert_eq!(bits(&have[0]), bits(&want[0]));
    }
}

/// Keys and values of more elements and panels than are worked on at a time, and a rest of them.
#[test]
fn wide_heads_are_equal_on_every_isa() {
    for dtype in [KvType::F32, KvType::F16, KvType::I8] {
        for share in 1..6 {
            let shape = Shape { kv_heads: 1, share, head_dim: 300, dtype, window: 0 };
            let world = World::new(&shape, &[150], 7);
            let team = Team::new(1).unwrap();
            let want = world.attend(&team, Isa::Scalar, &world.whole());
            for isa in Isa::available() {
                assert_eq!(bits(&world.attend(&team, isa, &world.whole())[0]), bits(&want[0]), "{isa:?}");
                for row in [0, 70, 149] {
                    let have = world.attend(&team, isa, &[(0, row, row + 1)]);
                    assert_eq!(bits(&have[0]), bits(&want[0][row * shape.row()..][..shape.row()]), "{isa:?}, {row}");
                }
            }
        }
    }
}

#[test]
fn a_key_behind_a_row_never_matters_even_inside_a_tile() {
    for share in [1, 4] {
        let shape = Shape { kv_heads: 1, share, head_dim: 24, dtype: KvType::F32, window: 0 };
        let mut world = World::new(&shape, &[20], 3);
        let team = Team::new(1).unwrap();
        for isa in Isa::available() {
            let want = world.attend(&team, isa, &world.whole());
            let page = world.table[0][0] as usize;
            // SAFETY: one thread, no reader.
            unsafe { world.store.writer().write(page, 1, 0, 17, &[f32::NAN; 24], &[f32::NAN; 24]) };
            let have = world.attend(&team, isa, &world.whole());
            let same = 17 * shape.row();
            assert_eq!(bits(&have[0][..same]), bits(&want[0][..same]));
            assert!(have[0][same..].iter().all(|x| x.is_nan()));
            // SAFETY: as above.
            unsafe { world.store.writer().write(page, 1, 0, 17, &[0.0; 24], &[0.0; 24]) };
        }
    }
}

#[test]
fn a_long_prompt_is_equal_to_its_rows_one_by_one() {
    let shape = Shape { kv_heads: 2, share: 4, head_dim: 20, dtype: KvType::F16, window: 300 };
    let world = World::new(&shape, &[700], 5);
    let (alone, team) = (Team::new(1).unwrap(), Team::new(3).unwrap());
    let want = world.attend(&alone, Isa::detect(), &world.whole());
    assert_eq!(bits(&world.attend(&team, Isa::detect(), &world.whole())[0]), bits(&want[0]));
    for row in (0..700).step_by(7) {
        let have = world.attend(&team, Isa::detect(), &[(0, row, row + 1)]);
        assert_eq!(bits(&have[0]), bits(&want[0][row * shape.row()..][..shape.row()]), "row {row}");
    }
}

fn small() -> (KvStore, Team) {
    let mut store = KvStore::new(1, 2, 8, KvType::F32).unwrap();
    store.reserve(2).unwrap();
    (store, Team::new(1).unwrap())
}

#[test]
fn bad_inputs_are_named_and_nothing_is_written() {
    let (store, team) = small();
    let q = [0.0; 2 * 4 * 8];
    let good = Attend {
        q: &q,
        positions: &[63, 64],
        key_ends: &[64, 65],
        row_starts: &[0, 2],
        page_table: &[1, 0],
        store: &store,
        layer: 0,
        scale: 1.0,
        window: 0,
    };
    let mut out = [7.0; 64];
    attend(&team, Isa::Scalar, &good, &mut out).unwrap();
    let page = |sequence, position, id| AttentionError::NoPage { sequence, position, id };
    let cases = [
        (Attend { page_table: &[1, -1], ..good }, page(0, 64, -1)),
        (Attend { page_table: &[2, 0], ..good }, page(0, 0, 2)),
        (Attend { page_table: &[1], ..good }, page(0, 64, -1)),
        (Attend { key_ends: &[64, i32::MAX], ..good }, page(0, 128, -1)),
        (Attend { row_starts: &[0, 1], ..good }, AttentionError::BadRowStarts),
        (Attend { row_starts: &[0, 3, 2], page_table: &[1, 0, 1, 0], ..good }, AttentionError::BadRowStarts),
        (Attend { row_starts: &[], ..good }, AttentionError::BadRowStarts),
        (Attend { layer: 1, ..good }, AttentionError::NoSuchLayer { layer: 1, layers: 1 }),
    ];
    for (inputs, want) in cases {
        let mut out = [7.0; 64];
        assert_eq!(attend(&team, Isa::Scalar, &inputs, &mut out), Err(want));
        assert_eq!(out, [7.0; 64]);
    }
    for inputs in [
        Attend { q: &q[1..], ..good },
        Attend { q: &[], ..good },
        Attend { key_ends: &[1], ..good },
        Attend { row_starts: &[0, 1, 2], page_table: &[1, 0, 1], ..good },
    ] {
        let mut out = vec![7.0; inputs.q.len()];
        assert!(matches!(attend(&team, Isa::Scalar, &inputs, &mut out), Err(AttentionError::BadLength { .. })));
    }
    let error = attend(&team, Isa::Scalar, &good, &mut out[1..]).unwrap_err().to_string();
    assert_eq!(error, "out has 63 elements, expected 64");
}

#[test]
fn a_page_outside_the_window_may_be_absent() {
    let (store, team) = small();
    let q = [0.0; 4 * 8];
    let inputs = Attend {
        q: &q,
        positions: &[64],
        key_ends: &[65],
        row_starts: &[0, 1],
        page_table: &[-1, 0],
        store: &store,
        layer: 0,
        scale: 1.0,
        window: 1,
    };
    let mut out = [7.0; 32];
    attend(&team, Isa::Scalar, &inputs, &mut out).unwrap();
    assert_eq!(out, [0.0; 32]);
    assert!(attend(&team, Isa::Scalar, &Attend { window: 2, ..inputs }, &mut out).is_err());
}

#[test]
fn rows_that_see_nothing_and_empty_batches() {
    let (store, team) = small();
    let q = [1.0; 4 * 8];
    let inputs = Attend {
        q: &q,
        positions: &[-5],
        key_ends: &[-1],
        row_starts: &[0, 0, 1],
        page_table: &[-1, -1],
        store: &store,
        layer: 0,
        scale: 1.0,
        window: 0,
    };
    let mut out = [7.0; 32];
    attend(&team, Isa::Scalar, &inputs, &mut out).unwrap();
    assert_eq!(out, [0.0; 32]);
    let none = Attend { q: &[], positions: &[], key_ends: &[], row_starts: &[0], page_table: &[], ..inputs };
    attend(&team, Isa::Scalar, &none, &mut []).unwrap();
}
