//! Time, taken so that noise falls on everyone alike: all candidates of a comparison live at
//! once and take turns in short slices; a figure is the median over the rounds, and a ratio is
//! the median of the ratios within a round.

use crate::random::Random;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One candidate: a name and a way to do it `n` times. Gives how often it had to be repeated
/// because the candidate said "exhausted" while something was free.
pub struct Candidate<'a> {
    /// As it stands in the table.
    pub name: &'static str,
    run: Box<dyn FnMut(u64) -> u64 + 'a>,
}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// How often everyone has a turn.
    pub rounds: usize,
    /// How long a turn is.
    pub slice: Duration,
}

/// What one candidate took.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The candidate's name.
    pub name: &'static str,
    /// Nanoseconds for one, the median over the rounds.
    pub ns: f64,
    /// The fastest round.
    pub ns_min: f64,
    /// How many times the first candidate of the comparison, the median over the rounds.
    pub ratio: f64,
    /// The share of acquires that said "exhausted" while something was free.
    pub false_no_share: f64,
}

impl Effort {
    /// For a table on a quiet machine.
    pub const FULL: Self = Self { rounds: 21, slice: Duration::from_millis(3) };
    /// Where each turn has to fill the caches anew first.
    pub const LONG: Self = Self { rounds: 15, slice: Duration::from_millis(40) };
    /// To see that it runs.
    pub const QUICK: Self = Self { rounds: 3, slice: Duration::from_micros(500) };
}

impl<'a> Candidate<'a> {
    /// `run(n)` does the thing `n` times.
    pub fn new(name: &'static str, run: impl FnMut(u64) -> u64 + 'a) -> Self {
        Self { name, run: Box::new(run) }
    }

    /// Does it `n` times.
    pub fn run(&mut self, n: u64) -> u64 {
        (self.run)(n)
    }

    fn time(&mut self, n: u64) -> (Duration, u64) {
        let start = Instant::now();
        let repeated = self.run(n);
        (start.elapsed(), repeated)
    }

    /// How many fill a slice; found by doubling, which also warms the candidate up.
    fn fit(&mut self, slice: Duration) -> u64 {
        let mut n = 1;
        loop {
            let (elapsed, _) = self.time(n);
            if elapsed * 4 >= slice {
                let fitting = n as f64 * slice.as_secs_f64() / elapsed.as_secs_f64();
                return (fitting as u64).max(1);
            }
            n *= 2;
        }
    }
}

/// Everyone's figures; ratios are to the first.
pub fn compare(candidates: &mut [Candidate<'_>], effort: Effort) -> Vec<Timing> {
    let counts: Vec<u64> = candidates.iter_mut().map(|one| one.fit(effort.slice)).collect();
    let mut ns = vec![Vec::with_capacity(effort.rounds); candidates.len()];
    let mut ratios = ns.clone();
    let mut repeated = vec![0; candidates.len()];
    for _ in 0..effort.rounds {
        for (index, (candidate, &n)) in candidates.iter_mut().zip(&counts).enumerate() {
            let (elapsed, again) = candidate.time(n);
            let each = elapsed.as_nanos() as f64 / n as f64;
            repeated[index] += again;
            ns[index].push(each);
            let first = *ns[0].last().expect("the first has had its turn");
            ratios[index].push(each / first);
        }
    }
    let rounds = effort.rounds as u64;
    (0..candidates.len())
        .map(|index| Timing {
            name: candidates[index].name,
            ns: median(&mut ns[index]),
            ns_min: ns[index][0],
            ratio: median(&mut ratios[index]),
            false_no_share: repeated[index] as f64
                / (counts[index] * rounds + repeated[index]) as f64,
        })
        .collect()
}

/// The unit: one atomic read-modify-write that nobody else wants.
pub fn one_atomic() -> Candidate<'static> {
    let word = AtomicU64::new(0);
    Candidate::new("one atomic read-modify-write", move |n| {
        for _ in 0..n {
            // SeqCst: on x86-64 every ordering is the same instruction; elsewhere the dearest
            // is the honest unit.
            black_box(&word).fetch_add(1, Ordering::SeqCst);
        }
        0
    })
}

/// Another unit: one load that waits for the one before, at random in 256 MiB, which no cache holds.
pub fn one_miss() -> Candidate<'static> {
    const LINE_WORDS: usize = 8;
    const LINES: usize = (256 << 20) / (LINE_WORDS * size_of::<u64>());
    // Sattolo's shuffle: one cycle through all lines.
    let mut random = Random::new(11);
    let mut nexts: Vec<u32> = (0..LINES as u32).collect();
    (1..LINES).rev().for_each(|line| nexts.swap(line, random.below(line as u32) as usize));
    let mut lines = vec![[0u64; LINE_WORDS]; LINES];
    for (line, next) in lines.iter_mut().zip(nexts) {
        line[0] = next.into();
    }
    let mut line = 0;
    Candidate::new("one load that misses every cache", move |n| {
        for _ in 0..n {
            line = lines[line as usize][0];
        }
        black_box(line);
        0
    })
}

/// Nanoseconds that the calling thread was on a core: what it spent waiting for one is left
/// out (clock_gettime(2), `CLOCK_THREAD_CPUTIME_ID`).
pub fn thread_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` lives through the call; the clock exists since Linux 2.6.12.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Sorts, and gives the one in the middle.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Which of its leases a harness releases next: at random, known some steps ahead, so that
/// its own list is in the caches when it gets there. What that list costs is nobody's fault.
pub(crate) struct Upcoming {
    random: Random,
    indices: [u32; AHEAD],
    turn: usize,
}

/// How far ahead.
pub(crate) const AHEAD: usize = 8;

impl Upcoming {
    pub(crate) fn new(mut random: Random, length: usize) -> Self {
        let indices = [(); AHEAD].map(|()| random.below(length.max(1) as u32));
        Self { random, indices, turn: 0 }
    }

    /// An index of `list`, whose length is the one given to [`Upcoming::new`]; draws another.
    #[inline]
    pub(crate) fn next<T>(&mut self, list: &[T]) -> usize {
        let drawn = self.random.below(list.len() as u32);
        prefetch(&list[drawn as usize]);
        self.turn = (self.turn + 1) % AHEAD;
        std::mem::replace(&mut self.indices[self.turn], drawn) as usize
    }
}

/// Towards the caches, where the processor has an instruction for it.
#[inline]
fn prefetch<T>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = std::ptr::from_ref(what).cast::<i8>();
        let last = first.wrapping_add(size_of::<T>().saturating_sub(1));
        // SAFETY: hints about a valid reference; they read nothing that the program can see.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(first);
            _mm_prefetch::<_MM_HINT_T0>(last);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}
