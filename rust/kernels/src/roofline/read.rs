//! How fast a team reads memory that no cache holds.

mod lines;

use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

use crate::team::{Disjoint, Team};

use lines::Line;

/// The buffer's memory is not to be had.
#[derive(Debug, thiserror::Error)]
#[error("no memory for a buffer of {0} bytes to read from")]
pub struct OutOfMemory(pub usize);

/// Lines that a member reads at a time: 1 MiB, long enough for prefetchers, short enough to share evenly.
const PIECE: usize = (1 << 20) / size_of::<Line>();

/// Passes over the buffer; the best one counts.
const PASSES: usize = 16;

/// The buffer in sizes of the last-level caches: of four, a cache of 32 MiB that keeps what it can still gave a quarter
/// more than memory does.
const TIMES: usize = 16;

/// Most bytes of the buffer.
const MOST: usize = 1 << 30;

/// The last-level cache where the system does not tell.
const CACHE: usize = 64 << 20;

/// Bytes per second that `team` reads, from a buffer of sixteen times the last-level caches, at most 1 GiB.
///
/// # Errors
/// When there is no memory for the buffer.
pub fn read_bandwidth(team: &Team) -> Result<f64, OutOfMemory> {
    bandwidth(team, buffer_bytes(super::cache_bytes()), PASSES)
}

fn buffer_bytes(cache: Option<usize>) -> usize {
    cache.unwrap_or(CACHE).saturating_mul(TIMES).min(MOST)
}

fn bandwidth(team: &Team, bytes: usize, passes: usize) -> Result<f64, OutOfMemory> {
    let count = bytes.div_ceil(size_of::<Line>() * PIECE) * PIECE;
    let bytes = count * size_of::<Line>();
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(count).map_err(|_| OutOfMemory(bytes))?;
    touch(team, &mut buffer, count);
    let read = lines::reader();
    let mut best = f64::INFINITY;
    for _ in 0..passes {
        let start = Instant::now();
        each_piece(team, count, |piece| {
            // SAFETY: `reader` chose a loop that this CPU can run.
            black_box(unsafe { read(&buffer[piece]) });
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(bytes as f64 / best)
}

/// Fills the buffer with `count` lines, each page by a member that reads: nothing is behind a page never written.
fn touch(team: &Team, buffer: &mut Vec<Line>, count: usize) {
    let room = Disjoint::new(&mut buffer.spare_capacity_mut()[..count]);
    each_piece(team, count, |piece| {
        // SAFETY: pieces do not overlap.
        for line in unsafe { room.range(piece) } {
            line.write([1; _]);
        }
    });
    // SAFETY: all lines below `count` were written.
    unsafe { buffer.set_len(count) };
}

fn each_piece(team: &Team, count: usize, work: impl Fn(Range<usize>) + Sync) {
    team.run(|worker| worker.share(0, count, PIECE, &work));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_is_many_times_the_caches_within_bounds() {
        assert_eq!(buffer_bytes(Some(32 << 20)), 512 << 20);
        assert_eq!(buffer_bytes(None), 1 << 30);
        assert_eq!(buffer_bytes(Some(260 << 20)), 1 << 30);
        assert_eq!(buffer_bytes(Some(usize::MAX)), 1 << 30);
    }

    #[test]
    fn every_line_is_there_before_it_is_read() {
        let (team, mut buffer) = (Team::new(2).unwrap(), Vec::with_capacity(2 * PIECE + 5));
        touch(&team, &mut buffer, 2 * PIECE + 5);
        assert_eq!(buffer.len(), 2 * PIECE + 5);
        assert!(buffer.iter().flatten().all(|word| *word == 1));
    }

    #[test]
    fn a_rate_is_a_positive_number_and_no_memory_an_error() {
        let team = Team::new(2).unwrap();
        let rate = bandwidth(&team, 3 << 20, 2).unwrap();
        assert!(rate.is_finite() && rate > 0.0);
        let error = bandwidth(&team, isize::MAX as usize, 1).unwrap_err();
        assert!(error.to_string().starts_with("no memory for a buffer of 92233720"), "{error}");
    }
}
