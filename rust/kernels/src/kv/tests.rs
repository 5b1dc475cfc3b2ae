use half::f16;

use super::*;

/// A slot's key and value as attention sees them.
fn read(store: &KvStore, page: usize, layer: usize, head: usize, slot: usize) -> (Vec<f32>, Vec<f32>) {
    match store.view(page, layer, head) {
        PageView::F32(panels) => read_panels(store, panels, slot, |x| x),
        PageView::F16(panels) => read_panels(store, panels, slot, f16::to_f32),
        PageView::I8(panels) => read_panels(store, panels, slot, f32::from),
    }
}

fn read_panels<E: Copy>(
    store: &KvStore,
    Panels { keys, values, scales }: Panels<'_, E>,
    slot: usize,
    to_f32: impl Fn(E) -> f32,
) -> (Vec<f32>, Vec<f32>) {
    let width = store.head_dim();
    let scale = |d: usize| scales.map_or([1.0; 2], |scales| scales.map(|scales| scales[d / BLOCK][slot].to_f32()));
    let key = |d: usize| keys[(slot / PANEL * width + d) * PANEL + slot % PANEL];
    let value = |d: usize| values[(d / PANEL * PAGE + slot) * PANEL + d % PANEL];
    for d in width..store.value_width() {
        assert_eq!(to_f32(value(d)), 0.0);
    }
    let key = (0..width).map(|d| to_f32(key(d)) * scale(d)[0]).collect();
    (key, (0..width).map(|d| to_f32(value(d)) * scale(d)[1]).collect())
}

#[test]
fn every_slot_keeps_its_own_values_while_the_store_grows() {
    for dtype in [KvType::F32, KvType::F16, KvType::I8] {
        for width in [1, 24, 64, 70, 256] {
            let mut store = KvStore::new(2, 3, width, dtype).unwrap();
            // Integers that f16 holds, and int8 with a largest of 127 in each block.
            let token = |n: usize| -> Vec<f32> {
                let byte = |d: usize| {
                    if d.is_multiple_of(BLOCK) { 127 } else { (n * 31 + d) % 127 }
                };
                (0..width).map(|d| if dtype == KvType::I8 { byte(d) } else { (n * 31 + d) % 2048 } as f32).collect()
            };
            let places = |pages: std::ops::Range<usize>| {
                let all = pages.flat_map(|p| (0..2).flat_map(move |l| (0..3).map(move |h| (p, l, h))));
                all.flat_map(|(p, l, h)| [0, 1, 63].map(|slot| (p, l, h, slot))).collect::<Vec<_>>()
            };
            for (before, after) in [(0, 1), (1, 4), (4, 5)] {
                store.reserve(after).unwrap();
                let writer = store.writer();
                for (p, l, h, slot) in places(before..after) {
                    let n = ((p * 2 + l) * 3 + h) * PAGE + slot;
                    // SAFETY: one thread, no reader.
                    unsafe { writer.write(p, l, h, slot, &token(n), &token(n + 7)) };
                }
            }
            for (p, l, h, slot) in places(0..5) {
                let n = ((p * 2 + l) * 3 + h) * PAGE + slot;
                assert_eq!(read(&store, p, l, h, slot), (token(n), token(n + 7)), "{dtype:?} {width}");
            }
            assert_eq!(read(&store, 4, 1, 2, 17), (vec![0.0; width], vec![0.0; width]));
        }
    }
}

#[test]
fn halves_round_to_even_and_saturate() {
    let mut store = KvStore::new(1, 1, 6, KvType::F16).unwrap();
    store.reserve(1).unwrap();
    let x = [1.000_488_3, 1.001_464_8, 1e9, -70000.0, f32::INFINITY, f32::NAN];
    // SAFETY: one thread, no reader.
    unsafe { store.writer().write(0, 0, 0, 5, &x, &x) };
    let (key, value) = read(&store, 0, 0, 0, 5);
    assert_eq!(key[..5], [1.0, 1.001_953_1, 65504.0, -65504.0, 65504.0]);
    assert_eq!(value[..5], key[..5]);
    assert!(key[5].is_nan());
}

#[test]
fn bytes_are_rounded_in_units_of_a_127th_of_the_largest_of_their_block() {
    let written = |x: &[f32]| {
        let mut store = KvStore::new(1, 1, x.len(), KvType::I8).unwrap();
        store.reserve(1).unwrap();
        let doubled: Vec<f32> = x.iter().map(|x| 2.0 * x).collect();
        // SAFETY: one thread, no reader.
        unsafe { store.writer().write(0, 0, 0, 41, x, &doubled) };
        read(&store, 0, 0, 0, 41)
    };
    let (key, value) = written(&[254.0, -254.0, 3.0, 1.0, -5.1, 0.0]);
    assert_eq!(key, [254.0, -254.0, 4.0, 0.0, -6.0, 0.0]);
    assert_eq!(value, [508.0, -508.0, 8.0, 0.0, -12.0, 0.0]);
    let mut two_blocks = [0.0; 40];
    (two_blocks[0], two_blocks[31], two_blocks[32], two_blocks[39]) = (127.0, 0.4, 0.5, 63.5);
    let kept = [127.0, 0.0, 0.5, 63.5];
    assert_eq!([0, 31, 32, 39].map(|d| written(&two_blocks).0[d]), kept);
    assert_eq!(written(&[1e-7, -1e-7]).0, [0.0; 2]);
    let (key, _) = written(&[f32::INFINITY, -1.0, f32::NEG_INFINITY, 1e30]);
    assert_eq!(key, [127.0 * 65504.0, 0.0, -127.0 * 65504.0, 127.0 * 65504.0]);
    let (key, value) = written(&[1.0, f32::NAN, 0.0]);
    assert!(key.iter().chain(&value).all(|x| x.is_nan()));
}

#[test]
fn sizes() {
    let store = KvStore::new(3, 2, 20, KvType::I8).unwrap();
    assert_eq!(store.page_nbytes(), 3 * 2 * 64 * (20 + 32 + 2 + 2));
    let mut store = KvStore::new(3, 2, 20, KvType::F16).unwrap();
    assert_eq!(store.page_nbytes(), 3 * 2 * 64 * (20 + 32) * 2);
    assert_eq!((store.pages(), store.nbytes()), (0, 0));
    store.reserve(5).unwrap();
    store.reserve(2).unwrap();
    assert_eq!((store.pages(), store.nbytes()), (5, 5 * store.page_nbytes() + CACHE_LINE));
}

#[test]
fn impossible_requests_are_errors_and_change_nothing() {
    assert!(KvStore::new(0, 1, 8, KvType::F32).is_err());
    assert!(KvStore::new(1, 1, 0, KvType::F32).is_err());
    assert!(KvStore::new(usize::MAX, 4, 8, KvType::F32).is_err());
    let mut store = KvStore::new(1, 1, 256, KvType::F32).unwrap();
    store.reserve(1).unwrap();
    for pages in [1 << 45, usize::MAX] {
        let message = store.reserve(pages).unwrap_err().to_string();
        assert_eq!(message, format!("no memory for {pages} KV pages of 131072 bytes"));
    }
    assert_eq!(store.pages(), 1);
}
