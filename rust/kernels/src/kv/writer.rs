//! Writing one token's key and value.

use std::marker::PhantomData;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{BLOCK, KvStore, KvType, PAGE, PANEL};

/// Elements that are converted to f16 at a time.
const PIECE: usize = 64;

/// The largest int8, as which a block's largest magnitude is stored.
const MOST_I8: f32 = 127.0;

/// Adding and taking away 1.5 * 2^23 rounds a small float to the nearest integer, ties to even.
const ROUNDER: f32 = 12_582_912.0;

/// Writes keys and values; shared by the members of a team.
pub struct KvWriter<'a> {
    store: &'a KvStore,
    exclusive: PhantomData<&'a mut KvStore>,
}

impl<'a> KvWriter<'a> {
    pub(super) fn new(store: &'a mut KvStore) -> Self {
        Self { store, exclusive: PhantomData }
    }

    /// The store that is written.
    #[must_use]
    pub fn store(&self) -> &KvStore {
        self.store
    }

    /// Writes one token's key and value (`[head_dim]` each) of one head to `slot` (position mod 64) of a page.
    ///
    /// Neighbouring slots share cache lines: give tokens of one page to one
    /// member where that is easy.
    ///
    /// # Panics
    /// When a number is out of range or a slice has the wrong length.
    ///
    /// # Safety
    /// No two threads write the same (page, layer, head, slot) at a time, and nobody reads that page through
    /// [`store`](Self::store) meanwhile.
    #[allow(clippy::cast_ptr_alignment, reason = "slabs are aligned by hand, every part starts at a cache line")]
    pub unsafe fn write(&self, page: usize, layer: usize, head: usize, slot: usize, key: &[f32], value: &[f32]) {
        let store = self.store;
        let width = store.head_dim;
        assert!(slot < PAGE && key.len() == width && value.len() == width, "key or value does not fit its slot");
        let start = store.head_start(page, layer, head);
        // SAFETY: the slot's elements and scales lie inside the head's part of the page, which is aligned for its
        // type; the caller promises that nobody else touches them.
        unsafe {
            match store.dtype {
                KvType::F32 => {
                    let place = Place::new(store, start.cast(), slot);
                    place.key(0, key);
                    place.value(0, value);
                }
                KvType::F16 => {
                    let place = Place::new(store, start.cast(), slot);
                    for_halves(key, |at, halves| place.key(at, halves));
                    for_halves(value, |at, halves| place.value(at, halves));
                }
                KvType::I8 => {
                    let place = Place::new(store, start.cast(), slot);
                    let scales = start.add(store.scales_offset()).cast::<f16>().add(slot);
                    for_bytes(key, |block, bytes, scale| {
                        place.key(block * BLOCK, bytes);
                        scales.add(block * PAGE).write(scale);
                    });
                    let scales = scales.add(width.div_ceil(BLOCK) * PAGE);
                    for_bytes(value, |block, bytes, scale| {
                        place.value(block * BLOCK, bytes);
                        scales.add(block * PAGE).write(scale);
                    });
                }
            }
        }
    }
}

/// Where the elements of a slot's key and value lie.
struct Place<E> {
    keys: *mut E,
    values: *mut E,
}

impl<E: Copy> Place<E> {
    /// # Safety
    /// A head's keys and values, of this type, start at `start`.
    unsafe fn new(store: &KvStore, start: *mut E, slot: usize) -> Self {
        let panel = slot / PANEL * store.head_dim * PANEL;
        // SAFETY: both lie inside the head's part of the page.
        unsafe {
            Self { keys: start.add(panel + slot % PANEL), values: start.add(store.head_dim * PAGE + slot * PANEL) }
        }
    }

    /// Writes elements `at..` of the key.
    ///
    /// # Safety
    /// The key has so many, and they may be written.
    unsafe fn key(&self, at: usize, elements: &[E]) {
        for (d, &x) in (at..).zip(elements) {
            // SAFETY: the caller's promise.
            unsafe { self.keys.add(d * PANEL).write(x) }
        }
    }

    /// Writes elements `at..` of the value, `at` being the start of a panel.
    ///
    /// # Safety
    /// The value has so many, and they may be written.
    unsafe fn value(&self, at: usize, elements: &[E]) {
        for (panel, elements) in (at / PANEL..).zip(elements.chunks(PANEL)) {
            // SAFETY: the caller's promise.
            unsafe {
                let to = self.values.add(panel * PAGE * PANEL);
                to.copy_from_nonoverlapping(elements.as_ptr(), elements.len());
            }
        }
    }
}

/// Passes `values` on as f16, piece by piece with the index of each piece's first value.
fn for_halves(values: &[f32], mut take: impl FnMut(usize, &[f16])) {
    let most = f32::from(f16::MAX);
    for (index, piece) in values.chunks(PIECE).enumerate() {
        let (mut bounded, mut halves) = ([0.0f32; PIECE], [f16::ZERO; PIECE]);
        for (to, from) in bounded.iter_mut().zip(piece) {
            *to = from.clamp(-most, most);
        }
        halves.convert_from_f32_slice(&bounded);
        take(index * PIECE, &halves[..piece.len()]);
    }
}

/// Passes `values` on as int8, block by block with its index and scale, which is NaN where a value is.
fn for_bytes(values: &[f32], mut take: impl FnMut(usize, &[i8], f16)) {
    let most = f32::from(f16::MAX);
    for (index, block) in values.chunks(BLOCK).enumerate() {
        let largest = block.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let scale = f16::from_f32((largest / MOST_I8).min(most));
        let inverse = if scale == f16::ZERO { 0.0 } else { scale.to_f32().recip() };
        let mut bytes = [0i8; BLOCK];
        let mut is_nan = false;
        for (to, from) in bytes.iter_mut().zip(block) {
            let scaled = (from * inverse).clamp(-MOST_I8, MOST_I8);
            *to = ((scaled + ROUNDER) - ROUNDER) as i8;
            is_nan |= from.is_nan();
        }
        take(index, &bytes[..block.len()], if is_nan { f16::NAN } else { scale });
    }
}
