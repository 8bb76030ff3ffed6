//! The counts, which all processes of a run add to.

use super::agreement::Count;
use super::settings;
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

const COUNTS: usize = Count::FILE_LEN / 8;
type Counts = [AtomicU64; COUNTS];

/// The mapped file, which a child of fork shares.
static COUNTED: AtomicPtr<Counts> = AtomicPtr::new(null_mut());
/// Where there is no file: nobody will ask.
static UNCOUNTED: Counts = [const { AtomicU64::new(0) }; COUNTS];

/// Maps the file of the run, if it wants a report.
pub(crate) fn open() {
    // Relaxed: the counts are numbers that nothing else hangs on.
    if let Some(path) = settings::tally().filter(|_| COUNTED.load(Ordering::Relaxed).is_null()) {
        match map(path) {
            Some(counts) => COUNTED.store(counts, Ordering::Relaxed),
            None => tell(&format!("{path} cannot be used: this process is not counted")),
        }
    }
}

pub(crate) fn add(count: Count) -> u64 {
    // SAFETY: NULL, or mapped for good by `open`.
    let counts = unsafe { COUNTED.load(Ordering::Relaxed).as_ref() }.unwrap_or(&UNCOUNTED);
    // Relaxed: see `open`.
    counts[count as usize].fetch_add(1, Ordering::Relaxed)
}

/// Tells the user why connections go on without leases, once in a run.
pub(crate) fn tell(problem: &str) {
    if add(Count::Told) == 0 && is_for_people(libc::STDERR_FILENO) {
        eprintln!("portlease run: {problem}");
    }
}

/// Whether a descriptor leads to a terminal, a file or a pipe: a server may have put a connection
/// in the place of standard error.
fn is_for_people(fd: i32) -> bool {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `stat` has room for what the call writes.
    let answer = unsafe { libc::fstat(fd, stat.as_mut_ptr()) };
    // SAFETY: zeroed, so valid whatever was written.
    let kind = unsafe { stat.assume_init() }.st_mode & libc::S_IFMT;
    answer == 0 && [libc::S_IFCHR, libc::S_IFREG, libc::S_IFIFO].contains(&kind)
}

fn map(path: &str) -> Option<*mut Counts> {
    let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
    if file.metadata().ok()?.len() < Count::FILE_LEN as u64 {
        return None;
    }
    // SAFETY: a new mapping of the kernel's choosing; it outlives the descriptor.
    let address = unsafe {
        libc::mmap(
            null_mut(),
            Count::FILE_LEN,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    (address != libc::MAP_FAILED).then_some(address.cast())
}
