//! Memory of one member of the team, kept between calls.

use std::cell::RefCell;

/// Floats per cache line: pieces of scratch memory of whole lines keep vectors from lying across two of them.
pub(super) const LINE: usize = 16;

thread_local! {
    static FLOATS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with this thread's memory, which starts at a cache line and holds what the last call left.
pub(super) fn with_scratch<T>(floats: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
    FLOATS.with_borrow_mut(|memory| {
        if memory.len() < floats + LINE {
            memory.resize(floats + LINE, 0.0);
        }
        let start = memory.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        work(&mut memory[start..start + floats])
    })
}
