//! A persistent team of threads that runs one closure at a time on all of them.
//!
//! Made for a decode step: a hundred short regions with a few barriers each. Members spin for some microseconds
//! and then sleep. Three habits keep a team useful on a machine that has other things to do:
//! * work is handed out in small pieces as members ask for them ([`Worker::share`]);
//! * a called member that has not arrived when the first barrier opens, or when the caller is done, misses the run,
//!   and nobody waits for it;
//! * members other than the caller offer their core to others between runs, every [`TURN`], so that they lose it
//!   there rather than in the middle of a piece that everybody waits for.
//!
//! How many members take part therefore differs from run to run. Results must not depend on it: give work out
//! through `share` only, never by index.

mod cores;
mod disjoint;
mod doorbell;
mod shared;
mod worker;

use std::cell::Cell;
use std::io;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::process;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use disjoint::Disjoint;
pub use worker::Worker;

use shared::{Job, MOST, Shared};

/// Shorter than the time slice of common kernels (3 to 4 ms), long enough that an idle machine does not notice.
const TURN: Duration = Duration::from_millis(2);

thread_local! {
    /// Whether this thread is inside a run.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Persistent threads `ostro-1`, `ostro-2`, ...; the caller of [`run`](Self::run) takes part as member 0.
pub struct Team {
    shared: Arc<Shared>,
    /// The number of the last round; held during a run.
    round: Mutex<u32>,
    handles: Vec<JoinHandle<()>>,
    process: u32,
}

impl Team {
    /// A team of `threads`, the caller of `run` included; 0: as many as the affinity mask and the cgroup CPU quota
    /// allow. More than 32767 are taken as 32767.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn new(threads: usize) -> io::Result<Self> {
        let threads = if threads == 0 { cores::available() } else { threads }.min(MOST);
        let shared = Arc::new(Shared::new(threads));
        let mut team = Self { shared, round: Mutex::new(0), handles: Vec::new(), process: process::id() };
        for index in 1..threads {
            let shared = Arc::clone(&team.shared);
            let builder = thread::Builder::new().name(format!("ostro-{index}"));
            team.handles.push(builder.spawn(move || serve(&shared, index))?);
        }
        Ok(team)
    }

    /// Members, the caller of `run` included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared.seats.len()
    }

    /// Runs `work` once on every member that is free, and returns when all are done.
    ///
    /// Callers on several threads take turns. In a forked child, which has no other threads, the caller works alone.
    ///
    /// # Panics
    /// When `work` panicked on a member (with the first such panic; the team stays usable), and when called from
    /// inside a run.
    pub fn run<F: Fn(&Worker<'_>) + Sync>(&self, work: F) {
        assert!(!INSIDE.get(), "Team::run was called from inside a run");
        let failure = if process::id() == self.process {
            let mut round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
            *round = round.wrapping_add(1).max(1);
            // SAFETY: the lock makes this the only round.
            unsafe { lead(&self.shared, *round, &work) }
        } else {
            // The lock may have been held at the fork by a thread that is not here to give it back.
            // SAFETY: nobody else knows this state.
            unsafe { lead(&Shared::new(1), 1, &work) }
        };
        if let Some(payload) = failure {
            panic::resume_unwind(payload);
        }
    }
}

/// One round, led by its caller; its first panic.
///
/// # Safety
/// No other round of `shared` is under way.
unsafe fn lead<'a>(
    shared: &Shared,
    round: u32,
    work: &'a (dyn Fn(&Worker<'_>) + Sync + 'a),
) -> Option<Box<dyn std::any::Any + Send>> {
    // SAFETY: only the lifetime changes. `end` below returns when no member uses the job any more, and nothing in
    // between unwinds: the panics of `work` are caught.
    let job =
        unsafe { mem::transmute::<&'a (dyn Fn(&Worker<'_>) + Sync + 'a), &'static (dyn Fn(&Worker<'_>) + Sync)>(work) };
    // SAFETY: the caller's promise, and as above.
    unsafe { shared.open(round, Job(job)) };
    take_part(shared, 0, round, work);
    shared.end()
}

fn take_part(shared: &Shared, index: usize, round: u32, work: &(dyn Fn(&Worker<'_>) + Sync)) {
    INSIDE.set(true);
    let worker = Worker { index, count: shared.seats.len(), round, shared };
    if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(|| work(&worker))) {
        shared.fail(index, payload);
    }
    INSIDE.set(false);
}

/// The life of a member other than the caller.
fn serve(shared: &Shared, index: usize) {
    let mut last = 0;
    let mut turn = Instant::now();
    while let Some(round) = shared.await_call(index, last) {
        last = round;
        let Some(Job(work)) = shared.join(round) else { continue };
        take_part(shared, index, round, work);
        shared.leave();
        if turn.elapsed() >= TURN {
            thread::yield_now();
            turn = Instant::now();
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if process::id() != self.process {
            // The threads did not come along into this forked child.
            self.handles.drain(..).for_each(mem::forget);
            return;
        }
        self.shared.dismiss();
        for handle in self.handles.drain(..) {
            // A member catches the panics of its work: there is nothing to report.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests;
