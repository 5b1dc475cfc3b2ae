//! Keys and values of all layers of one kind, in pages of 64 positions.
//!
//! A page holds, for each layer and kv head: the keys as `[head_dim][PAGE]` (so that 8 neighbouring keys meet one
//! element of the query), then the values as `[PAGE][value_stride]`, `value_stride` being `head_dim` rounded up to 8
//! with zeros behind it.

mod writer;

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::TryReserveError;

use half::f16;
use thiserror::Error;

pub use writer::KvWriter;

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
        KvWriter::new(self)
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

#[cfg(test)]
mod tests;
