use super::*;

fn read(store: &KvStore, page: usize, layer: usize, head: usize, slot: usize) -> (Vec<f32>, Vec<f32>) {
    let (keys, values): (Vec<f32>, Vec<f32>) = match store.view(page, layer, head) {
        PageView::F32(k, v) => (k.to_vec(), v.to_vec()),
        PageView::F16(k, v) => (k.iter().map(|x| x.to_f32()).collect(), v.iter().map(|x| x.to_f32()).collect()),
    };
    let (width, stride) = (store.head_dim(), store.value_stride());
    let key = (0..width).map(|d| keys[d * PAGE + slot]).collect();
    (key, values[slot * stride..][..width].to_vec())
}

#[test]
fn every_slot_keeps_its_own_values_while_the_store_grows() {
    for dtype in [KvType::F32, KvType::F16] {
        for width in [1, 24, 64, 70, 256] {
            let mut store = KvStore::new(2, 3, width, dtype).unwrap();
            let token = |n: usize| -> Vec<f32> { (0..width).map(|d| ((n * 31 + d) % 2048) as f32).collect() };
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
fn sizes() {
    let mut store = KvStore::new(3, 2, 20, KvType::F16).unwrap();
    assert_eq!(store.page_nbytes(), 3 * 2 * 64 * (20 + 24) * 2);
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
