//! One output slice, written by several members at once.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice that members of a team write in ranges that do not overlap.
pub struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `range`, whose caller promises that no two threads hold overlapping ranges.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: as a `&mut [T]`, it may move to another thread when T may.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Takes the slice over for as long as this value lives.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the slice has no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of the first element, for kernels that take a pointer and a stride.
    #[must_use]
    pub fn as_mut_ptr(&self) -> *mut T {
        self.start
    }

    /// The elements of `range`.
    ///
    /// # Panics
    /// When it does not lie inside the slice.
    ///
    /// # Safety
    /// No other slice obtained from this value that overlaps `range` is in use meanwhile.
    #[allow(clippy::mut_from_ref, reason = "exclusive use is the caller's promise")]
    #[must_use]
    pub unsafe fn range(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} elements", self.len);
        // SAFETY: the range lies inside the slice, and the caller promises that nobody else uses it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// All elements, to be read.
    ///
    /// # Safety
    /// While the result is in use nobody writes to them.
    #[must_use]
    pub unsafe fn read(&self) -> &[T] {
        // SAFETY: the pointer and length of a live slice, which the caller promises nobody writes to.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}
