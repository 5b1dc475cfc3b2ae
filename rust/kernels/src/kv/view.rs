//! One head's keys and values on one page, as attention reads them.

#![allow(clippy::inline_always, reason = "only what is inlined into `dispatch` is compiled for its instruction set")]

use half::f16;

use super::{BLOCK, KvStore, KvType, PAGE, PANEL};
use crate::simd::Simd;

/// Keys `[PAGE / PANEL][head_dim][PANEL]` and values `[value_width / PANEL][PAGE][PANEL]`.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a, E> {
    pub(crate) keys: &'a [E],
    pub(crate) values: &'a [E],
    /// What the elements of blocks of the keys and of the values are to be multiplied by; None for 1.
    pub(crate) scales: Option<[Scales<'a>; 2]>,
}

/// `[head_dim / BLOCK, rounded up]`: for each block those of a page's positions.
pub(crate) type Scales<'a> = &'a [[f16; PAGE]];

/// [`Panels`] in the store's number format.
#[derive(Clone, Copy)]
pub(crate) enum PageView<'a> {
    F32(Panels<'a, f32>),
    F16(Panels<'a, f16>),
    I8(Panels<'a, i8>),
}

/// A number format of keys and values.
pub(crate) trait Element: Copy {
    /// Whether blocks have scales.
    const SCALED: bool = false;

    /// Sixteen elements.
    fn load<S: Simd>(s: S, from: &[Self]) -> S::V;

    /// `from` as f32, in `room` (that has room for it) unless it is that already.
    #[inline(always)]
    fn unpack<'a, S: Simd>(s: S, from: &'a [Self], room: &'a mut [f32]) -> &'a [f32] {
        let room = &mut room[..from.len()];
        for (from, to) in from.as_chunks::<PANEL>().0.iter().zip(room.as_chunks_mut::<PANEL>().0) {
            s.store(Self::load(s, from), to);
        }
        room
    }
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[f32]) -> S::V {
        s.load(from)
    }

    #[inline(always)]
    fn unpack<'a, S: Simd>(_: S, from: &'a [f32], _: &'a mut [f32]) -> &'a [f32] {
        from
    }
}

impl Element for f16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[f16]) -> S::V {
        s.load_f16(from)
    }
}

impl Element for i8 {
    const SCALED: bool = true;

    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[i8]) -> S::V {
        s.load_i8(from)
    }
}

impl KvStore {
    /// One head on one page. All three numbers are in range, else it panics.
    #[allow(clippy::cast_ptr_alignment, reason = "slabs are aligned by hand, every part starts at a cache line")]
    pub(crate) fn view(&self, page: usize, layer: usize, head: usize) -> PageView<'_> {
        let start = self.head_start(page, layer, head);
        // SAFETY: the head's keys, values and scales lie inside the page, initialised (zeroed at first); they are
        // written only through a `KvWriter`, which borrows the store exclusively. 64 elements of each format are
        // whole cache lines, so that all parts are aligned.
        unsafe {
            match self.dtype {
                KvType::F32 => PageView::F32(self.panels(start.cast(), None)),
                KvType::F16 => PageView::F16(self.panels(start.cast(), None)),
                KvType::I8 => {
                    let blocks = self.head_dim.div_ceil(BLOCK);
                    let scales = start.add(self.scales_offset()).cast::<[f16; PAGE]>();
                    let scales = [slice(scales, blocks), slice(scales.add(blocks), blocks)];
                    PageView::I8(self.panels(start.cast(), Some(scales)))
                }
            }
        }
    }

    /// The bytes of [`view`](Self::view), to prefetch them.
    pub(crate) fn bytes(&self, page: usize, layer: usize, head: usize) -> &[u8] {
        // SAFETY: as in `view`; a head's parts lie together.
        unsafe { slice(self.head_start(page, layer, head), self.head_nbytes()) }
    }

    /// # Safety
    /// A head's keys and values, of this type, start at `start`.
    unsafe fn panels<'a, E>(&self, start: *const E, scales: Option<[Scales<'a>; 2]>) -> Panels<'a, E> {
        let (keys, values) = (self.head_dim * PAGE, PAGE * self.value_width());
        // SAFETY: the caller's promise.
        unsafe { Panels { keys: slice(start, keys), values: slice(start.add(keys), values), scales } }
    }

    /// Bytes from the start of a head's part of a page to its scales.
    pub(super) fn scales_offset(&self) -> usize {
        PAGE * (self.head_dim + self.value_width()) * self.dtype.nbytes()
    }
}

/// # Safety
/// As `std::slice::from_raw_parts`.
unsafe fn slice<'a, T>(start: *const T, len: usize) -> &'a [T] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start, len) }
}
