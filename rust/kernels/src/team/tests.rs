use std::collections::HashSet;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

/// Runs until every member takes part: each waits in the run for all the others.
fn gather(team: &Team, work: impl Fn(&Worker<'_>) + Sync) {
    let here = AtomicUsize::new(0);
    team.run(|worker| {
        here.fetch_add(1, Ordering::SeqCst);
        while here.load(Ordering::SeqCst) < worker.count {
            thread::yield_now();
        }
        work(worker);
    });
}

#[test]
fn every_item_is_handed_out_once_in_every_run() {
    for threads in 1..=4 {
        let team = Team::new(threads).unwrap();
        assert_eq!(team.threads(), threads);
        for round in 0..300 {
            let items = round % 37;
            let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            let later: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            team.run(|worker| {
                worker.share(0, items, 1 + round % 5, |range| {
                    assert!(!range.is_empty() && range.len() <= 1 + round % 5);
                    counts[range]
                        .iter()
                        .for_each(|count| count.store(1 + count.load(Ordering::Relaxed), Ordering::Relaxed));
                });
                worker.barrier();
                worker.share(1, items, 2, |range| {
                    for i in range {
                        // Reads what another member wrote before the barrier.
                        later[i].store(counts[items - 1 - i].load(Ordering::Relaxed), Ordering::Relaxed);
                    }
                });
            });
            assert!(counts.iter().chain(&later).all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }
}

#[test]
fn every_item_of_a_stream_is_handed_out_once_whoever_is_there() {
    for threads in 1..=4 {
        let team = Team::new(threads).unwrap();
        for round in 0..400 {
            let items = round * 7 % 311;
            let chunk = 1 + round % 6;
            let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            let again: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            team.run(|worker| {
                let slow = worker.index == round % threads;
                for (phase, counts) in [(0, &counts), (15, &again)] {
                    worker.stream(phase, items, chunk, |range| {
                        assert!(!range.is_empty() && range.len() <= chunk);
                        counts[range].iter().for_each(|count| {
                            count.fetch_add(1, Ordering::Relaxed);
                        });
                        if slow {
                            thread::yield_now();
                        }
                    });
                }
                worker.barrier();
                assert!(counts.iter().chain(&again).all(|count| count.load(Ordering::Relaxed) == 1));
            });
        }
    }
}

#[test]
fn members_take_a_stream_in_order_and_the_rest_of_who_is_late() {
    let team = Team::new(2).unwrap();
    let orders = [Mutex::new(Vec::new()), Mutex::new(Vec::new())];
    let robbed = AtomicBool::new(false);
    gather(&team, |worker| {
        worker.stream(0, 100, 1, |range| {
            let mut order = orders[worker.index].lock().unwrap();
            order.push(range.start);
            if worker.index == 1 && order.len() == 1 {
                drop(order);
                while !robbed.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
            } else if worker.index == 0 && order.len() == 51 {
                robbed.store(true, Ordering::SeqCst);
            }
        });
    });
    let [first, second] = orders.map(|order| order.into_inner().unwrap());
    assert_eq!(first[..50], (0..50).collect::<Vec<_>>());
    assert_eq!(second[0], 50);
    // One piece of the other member's was taken, 49 were left: half of them, and the bigger half.
    assert_eq!(first[50], 75);
    assert_eq!(first.len() + second.len(), 100);
}

/// More items than a word has room for pieces of one.
#[test]
fn a_stream_may_be_long() {
    let team = Team::new(2).unwrap();
    let count = AtomicUsize::new(0);
    team.run(|worker| {
        worker.stream(3, 1_000_000, 1, |range| {
            count.fetch_add(range.len(), Ordering::Relaxed);
        });
    });
    assert_eq!(count.into_inner(), 1_000_000);
}

#[test]
fn members_have_their_own_index_and_all_can_take_part() {
    let team = Team::new(4).unwrap();
    let seen = Mutex::new(Vec::new());
    let names = Mutex::new(HashSet::new());
    gather(&team, |worker| {
        assert_eq!(worker.count, 4);
        seen.lock().unwrap().push(worker.index);
        names.lock().unwrap().insert(thread::current().name().unwrap_or("").to_owned());
    });
    let mut seen = seen.into_inner().unwrap();
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3]);
    let names = names.into_inner().unwrap();
    assert!((1..4).all(|index| names.contains(&format!("ostro-{index}"))));
}

#[test]
fn many_barriers_keep_members_in_step() {
    let team = Team::new(3).unwrap();
    let turn = AtomicUsize::new(0);
    gather(&team, |worker| {
        for step in 0..2000 {
            if worker.index == step % 3 {
                assert_eq!(turn.fetch_add(1, Ordering::Relaxed), step);
            }
            worker.barrier();
            assert_eq!(turn.load(Ordering::Relaxed), step + 1);
            worker.barrier();
        }
    });
}

#[test]
fn a_member_that_comes_after_the_first_barrier_misses_the_run() {
    fn idle(_: &Worker<'_>) {}
    let shared = Shared::new(3);
    // SAFETY: one round after the other, and the job is never called.
    unsafe { shared.open(1, Job(&idle)) };
    assert!(shared.join(2).is_none(), "another round");
    assert!(shared.join(1).is_some());
    shared.leave();
    assert!(shared.end().is_none());
    assert!(shared.join(1).is_none(), "the caller is done");
    // SAFETY: as above.
    unsafe { shared.open(2, Job(&idle)) };
    assert!(shared.meet(0), "nobody else has joined");
    assert!(shared.join(2).is_none(), "the barrier has opened");
    assert!(shared.end().is_none());
    let team = Team::new(2).unwrap();
    for _ in 0..2000 {
        let opened = AtomicBool::new(false);
        team.run(|worker| {
            assert!(!opened.load(Ordering::SeqCst), "joined behind the first barrier");
            worker.barrier();
            opened.store(true, Ordering::SeqCst);
        });
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_team_stays_usable() {
    let team = Team::new(3).unwrap();
    for victim in 0..3 {
        let result = catch_unwind(AssertUnwindSafe(|| {
            gather(&team, |worker| {
                if worker.index == victim {
                    panic::resume_unwind(Box::new(format!("member {victim}")));
                }
                worker.barrier();
                unreachable!("the barrier never opens");
            });
        }));
        let message = result.unwrap_err().downcast::<String>().unwrap();
        assert_eq!(*message, format!("member {victim}"));
        let done = AtomicUsize::new(0);
        gather(&team, |worker| {
            worker.barrier();
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 3);
    }
}

#[test]
fn callers_on_several_threads_take_turns() {
    let team = Team::new(2).unwrap();
    let inside = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    team.run(|worker| {
                        if worker.index == 0 {
                            assert!(!inside.swap(true, Ordering::SeqCst));
                        }
                        worker.barrier();
                        if worker.index == 0 {
                            inside.store(false, Ordering::SeqCst);
                        }
                    });
                }
            });
        }
    });
}

