//! The state that the members of a team have in common.
//!
//! A round is one `run`. The caller opens it with itself as the only member; called members join until the first
//! barrier opens or the caller has finished, whichever comes first. A member whose core is busy with something
//! else therefore misses the round, and nobody waits for it.

use std::any::Any;
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::doorbell::Doorbell;
use super::worker::Worker;

/// Shares that one run may hand out.
pub(super) const PHASES: usize = 16;

/// Most members of a team: what fits the roster.
pub(super) const MOST: usize = 0x7fff;

/// The closure of a run. The lifetime is a promise of `run`: it waits for every joined member before it returns.
#[derive(Clone, Copy)]
pub(super) struct Job(pub(super) &'static (dyn Fn(&Worker<'_>) + Sync));

#[repr(align(128))]
pub(super) struct Padded<T>(pub(super) T);

/// A member's seat: what it is told, and where it sleeps.
#[repr(align(128))]
pub(super) struct Seat {
    /// The last round that this member was called to.
    pub(super) called: AtomicU32,
    pub(super) doorbell: Doorbell,
}

pub(super) struct Shared {
    pub(super) seats: Box<[Seat]>,
    /// For each phase of a run (round << 32 | next item), so that they need no reset between runs.
    pub(super) phases: [Padded<AtomicU64>; PHASES],
    /// For each member and phase, the pieces of a stream that are left to it: round << 32 | first << 16 | end.
    pub(super) ranges: Box<[Padded<[AtomicU64; PHASES]>]>,
    pub(super) stop: AtomicBool,
    /// Written by `run` while nobody has joined; read by members after they joined.
    job: UnsafeCell<Option<Job>>,
    /// round (32 bits) | closed (1) | joined (15) | arrived at the present barrier (16): changes in one step.
    roster: Padded<AtomicU64>,
    /// Barriers opened so far, over all rounds.
    opened: Padded<AtomicU32>,
    /// Joined members, other than the caller, that have left the present round.
    finished: Padded<AtomicU32>,
    failed: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is the only field that is not Sync. `open` writes it, under the team's lock, when every member that
// had joined the round before has left it, and members read it only after they joined the new one.
unsafe impl Sync for Shared {}
// SAFETY: `job` holds a reference to a Sync closure, which may be used from any thread.
unsafe impl Send for Shared {}

const ARRIVED: u64 = 1;
const JOINED: u64 = 1 << 16;
const CLOSED: u64 = 1 << 31;

fn arrived(roster: u64) -> u64 {
    roster & 0xffff
}

fn joined(roster: u64) -> u64 {
    (roster >> 16) & 0x7fff
}

impl Shared {
    pub(super) fn new(members: usize) -> Self {
        let seat = || Seat { called: AtomicU32::new(0), doorbell: Doorbell::default() };
        Self {
            seats: std::iter::repeat_with(seat).take(members).collect(),
            phases: std::array::from_fn(|_| Padded(AtomicU64::new(0))),
            ranges: std::iter::repeat_with(|| Padded(std::array::from_fn(|_| AtomicU64::new(0))))
                .take(members)
                .collect(),
            stop: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            roster: Padded(AtomicU64::new(CLOSED)),
            opened: Padded(AtomicU32::new(0)),
            finished: Padded(AtomicU32::new(0)),
            failed: AtomicBool::new(false),
            panic: Mutex::new(None),
        }
    }

    /// Opens `round` (never 0) with the caller as its only member, and calls the others to it.
    ///
    /// # Safety
    /// The round before has ended ([`end`](Self::end)), no other thread opens one meanwhile, and the job outlives
    /// this round.
    pub(super) unsafe fn open(&self, round: u32, job: Job) {
        if round == 1 {
            // The first round, or the numbers start again: no counter may hold a number that comes back.
            self.phases.iter().for_each(|phase| phase.0.store(0, Ordering::Relaxed));
            self.ranges.iter().flat_map(|ranges| &ranges.0).for_each(|range| range.store(0, Ordering::Relaxed));
        }
        // SAFETY: the roster is closed and empty, so that no member reads the job.
        unsafe { *self.job.get() = Some(job) };
        self.finished.0.store(0, Ordering::Relaxed);
        self.roster.0.store((u64::from(round) << 32) | JOINED, Ordering::Release);
        for seat in &self.seats[1..] {
            seat.called.store(round, Ordering::Release);
            seat.doorbell.ring();
        }
    }

    /// Waits for a round other than `last`; its number, or None when the team ends.
    pub(super) fn await_call(&self, index: usize, last: u32) -> Option<u32> {
        let seat = &self.seats[index];
        seat.doorbell.wait(|| seat.called.load(Ordering::Acquire) != last);
        (!self.stop.load(Ordering::Acquire)).then(|| seat.called.load(Ordering::Acquire))
    }

    /// The job of `round` for a member that is in time for it. The member calls [`leave`](Self::leave) afterwards.
    pub(super) fn join(&self, round: u32) -> Option<Job> {
        let step = |roster: u64| {
            let open = (roster >> 32) as u32 == round && roster & CLOSED == 0;
            open.then_some(roster + JOINED)
        };
        self.roster.0.fetch_update(Ordering::Acquire, Ordering::Relaxed, step).ok()?;
        // SAFETY: the job was written before the roster was opened, and stays until this member has left.
        unsafe { *self.job.get() }
    }

    pub(super) fn leave(&self) {
        self.finished.0.fetch_add(1, Ordering::Release);
        self.seats[0].doorbell.ring();
    }

    /// Closes the round and waits, as its caller, until every joined member has left: the first panic of the round.
    pub(super) fn end(&self) -> Option<Box<dyn Any + Send>> {
        let others = joined(self.roster.0.fetch_or(CLOSED, Ordering::AcqRel)) as u32 - 1;
        self.seats[0].doorbell.wait(|| self.finished.0.load(Ordering::Acquire) == others);
        if !self.failed.swap(false, Ordering::Relaxed) {
            return None;
        }
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits until all who joined are here; false when one of them has panicked instead.
    pub(super) fn meet(&self, index: usize) -> bool {
        let opened = self.opened.0.load(Ordering::Relaxed);
        let step = |roster: u64| {
            let last = arrived(roster) + 1 == joined(roster);
            Some(if last { (roster | CLOSED) & !0xffff } else { roster + ARRIVED })
        };
        let before = self.roster.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, step).unwrap_or_else(|seen| seen);
        if arrived(before) + 1 == joined(before) {
            self.opened.0.store(opened.wrapping_add(1), Ordering::Release);
            if joined(before) > 1 {
                self.ring_all_but(index);
            }
        } else {
            self.seats[index]
                .doorbell
                .wait(|| self.opened.0.load(Ordering::Acquire) != opened || self.failed.load(Ordering::Acquire));
        }
        !self.failed.load(Ordering::Acquire)
    }

    /// Notes the panic of a member and releases those that wait for it.
    pub(super) fn fail(&self, index: usize, payload: Box<dyn Any + Send>) {
        {
            let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.failed.swap(true, Ordering::AcqRel) {
                *first = Some(payload);
            }
        }
        self.ring_all_but(index);
    }

    /// Tells the members to end.
    pub(super) fn dismiss(&self) {
        self.stop.store(true, Ordering::Release);
        for seat in &self.seats[1..] {
            seat.called.fetch_add(1, Ordering::Release);
            seat.doorbell.ring();
        }
    }

    fn ring_all_but(&self, index: usize) {
        for (other, seat) in self.seats.iter().enumerate() {
            if other != index {
                seat.doorbell.ring();
            }
        }
    }
}
