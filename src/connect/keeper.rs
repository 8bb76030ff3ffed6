//! The thread that looks after a territory in a process that may fall silent, where it is asked for.

use super::grounds::DUTY;
use super::inner::Inner;
use crate::error::Error;
use crate::kernel;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// The least time between two looks, however often others ask.
const PAUSE_MS: u64 = 5;

/// A thread of the pool's own; it ends with the pool.
pub(super) struct Keeper {
    stop: UnixStream,
    thread: ManuallyDrop<JoinHandle<()>>,
    process: u32,
}

impl Keeper {
    pub(super) fn start(inner: &Arc<Inner>) -> Result<Self, Error> {
        let bell = inner.grounds.bell()?;
        let (stop, stopped) = UnixStream::pair().map_err(|error| os("socketpair", error))?;
        let pool = Arc::downgrade(inner);
        let builder = thread::Builder::new().name("portlease".to_owned());
        let thread =
            kernel::without_signals(|| builder.spawn(move || keep(&pool, &bell, &stopped)))
                .map_err(|error| os("pthread_create", error))?;
        Ok(Self { stop, thread: ManuallyDrop::new(thread), process: std::process::id() })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // A child of fork has no such thread, and its parent's is not to hear of it.
        if self.process != std::process::id() {
            return;
        }
        // A byte, for the other end would not see us close while a child has a copy of this one.
        let told = self.stop.write_all(&[0]);
        // SAFETY: taken once, here; `self` goes.
        let thread = unsafe { ManuallyDrop::take(&mut self.thread) };
        // The thread itself may be the last that has the pool, and then ends by itself.
        if told.is_ok() && thread.thread().id() != thread::current().id() {
            let _ = thread.join();
        }
    }
}

fn keep(pool: &Weak<Inner>, bell: &OwnedFd, stopped: &UnixStream) {
    let stopped = stopped.as_fd();
    while let Ok([rings, false]) = kernel::wait_readable([bell.as_fd(), stopped], None) {
        let begin = Instant::now();
        let Some(pool) = pool.upgrade() else { return };
        if rings {
            // What is wrong with the file has revoked all that was granted, so the next acquire
            // asks for more and is told.
            let _ = pool.maintain();
        }
        drop(pool);
        let pause_ms = PAUSE_MS.max(begin.elapsed().as_millis() as u64 * DUTY);
        if !matches!(kernel::wait_readable([stopped], Some(pause_ms)), Ok([false])) {
            return;
        }
    }
}

fn os(call: &'static str, error: io::Error) -> Error {
    Error::Os { call, source_address: None, destination: None, error }
}
