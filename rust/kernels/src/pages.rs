//! Advice to the system about memory. Where it knows none of it, nothing happens: no result depends on it.

/// Bytes of a huge page of most systems.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// Bytes of a page, or of a part of one.
pub(crate) const PAGE: usize = 4096;

/// Asks for huge pages in memory that is read as a whole: fewer misses of address translation.
///
/// # Safety
/// `size` bytes from `start` are memory of the caller's.
pub(crate) unsafe fn advise_huge(start: *mut u8, size: usize) {
    #[cfg(target_os = "linux")]
    {
        let skipped = start.align_offset(PAGE);
        if size > HUGE_PAGE && skipped < size {
            // SAFETY: the caller's promise; advice changes no contents. A refusal changes nothing.
            unsafe { libc::madvise(start.add(skipped).cast(), size - skipped, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, size);
}

/// Has the page, huge or not, of a byte that will be written put in place. Threads that write to the same new page at
/// once each have a page cleared, and throw all but one away: let them share the pages out first.
///
/// # Safety
/// `at` lies in memory that the caller may write to.
pub(crate) unsafe fn populate(at: *mut u8) {
    #[cfg(target_os = "linux")]
    {
        let start = at.wrapping_sub(at.addr() % PAGE);
        // SAFETY: the caller's promise; contents stay as they are. Systems before Linux 5.14 refuse.
        unsafe { libc::madvise(start.cast(), PAGE, libc::MADV_POPULATE_WRITE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = at;
}
