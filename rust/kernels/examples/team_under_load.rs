//! How much of its speed does a team keep beside busy processes?
//!
//! `cargo run --release -p ostro-kernels --example team_under_load [threads] [rounds]`
//!
//! A "token" streams through 250 MB in 90 runs of two phases each, as a decode step of a small model does. Every
//! round measures it alone, beside one busy process and beside two, for a second each; the last line has medians.
//! The sum over the data is checked after every token.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ostro_kernels::team::Team;

const WORDS: usize = 250_000_000 / 8;
const RUNS: usize = 90;
const PHASES: usize = 2;
/// Words handed out at a time: 64 KiB.
const CHUNK: usize = 64 * 1024 / 8;
const MEASURE: Duration = Duration::from_secs(1);

/// Busy processes, killed when dropped.
struct Busy(Vec<Child>);

impl Busy {
    fn new(count: usize) -> Self {
        let spawn = || Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn();
        Self((0..count).map(|_| spawn().expect("sh is installed")).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 16];
    let chunks = words.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().chain(rest).fold(0, |a, b| a.wrapping_add(*b))
}

fn token(team: &Team, data: &[u64]) -> u64 {
    let total = AtomicU64::new(0);
    let phase_len = data.len() / (RUNS * PHASES);
    for run in data.chunks(phase_len * PHASES) {
        team.run(|worker| {
            for (phase, words) in run.chunks(phase_len).enumerate() {
                worker.share(phase, words.len(), CHUNK, |range| {
                    total.fetch_add(sum(&words[range]), Ordering::Relaxed);
                });
                worker.barrier();
            }
        });
    }
    total.into_inner()
}

/// Tokens per second beside `busy` processes.
fn speed(team: &Team, data: &[u64], want: u64, busy: usize) -> f64 {
    let _busy = Busy::new(busy);
    // The scheduler needs a moment to spread the processes out.
    thread::sleep(Duration::from_millis(100));
    let warm = Instant::now();
    while warm.elapsed() < MEASURE / 5 {
        token(team, data);
    }
    let (start, mut tokens) = (Instant::now(), 0);
    while start.elapsed() < MEASURE {
        assert_eq!(token(team, data), want, "a team lost or repeated work");
        tokens += 1;
    }
    f64::from(tokens) / start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse().expect("a number"));
    let (threads, rounds) = (args.next().unwrap_or(0), args.next().unwrap_or(7));
    let data: Vec<u64> = (0..WORDS as u64).collect();
    let want = sum(&data);
    let team = Team::new(threads).expect("threads");
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let [alone, beside_one, beside_two] = [0, 1, 2].map(|busy| speed(&team, &data, want, busy));
        println!(
            "round {round}: alone {alone:.1}/s, beside one {beside_one:.1}/s ({:.0} %), beside two {beside_two:.1}/s ({:.0} %)",
            100.0 * beside_one / alone,
            100.0 * beside_two / alone,
        );
        one.push(100.0 * beside_one / alone);
        two.push(100.0 * beside_two / alone);
    }
    println!("{} threads: median {:.0} % beside one, {:.0} % beside two", team.threads(), median(one), median(two));
}
