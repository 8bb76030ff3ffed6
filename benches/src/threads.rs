//! Two threads, on one destination and on two.

use crate::allocator::Ports;
use crate::measure::median;
use crate::random::seed_thread;
use crate::workload::Held;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Pairs a second with one thread and with two.
#[derive(Clone, Debug)]
pub struct Scaling {
    /// Millions a second, one thread; the median over the rounds.
    pub one_thread: f64,
    /// Millions a second, both threads together.
    pub two_threads: f64,
    /// The median of the ratios within a round.
    pub ratio: f64,
}

/// `held` is one half for each thread: of one destination, or of a destination each. In the
/// rounds with one thread the other's half rests in its place, so both see the same occupancy.
pub fn scaling<P: Ports>(mut held: [Held<'_, P>; 2], rounds: usize, slice: Duration) -> Scaling {
    let (mut ones, mut twos, mut ratios) = (vec![], vec![], vec![]);
    for _ in 0..rounds {
        let one = rate(&mut held[..1], slice);
        let two = rate(&mut held, slice);
        ones.push(one);
        twos.push(two);
        ratios.push(two / one);
    }
    Scaling {
        one_thread: median(&mut ones),
        two_threads: median(&mut twos),
        ratio: median(&mut ratios),
    }
}

fn rate<P: Ports>(held: &mut [Held<'_, P>], slice: Duration) -> f64 {
    let start = Barrier::new(held.len() + 1);
    let stop = AtomicBool::new(false);
    let (done, elapsed) = thread::scope(|scope| {
        let workers: Vec<_> = held
            .iter_mut()
            .enumerate()
            .map(|(index, own)| {
                let (start, stop) = (&start, &stop);
                scope.spawn(move || {
                    pin(index);
                    seed_thread(index as u64);
                    own.turn_over();
                    start.wait();
                    let mut done = 0;
                    // Relaxed: a sign to stop, nothing is handed over with it.
                    while !stop.load(Ordering::Relaxed) {
                        own.pairs(256);
                        done += 256;
                    }
                    done
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        thread::sleep(slice);
        stop.store(true, Ordering::Relaxed);
        let elapsed = began.elapsed();
        let join = |worker: thread::ScopedJoinHandle<'_, u64>| worker.join().expect("no panic");
        (workers.into_iter().map(join).sum::<u64>(), elapsed)
    });
    done as f64 / elapsed.as_secs_f64() / 1e6
}

/// Keeps the calling thread on one core, where the system allows it (sched_setaffinity(2)).
fn pin(index: usize) {
    // SAFETY: a bit mask, for which all zeros is the empty set.
    let mut cores: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let bytes = std::mem::size_of_val(&cores);
    // SAFETY: `cores` is as long as the call is told.
    if unsafe { libc::sched_getaffinity(0, bytes, &mut cores) } != 0 {
        return;
    }
    // SAFETY: the index stays below the set's size.
    let allowed = |core: &usize| unsafe { libc::CPU_ISSET(*core, &cores) };
    let allowed: Vec<usize> = (0..libc::CPU_SETSIZE as usize).filter(allowed).collect();
    // SAFETY: as above; the index is one of the set.
    unsafe {
        libc::CPU_ZERO(&mut cores);
        libc::CPU_SET(allowed[index % allowed.len()], &mut cores);
        libc::sched_setaffinity(0, bytes, &cores);
    }
}
