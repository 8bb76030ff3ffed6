//! Which descriptor has what: one cell for each, found by its number.

use super::connection::Connection;
use libc::c_int;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

const CELLS: usize = 1024;
/// As many descriptors as a process may have unless the administrator says otherwise
/// (`fs.nr_open`); those beyond have no cell, and no lease.
const CHUNKS: usize = 1024;

/// | value | means |
/// | --- | --- |
/// | NULL | nothing |
/// | [`HELD`] | some thread looks at it, for no longer than a system call takes |
/// | other | a counted reference |
type Cell = AtomicPtr<Connection>;
type Chunk = [Cell; CELLS];

const HELD: *mut Connection = std::ptr::without_provenance_mut(1);

/// Descriptors and what they have. No thread waits for one that is blocked, and a child of fork
/// never looks into its parent's.
pub(crate) struct Table {
    chunks: Box<[AtomicPtr<Chunk>]>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self { chunks: (0..CHUNKS).map(|_| AtomicPtr::new(null_mut())).collect() }
    }

    /// Whether there is a cell for this descriptor.
    pub(crate) fn has_room(fd: c_int) -> bool {
        usize::try_from(fd).is_ok_and(|fd| fd < CELLS * CHUNKS)
    }

    /// Whether the descriptor has something: one or two loads.
    pub(crate) fn has(&self, fd: c_int) -> bool {
        // Relaxed: the descriptor's own thread has put it there; nothing is read through it.
        self.cell(fd).is_some_and(|cell| !cell.load(Ordering::Relaxed).is_null())
    }

    /// Takes out what the descriptor has.
    pub(crate) fn take(&self, fd: c_int) -> Option<Arc<Connection>> {
        let held = hold(self.cell(fd)?)?;
        let_go(self.cell(fd)?, null_mut());
        // SAFETY: the cell's own reference, and it has it no more.
        Some(unsafe { Arc::from_raw(held) })
    }

    /// Another reference to what the descriptor has.
    pub(crate) fn share(&self, fd: c_int) -> Option<Arc<Connection>> {
        let cell = self.cell(fd)?;
        let held = hold(cell)?;
        // SAFETY: the cell's own reference keeps it alive, and nobody takes it out meanwhile.
        let another = unsafe {
            Arc::increment_strong_count(held);
            Arc::from_raw(held)
        };
        let_go(cell, held);
        Some(another)
    }

    /// Gives the descriptor what it is to have; what it had is returned.
    pub(crate) fn put(&self, fd: c_int, new: Arc<Connection>) -> Option<Arc<Connection>> {
        let cell = self.cell_or_new(fd)?;
        let before = hold(cell);
        let_go(cell, Arc::into_raw(new).cast_mut());
        // SAFETY: the cell's own reference, and it has another now.
        before.map(|before| unsafe { Arc::from_raw(before) })
    }

    /// Takes out what `is_gone` says of.
    pub(crate) fn take_if(
        &self,
        fd: c_int,
        is_gone: impl FnOnce(&Connection) -> bool,
    ) -> Option<Arc<Connection>> {
        let cell = self.cell(fd)?;
        let held = hold(cell)?;
        // SAFETY: as in `share`.
        let gone = is_gone(unsafe { &*held });
        let_go(cell, if gone { null_mut() } else { held });
        // SAFETY: as in `take`.
        gone.then(|| unsafe { Arc::from_raw(held) })
    }

    /// The descriptors from `first` to `last` that have something.
    pub(crate) fn descriptors(&self, first: c_int, last: c_int) -> Vec<c_int> {
        let end = (CELLS * CHUNKS - 1) as c_int;
        let (first, last) = (first.clamp(0, end) as usize, last.clamp(0, end) as usize);
        let mut all = Vec::new();
        for chunk in first / CELLS..=last / CELLS {
            // Acquire, as in `cell`.
            if self.chunks[chunk].load(Ordering::Acquire).is_null() {
                continue;
            }
            let cells = first.max(chunk * CELLS)..=last.min(chunk * CELLS + CELLS - 1);
            all.extend(cells.map(|fd| fd as c_int).filter(|fd| self.has(*fd)));
        }
        all
    }

    fn cell(&self, fd: c_int) -> Option<&Cell> {
        let fd = usize::try_from(fd).ok()?;
        // Acquire: the cells are made before the chunk is shown.
        let chunk = self.chunks.get(fd / CELLS)?.load(Ordering::Acquire);
        // SAFETY: NULL, or leaked by `cell_or_new`.
        unsafe { chunk.as_ref() }.map(|chunk| &chunk[fd % CELLS])
    }

    fn cell_or_new(&self, fd: c_int) -> Option<&Cell> {
        if let Some(cell) = self.cell(fd) {
            return Some(cell);
        }
        let place = self.chunks.get(usize::try_from(fd).ok()? / CELLS)?;
        let new = Box::into_raw(Box::new([const { AtomicPtr::new(null_mut()) }; CELLS]));
        // AcqRel: as in `cell`, for both.
        if place.compare_exchange(null_mut(), new, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: made above, and shown to nobody.
            drop(unsafe { Box::from_raw(new) });
        }
        self.cell(fd)
    }
}

/// Keeps all others from the cell; `None` where it has nothing.
fn hold(cell: &Cell) -> Option<*mut Connection> {
    loop {
        // Relaxed: what is found is read after the exchange alone.
        let seen = cell.load(Ordering::Relaxed);
        if seen.is_null() {
            return None;
        }
        // Acquire: what it points to was made by whoever put it there.
        let (from, to) = (Ordering::Acquire, Ordering::Relaxed);
        if seen != HELD && cell.compare_exchange_weak(seen, HELD, from, to).is_ok() {
            return Some(seen);
        }
        std::thread::yield_now();
    }
}

fn let_go(cell: &Cell, value: *mut Connection) {
    // Release: whoever takes the value sees what it points to.
    cell.store(value, Ordering::Release);
}
