//! What this machine can do at best: how fast its threads read memory and multiply.
//!
//! The two roofs of the roofline model (Williams, Waterman, Patterson 2009): decoding reads every weight once per
//! token and meets the first, reading a prompt multiplies every weight with many rows and meets the second.

mod cache;
mod portable;
mod read;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::time::Instant;

pub use cache::cache_bytes;
pub use read::{OutOfMemory, read_bandwidth};

use crate::team::Team;

/// Type of the factors of a multiply-accumulate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// float32 times float32, added to float32.
    F32,
    /// int16 times int16, added to int32.
    Int16,
    /// int8 times int8, added to int32, or to int16 where that is all there is.
    Int8,
}

impl Family {
    /// The name used in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int16 => "int16",
            Self::Int8 => "int8",
        }
    }
}

/// The greatest rate found for one way to multiply, all threads together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// What is multiplied.
    pub family: Family,
    /// Mnemonics and register, for example `vpmaddwd + vpaddd ymm`.
    pub instructions: &'static str,
    /// Multiply-accumulates per second.
    pub macs_per_second: f64,
}

/// One way to multiply: a loop over independent chains of accumulators that stay in registers.
#[derive(Clone, Copy)]
struct Chains {
    family: Family,
    instructions: &'static str,
    /// Multiply-accumulates per step, over all chains.
    macs: u64,
    /// Runs so many steps. The CPU has what the loop is compiled for: see `available`.
    run: unsafe fn(steps: u32),
}

/// Steps handed out at a time: about 20 microseconds of a vector loop.
const STEPS: u32 = 1 << 13;

/// Runs shorter than this, in seconds, do not count. Many short ones find a moment without disturbance.
const SHORTEST: f64 = 0.005;

/// Runs that count; the best one is the peak.
const RUNS: usize = 20;

/// Peak of every way to multiply that this CPU has, on all members of `team`.
#[must_use]
pub fn peaks(team: &Team) -> Vec<Peak> {
    available().iter().map(|chains| peak(team, chains)).collect()
}

/// The loops that this CPU can run, at least one of each family.
fn available() -> Vec<Chains> {
    #[cfg(target_arch = "x86_64")]
    {
        let found = x86::available();
        if !found.is_empty() {
            return found;
        }
    }
    portable::ALL.to_vec()
}

fn peak(team: &Team, chains: &Chains) -> Peak {
    let mut pieces = team.threads();
    let mut best = 0.0_f64;
    let mut counted = 0;
    while counted < RUNS {
        let start = Instant::now();
        team.run(|worker| {
            worker.share(0, pieces, 1, |_| {
                // SAFETY: `available` lists what this CPU can run.
                unsafe { (chains.run)(STEPS) }
            });
        });
        let seconds = start.elapsed().as_secs_f64();
        if seconds < SHORTEST {
            pieces *= 2;
            continue;
        }
        best = best.max((pieces as u64 * u64::from(STEPS) * chains.macs) as f64 / seconds);
        counted += 1;
    }
    Peak { family: chains.family, instructions: chains.instructions, macs_per_second: best }
}

#[cfg(test)]
mod tests;
