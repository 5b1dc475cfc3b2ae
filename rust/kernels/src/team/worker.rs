//! What one member sees of a run: its index, barriers and shares of the work.

use std::ops::Range;
use std::panic;
use std::sync::atomic::Ordering;

use super::shared::{PHASES, Shared};

/// One member inside [`Team::run`](super::Team::run).
pub struct Worker<'a> {
    /// 0 is the thread that called `run`.
    pub index: usize,
    /// Members of the team; fewer may take part. Indices are below this: use them for scratch memory only.
    pub count: usize,
    pub(super) round: u32,
    pub(super) shared: &'a Shared,
}

impl Worker<'_> {
    /// Returns when every member that takes part has called it; what they wrote before is visible after.
    ///
    /// Every member calls it equally often. Members that are not here when the first barrier of a run opens take no
    /// part in it. When a member has panicked, the others leave the run here.
    pub fn barrier(&self) {
        if !self.shared.meet(self.index) {
            // Not a panic of its own: no message, and `run` reports the first member's panic.
            panic::resume_unwind(Box::new("another member panicked"));
        }
    }

    /// Hands out 0..items in ranges of at most `chunk` to whoever asks next; returns when none are left to ask for.
    ///
    /// Other members may still be at work on theirs: put a [`barrier`](Self::barrier) behind it before their
    /// results are used. `phase` (below 16) names the share: use each number once per run.
    ///
    /// # Panics
    /// When `phase` is too large, or there are 2^32 items or more.
    pub fn share(&self, phase: usize, items: usize, chunk: usize, mut work: impl FnMut(Range<usize>)) {
        assert!(phase < PHASES, "phase {phase}: a run has {PHASES}");
        assert!(u32::try_from(items).is_ok(), "{items} items do not fit a share");
        let chunk = chunk.max(1);
        while let Some(start) = self.claim(phase, items, chunk) {
            work(start..items.min(start + chunk));
        }
    }

    /// The counter holds (round, next item), so that it need not be reset between runs.
    fn claim(&self, phase: usize, items: usize, chunk: usize) -> Option<usize> {
        let counter = &self.shared.phases[phase].0;
        let mut seen = counter.load(Ordering::Relaxed);
        loop {
            let next = if (seen >> 32) as u32 == self.round { seen as u32 as usize } else { 0 };
            if next >= items {
                return None;
            }
            let after = (u64::from(self.round) << 32) | items.min(next + chunk) as u64;
            match counter.compare_exchange_weak(seen, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(next),
                Err(now) => seen = now,
            }
        }
    }
}
