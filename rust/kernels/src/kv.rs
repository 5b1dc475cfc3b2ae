//! Keys and values of all layers of one kind, in pages of 64 positions.
//!
//! A page holds, for each layer and kv head: the keys as `[head_dim][PAGE]` (so that 8 neighbouring keys meet one
//! element of the query), then the values as `[PAGE][value_stride]`, `value_stride` being `head_dim` rounded up to 8
//! with zeros behind it.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::TryReserveError;
use std::marker::PhantomData;

use half::f16;
use half::slice::HalfFloatSliceExt;
use thiserror::Error;

/// Positions per page.
pub const PAGE: usize = 64;

const CACHE_LINE: usize = 64;

/// The number format of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// 4 bytes per value.
    F32,
    /// 2 bytes per value, rounded to nearest even; finite values beyond the range become +-65504.
    F16,
}

impl KvType {
    /// `f32` or `f16`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "f32" => Some(Self::F32),
            "f16" => Some(Self::F16),
            _ => None,
        }
    }

    /// Bytes per value.
    #[must_use]
    pub fn nbytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// Why a store cannot be made or grow.
#[derive(Debug, Error)]
pub enum KvError {
    /// A dimension is zero, or one page would be larger than the address space.
    #[error("no KV store of {layers} layers, {kv_heads} heads of {head_dim}")]
    BadShape {
        /// Layers asked for.
        layers: usize,
        /// Heads asked for.
        kv_heads: usize,
        /// Values per head asked for.
        head_dim: usize,
    },
    /// The machine has no room; the store is as it was.
    #[error("no memory for {pages} KV pages of {page_nbytes} bytes")]
    OutOfMemory {
        /// Pages asked for in all.
        pages: usize,
        /// Bytes of one page.
        page_nbytes: usize,
    },
}

