//! Waiting for another member: spin for a moment, then sleep.

use std::hint;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a member spins before it sleeps: longer than the gap between two regions of a decode step, far
/// shorter than a time slice, so that a busy machine gets the core back.
const SPIN: Duration = Duration::from_micros(40);
const PAUSES_PER_LOOK: u32 = 16;

/// Where one member sleeps. On its own cache lines, because the owner polls it.
#[repr(align(128))]
#[derive(Default)]
pub(super) struct Doorbell {
    asleep: AtomicBool,
    lock: Mutex<()>,
    bell: Condvar,
}

impl Doorbell {
    /// Returns once `ready()` holds. Whoever makes it true calls [`Doorbell::ring`] afterwards.
    pub(super) fn wait(&self, ready: impl Fn() -> bool) {
        if spin(&ready) {
            return;
        }
        let mut guard = self.guard();
        self.asleep.store(true, Ordering::Relaxed);
        // Pairs with the fence in `ring`: either we see the change, or the ringer sees us asleep.
        fence(Ordering::SeqCst);
        while !ready() {
            guard = self.bell.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Wakes the owner if it sleeps; to be called after the change that it waits for.
    pub(super) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) {
            // The owner holds the lock between its last look and its sleep, so the bell cannot ring in between.
            drop(self.guard());
            self.bell.notify_one();
        }
    }

    fn guard(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spin(ready: &impl Fn() -> bool) -> bool {
    if ready() {
        return true;
    }
    let start = Instant::now();
    loop {
        for _ in 0..PAUSES_PER_LOOK {
            hint::spin_loop();
            if ready() {
                return true;
            }
        }
        if start.elapsed() >= SPIN {
            return false;
        }
    }
}
