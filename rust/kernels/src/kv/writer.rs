//! Writing one token's key and value.

use std::marker::PhantomData;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{KvStore, KvType, PAGE};

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
    #[allow(clippy::cast_ptr_alignment, reason = "slabs are aligned by hand, heads start at whole vectors")]
    pub unsafe fn write(&self, page: usize, layer: usize, head: usize, slot: usize, key: &[f32], value: &[f32]) {
        let store = self.store;
        let width = store.head_dim;
        assert!(slot < PAGE && key.len() == width && value.len() == width, "key or value does not fit its slot");
        let start = store.head_start(page, layer, head);
        // SAFETY: key column `slot` and value row `slot` lie inside the head's part of the page, which is aligned for
        // its type; the caller promises that nobody else touches them.
        unsafe {
            let offset = width * PAGE + slot * store.value_stride();
            match store.dtype {
                KvType::F32 => {
                    let start = start.cast::<f32>();
                    scatter(key, start.add(slot));
                    start.add(offset).copy_from_nonoverlapping(value.as_ptr(), width);
                }
                KvType::F16 => {
                    let start = start.cast::<f16>();
                    for_halves(key, |i, halves| scatter(halves, start.add(i * PAGE + slot)));
                    for_halves(value, |i, halves| {
                        start.add(offset + i).copy_from_nonoverlapping(halves.as_ptr(), halves.len());
                    });
                }
            }
        }
    }
}

/// Writes `from[i]` to `to[i * PAGE]`.
///
/// # Safety
/// Those places may be written.
unsafe fn scatter<T: Copy>(from: &[T], to: *mut T) {
    for (i, &x) in from.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { to.add(i * PAGE).write(x) }
    }
}

/// Passes `values` on as f16, piece by piece with the index of each piece's first value.
fn for_halves(values: &[f32], mut take: impl FnMut(usize, &[f16])) {
    const PIECE: usize = 64;
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