/// Memory of consecutive pages, zeroed by the system when it is first touched.
struct Slab {
    start: *mut u8,
    layout: Layout,
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc_zeroed` with this layout, and is freed once.
        unsafe { dealloc(self.start, self.layout) }
    }
}

/// Pages of keys and values.
pub struct KvStore {
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
    dtype: KvType,
    page_nbytes: usize,
    /// Address of each page, inside one of the slabs.
    pages: Vec<*mut u8>,
    slabs: Vec<Slab>,
}

// SAFETY: the store owns its memory; it is written through `&mut` (a `KvWriter`) and read through `&`.
unsafe impl Send for KvStore {}
// SAFETY: as above: `&KvStore` only reads.
unsafe impl Sync for KvStore {}

/// Keys `[head_dim][PAGE]` and values `[PAGE][value_stride]` of one head on one page.
#[derive(Clone, Copy)]
pub(crate) enum PageView<'a> {
    F32(&'a [f32], &'a [f32]),
    F16(&'a [f16], &'a [f16]),
}

impl KvStore {
    /// An empty store.
    ///
    /// # Errors
    /// [`KvError::BadShape`].
    pub fn new(layers: usize, kv_heads: usize, head_dim: usize, dtype: KvType) -> Result<Self, KvError> {
        let bad = || KvError::BadShape { layers, kv_heads, head_dim };
        let per_head = head_dim
            .checked_next_multiple_of(8)
            .and_then(|stride| stride.checked_add(head_dim))
            .and_then(|sum| sum.checked_mul(PAGE * dtype.nbytes()));
        let page_nbytes = per_head
            .and_then(|n| n.checked_mul(layers))
            .and_then(|n| n.checked_mul(kv_heads))
            .filter(|&n| n > 0 && n < isize::MAX as usize / 2 && head_dim > 0)
            .ok_or_else(bad)?;
        Ok(Self { layers, kv_heads, head_dim, dtype, page_nbytes, pages: Vec::new(), slabs: Vec::new() })
    }

    /// Layers of the store.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Heads per layer.
    #[must_use]
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Values per head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Number format.
    #[must_use]
    pub fn dtype(&self) -> KvType {
        self.dtype
    }

    /// Page ids below this number are usable.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Bytes of one page over all layers.
    #[must_use]
    pub fn page_nbytes(&self) -> usize {
        self.page_nbytes
    }

    /// Bytes of address space held at present; the system provides memory when a page is first written.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        self.slabs.iter().map(|slab| slab.layout.size()).sum()
    }

    /// Makes page ids below `pages` usable. Pages there already keep their contents; none is ever given back.
    ///
    /// # Errors
    /// [`KvError::OutOfMemory`]; the store is as it was.
    pub fn reserve(&mut self, pages: usize) -> Result<(), KvError> {
        let missing = pages.saturating_sub(self.pages.len());
        if missing == 0 {
            return Ok(());
        }
        let error = KvError::OutOfMemory { pages, page_nbytes: self.page_nbytes };
        let room = |store: &mut Self| -> Result<(), TryReserveError> {
            store.pages.try_reserve(missing)?;
            store.slabs.try_reserve(1)
        };
        // One cache line more, to align by hand: the allocator would clear over-aligned memory eagerly.
        let layout = missing
            .checked_mul(self.page_nbytes)
            .and_then(|size| size.checked_add(CACHE_LINE))
            .and_then(|size| Layout::from_size_align(size, 16).ok());
        let (Some(layout), Ok(())) = (layout, room(self)) else { return Err(error) };
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            return Err(error);
        }
        self.slabs.push(Slab { start, layout });
        let first = start.wrapping_add(start.align_offset(CACHE_LINE));
        self.pages.extend((0..missing).map(|page| first.wrapping_add(page * self.page_nbytes)));
        Ok(())
    }

    /// The only way to write; while it lives nobody reads.
    pub fn writer(&mut self) -> KvWriter<'_> {
        KvWriter { store: self, exclusive: PhantomData }
    }

    #[allow(clippy::cast_ptr_alignment, reason = "slabs are aligned by hand, heads start at whole vectors")]
    /// One head on one page. All three numbers are in range, else it panics.
    pub(crate) fn view(&self, page: usize, layer: usize, head: usize) -> PageView<'_> {
        let start = self.head_start(page, layer, head);
        let (keys, values) = (self.head_dim * PAGE, PAGE * self.value_stride());
        // SAFETY: the head's keys and values lie inside the page, initialised (zeroed at first); they are written
        // only through a `KvWriter`, which borrows the store exclusively. Heads start at multiples of 16 values.
        unsafe {
            match self.dtype {
                KvType::F32 => {
                    let start = start.cast::<f32>();
                    PageView::F32(slice(start, keys), slice(start.add(keys), values))
                }
                KvType::F16 => {
                    let start = start.cast::<f16>();
                    PageView::F16(slice(start, keys), slice(start.add(keys), values))
                }
            }
        }
    }

    /// The bytes of [`view`](Self::view), to prefetch them.
    pub(crate) fn bytes(&self, page: usize, layer: usize, head: usize) -> &[u8] {
        // SAFETY: as in `view`; a head's keys and values lie together.
        unsafe { slice(self.head_start(page, layer, head), self.head_nbytes()) }
    }

    fn head_nbytes(&self) -> usize {
        self.page_nbytes / (self.layers * self.kv_heads)
    }

    /// Values per row of a page's value part.
    pub(crate) fn value_stride(&self) -> usize {
        self.head_dim.next_multiple_of(8)
    }

    fn head_start(&self, page: usize, layer: usize, head: usize) -> *mut u8 {
        assert!(layer < self.layers && head < self.kv_heads, "layer {layer}, head {head} of a KV store");
        self.pages[page].wrapping_add((layer * self.kv_heads + head) * self.head_nbytes())
    }
}

/// # Safety
/// As `std::slice::from_raw_parts`.
unsafe fn slice<'a, T>(start: *const T, len: usize) -> &'a [T] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start, len) }
}

/// Writes keys and values; shared by the members of a team.
pub struct KvWriter<'a> {
    store: &'a KvStore,
    exclusive: PhantomData<&'a mut KvStore>,
}

impl KvWriter<'_> {
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

#[cfg(test)]
mod tests {
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
}