#[test]
fn a_run_inside_a_run_is_refused() {
    let team = Team::new(2).unwrap();
    let result = catch_unwind(AssertUnwindSafe(|| team.run(|_| team.run(|_| {}))));
    assert!(result.is_err());
    team.run(|_| {});
}

#[test]
fn round_numbers_may_start_again() {
    let team = Team::new(2).unwrap();
    team.run(|worker| {
        worker.share(15, 5, 1, |_| {});
        worker.stream(14, 5, 1, |_| {});
    });
    *team.round.lock().unwrap() = u32::MAX;
    let count = AtomicUsize::new(0);
    team.run(|worker| {
        worker.share(15, 5, 1, |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        worker.stream(14, 5, 1, |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(*team.round.lock().unwrap(), 1);
    assert_eq!(count.into_inner(), 10);
}

#[test]
fn zero_means_what_the_machine_allows() {
    let allowed = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    assert_eq!(Team::new(0).unwrap().threads(), allowed);
}

#[cfg(unix)]
#[test]
fn a_forked_child_works_alone() {
    let team = Team::new(2).unwrap();
    team.run(|_| {});
    // SAFETY: the child only runs the team and exits, without unwinding or touching locks of other threads.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let count = AtomicUsize::new(0);
        team.run(|worker| {
            worker.share(0, 10, 3, |range| {
                count.fetch_add(range.len(), Ordering::Relaxed);
            });
            worker.barrier();
        });
        drop(team);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(count.into_inner() != 10)) }
    }
    let mut status = -1;
    // SAFETY: waits for the child just made.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
}
