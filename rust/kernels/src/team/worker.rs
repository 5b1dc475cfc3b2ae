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

    /// As [`share`](Self::share), in such a way that members go through memory in one direction: each has a range of its
    /// own, from which it takes chunk after chunk. Who is done takes half of what another one has left.
    ///
    /// # Panics
    /// As `share`.
    pub fn stream(&self, phase: usize, items: usize, chunk: usize, mut work: impl FnMut(Range<usize>)) {
        assert!(phase < PHASES, "phase {phase}: a run has {PHASES}");
        assert!(u32::try_from(items).is_ok(), "{items} items do not fit a share");
        let chunk = chunk.max(1).max(items.div_ceil(usize::from(u16::MAX)));
        let pieces = items.div_ceil(chunk);
        loop {
            while let Some(piece) = self.next_piece(phase, pieces) {
                work(piece * chunk..items.min((piece + 1) * chunk));
            }
            if !self.rob(phase, pieces) {
                return;
            }
        }
    }

    /// The first piece that is left to this member.
    fn next_piece(&self, phase: usize, pieces: usize) -> Option<usize> {
        let slot = &self.shared.ranges[self.index].0[phase];
        let mut seen = slot.load(Ordering::Relaxed);
        loop {
            let left = self.left(seen, self.index, pieces);
            if left.is_empty() {
                return None;
            }
            let after = self.as_word(left.start + 1..left.end);
            match slot.compare_exchange_weak(seen, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(left.start),
                Err(now) => seen = now,
            }
        }
    }

    /// Makes the second half of what another member has left this member's own; false when nobody has any.
    ///
    /// Only its owner fills a range that is empty, and a piece that was taken is in no range again: a range that looks as it
    /// did is the same.
    fn rob(&self, phase: usize, pieces: usize) -> bool {
        let others = (self.index + 1..self.count).chain(0..self.index);
        for other in others {
            let slot = &self.shared.ranges[other].0[phase];
            let mut seen = slot.load(Ordering::Relaxed);
            loop {
                let left = self.left(seen, other, pieces);
                if left.is_empty() {
                    break;
                }
                let middle = left.start + left.len() / 2;
                let after = self.as_word(left.start..middle);
                match slot.compare_exchange_weak(seen, after, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => {
                        let own = self.as_word(middle..left.end);
                        self.shared.ranges[self.index].0[phase].store(own, Ordering::Relaxed);
                        return true;
                    }
                    Err(now) => seen = now,
                }
            }
        }
        false
    }

    /// What a word says is left to a member: in a round in which nobody has touched it, its share of all.
    fn left(&self, word: u64, member: usize, pieces: usize) -> Range<usize> {
        if (word >> 32) as u32 == self.round {
            return (word >> 16) as usize & 0xffff..word as usize & 0xffff;
        }
        pieces * member / self.count..pieces * (member + 1) / self.count
    }

    fn as_word(&self, pieces: Range<usize>) -> u64 {
        u64::from(self.round) << 32 | (pieces.start as u64) << 16 | pieces.end as u64
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
