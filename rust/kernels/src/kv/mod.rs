//! Keys and values of all layers of one kind, in pages of 64 positions.
//!
//! A page holds, for each layer and kv head, in this order:
//! * keys `[PAGE / PANEL][head_dim][PANEL]`: the neighbouring keys of a panel meet one element of the query, and
//!   scores of a panel read one stretch of memory from its start to its end;
//! * values `[value_width / PANEL][PAGE][PANEL]`, `value_width` being `head_dim` rounded up to whole panels with zeros
//!   behind it: the same for weighted values;
//! * int8 only, in f16: scales of the keys `[head_dim / BLOCK, rounded up][PAGE]`, then of the values.

mod view;
mod writer;

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::TryReserveError;

use half::f16;
use thiserror::Error;

use crate::pages::advise_huge;
use crate::simd::LANES;

pub(crate) use view::{Element, PageView, Panels, Scales};
pub use writer::KvWriter;

/// Positions per page.
pub const PAGE: usize = 64;

/// Columns of a panel: a vector, one cache line of f32.
pub(crate) const PANEL: usize = LANES;

/// Neighbouring elements of a key or value with one scale. One for all 256 of a head would do less well: on the 270m
/// it more than doubles the error, because a few elements of every key are much larger than the others.
pub(crate) const BLOCK: usize = 2 * PANEL;

const CACHE_LINE: usize = 64;

/// The number format of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// 4 bytes per value.
    F32,
    /// 2 bytes per value, rounded to nearest even; finite values beyond the range become +-65504.
    F16,
    /// 1 byte per value, -127 to 127, and an f16 per 32 of them: a 127th of their largest magnitude, in units of which
    /// they are rounded to nearest even. Finite values beyond +-127 * 65504 become that.
    I8,
}

impl KvType {
    /// `f32`, `f16` or `int8`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "f32" => Some(Self::F32),
            "f16" => Some(Self::F16),
            "int8" => Some(Self::I8),
            _ => None,
        }
    }

    /// Bytes per value, scales apart.
    #[must_use]
    pub fn nbytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::I8 => 1,
        }
    }

    /// Scales of a position's key and value.
    fn scales(self, head_dim: usize) -> usize {
        if self == Self::I8 { 2 * head_dim.div_ceil(BLOCK) } else { 0 }
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

impl KvStore {
    /// An empty store.
    ///
    /// # Errors
    /// [`KvError::BadShape`].
    pub fn new(layers: usize, kv_heads: usize, head_dim: usize, dtype: KvType) -> Result<Self, KvError> {
        let bad = || KvError::BadShape { layers, kv_heads, head_dim };
        let per_head = head_dim
            .checked_next_multiple_of(PANEL)
            .and_then(|width| width.checked_add(head_dim))
            .and_then(|sum| sum.checked_mul(dtype.nbytes()))
            .and_then(|n| n.checked_add(dtype.scales(head_dim) * size_of::<f16>()))
            .and_then(|n| n.checked_mul(PAGE));
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
        let (Some(layout), Ok(())) = (layout, room(self)) else {
            return Err(error);
        };
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            return Err(error);
        }
        // SAFETY: the slab that was just allocated.
        unsafe { advise_huge(start, layout.size()) };
        self.slabs.push(Slab { start, layout });
        let first = start.wrapping_add(start.align_offset(CACHE_LINE));
        self.pages.extend((0..missing).map(|page| first.wrapping_add(page * self.page_nbytes)));
        Ok(())
    }

    /// The only way to write; while it lives nobody reads.
    pub fn writer(&mut self) -> KvWriter<'_> {
        KvWriter::new(self)
    }

    fn head_nbytes(&self) -> usize {
        self.page_nbytes / (self.layers * self.kv_heads)
    }

    /// `head_dim` rounded up to whole panels.
    pub(crate) fn value_width(&self) -> usize {
        self.head_dim.next_multiple_of(PANEL)
    }

    fn head_start(&self, page: usize, layer: usize, head: usize) -> *mut u8 {
        assert!(layer < self.layers && head < self.kv_heads, "layer {layer}, head {head} of a KV store");
        self.pages[page].wrapping_add((layer * self.kv_heads + head) * self.head_nbytes())
    }
}

#[cfg(test)]
mod tests;
