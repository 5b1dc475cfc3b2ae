//! Memory that a thread keeps between calls.

use std::cell::RefCell;
use std::thread::LocalKey;

/// Floats per cache line: pieces of scratch memory of whole lines keep vectors from lying across two of them.
pub(super) const LINE: usize = 16;

type Memory = RefCell<Vec<f32>>;

thread_local! {
    static OWN: Memory = const { RefCell::new(Vec::new()) };
    static SHARED: Memory = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with memory of one member, which starts at a cache line and holds what the last call left.
pub(super) fn with_scratch<T>(floats: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
    with(&OWN, floats, work)
}

/// The same with memory that the caller of a team shares with its members.
pub(super) fn with_shared<T>(floats: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
    with(&SHARED, floats, work)
}

fn with<T>(memory: &'static LocalKey<Memory>, floats: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
    memory.with_borrow_mut(|memory| {
        if memory.len() < floats + LINE {
            memory.resize(floats + LINE, 0.0);
        }
        let start = memory.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        work(&mut memory[start..start + floats])
    })
}
