//! The file that all pools of a host name, and the locks on it.
//!
//! The file holds a header and nothing else: all that the pools tell each other is which bytes
//! are locked, and that the kernel keeps and clears. So there is nothing to repair after a crash.

use super::descriptor::Descriptor;
use super::ground::BLOCK_PORTS;
use super::guard::Identity;
use super::locks::{self, Lock, Mode};
use crate::Error;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Whoever writes the header holds this byte.
const HEADER_LOCK: Range<u64> = 0..1;
const MAGIC: &str = "portlease territory ";
const VERSION: u32 = 1;

/// Filesystems whose locks a server keeps: it can lose them and never tell (statfs(2)).
const REMOTE: [(u32, &str); 5] = [
    (0x0000_6969, "NFS"),
    (0x0000_517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x00c3_6400, "Ceph"),
];

/// An open shared file. Its locks go when it is dropped, or when its process ends in any way.
#[derive(Debug)]
pub(super) struct SharedFile {
    path: PathBuf,
    descriptor: Descriptor,
    identity: Identity,
}

impl SharedFile {
    /// Opens the file, and creates it (mode 0600) where it is missing. An empty file is taken as a
    /// new one, so that whoever prepares it can choose owner and mode; a pool needs to read and
    /// write it.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let path = std::path::absolute(path)
            .map_err(|error| failed(path, "cannot be made an absolute path", error))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_CLOEXEC)
            .open(&path)
            .map_err(|error| failed(&path, "cannot be opened for reading and writing", error))?;
        let meta = file.metadata().map_err(|error| failed(&path, "cannot be examined", error))?;
        if !meta.is_file() {
            return Err(unfit(&path, "is not a regular file: name one, or a path that is free"));
        }
        refuse_remote(&path, &file)?;
        settle_header(&path, &file, meta.len())?;
        let identity = (meta.dev(), meta.ino());
        let shared = Self { path, descriptor: Descriptor::new(file)?, identity };
        shared.check()?;
        Ok(shared)
    }

    /// The file's absolute path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode, by which no other file is known as long as this one is open.
    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// `None` in a child of the process that opened the file.
    pub(super) fn fd(&self) -> Option<RawFd> {
        self.descriptor.get().ok().map(|fd| fd.as_raw_fd())
    }

    /// [`Error::Forked`] in a child of the process that opened the file.
    pub(super) fn check_process(&self) -> Result<(), Error> {
        self.descriptor.get().map(drop)
    }

    /// Whether the path still names the file that our locks are on, and our descriptor too.
    pub(super) fn check(&self) -> Result<(), Error> {
        if !self.descriptor.is_intact()? {
            return Err(unfit(&self.path, Descriptor::CLOSED));
        }
        let named = std::fs::metadata(&self.path).map_err(|error| {
            failed(&self.path, "is gone or out of reach: restart all pools that use it", error)
        })?;
        if (named.dev(), named.ino()) != self.identity {
            let problem =
                "was replaced by another file while in use: restart all pools that use it";
            return Err(unfit(&self.path, problem));
        }
        let expected = header().len() as u64;
        if named.len() != expected {
            let problem = format!(
                "has {} bytes instead of {expected}: something else writes to it; \
                 stop that, remove the file and restart all pools that use it",
                named.len()
            );
            return Err(unfit(&self.path, problem));
        }
        Ok(())
    }

    /// Locks all of `bytes`, or none.
    pub(super) fn lock(&self, bytes: Range<u64>, mode: Mode) -> Result<Lock, Error> {
        self.told(locks::lock(self.raw()?, bytes, mode))
    }

    pub(super) fn unlock(&self, bytes: Range<u64>) -> Result<(), Error> {
        self.told(locks::unlock(self.raw()?, bytes))
    }

    /// A lock of somebody else that meets `bytes`, in its full length; not always the first.
    pub(super) fn lock_of_another(&self, bytes: Range<u64>) -> Result<Option<Range<u64>>, Error> {
        self.told(locks::lock_of_another(self.raw()?, bytes))
    }

    /// The parts of `bytes` that others have locked.
    pub(super) fn locks_of_others(&self, bytes: Range<u64>) -> Result<Vec<Range<u64>>, Error> {
        self.told(locks::locks_of_others(self.raw()?, bytes))
    }

    /// Tells all who watch the file that somebody is in want.
    pub(super) fn touch(&self) -> Result<(), Error> {
        // SAFETY: no times are given, which makes them now (futimens(3)).
        match unsafe { libc::futimens(self.raw()?, std::ptr::null()) } {
            -1 => Err(failed(&self.path, "cannot be touched", io::Error::last_os_error())),
            _ => Ok(()),
        }
    }

    pub(super) fn raw(&self) -> Result<i32, Error> {
        self.descriptor.get().map(|descriptor| descriptor.as_raw_fd())
    }

    fn told<T>(&self, answer: io::Result<T>) -> Result<T, Error> {
        answer.map_err(|error| lock_failed(&self.path, error))
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        // Closing alone would leave the locks to a child that a bare clone has made. That the
        // descriptor is no longer ours is no reason to touch a stranger's file.
        if self.check_process().is_ok() && self.check().is_ok() {
            let _ = self.unlock(locks::ALL);
        }
    }
}

fn header() -> String {
    format!("{MAGIC}{VERSION}, blocks of {BLOCK_PORTS} ports\n")
}

/// Writes the header into an empty file; compares it in any other.
fn settle_header(path: &Path, file: &File, len: u64) -> Result<(), Error> {
    if len == 0 {
        let raw = file.as_raw_fd();
        locks::wait_and_lock(raw, HEADER_LOCK).map_err(|error| lock_failed(path, error))?;
        let written = file.metadata().and_then(|meta| match meta.len() {
            0 => file.write_all_at(header().as_bytes(), 0),
            _ => Ok(()),
        });
        locks::unlock(raw, HEADER_LOCK).map_err(|error| lock_failed(path, error))?;
        written.map_err(|error| failed(path, "cannot be written", error))?;
    }
    compare_header(path, file)
}

fn compare_header(path: &Path, file: &File) -> Result<(), Error> {
    let expected = header();
    let mut found = vec![0; expected.len() + 1];
    let mut filled = 0;
    while filled < found.len() {
        match file.read_at(&mut found[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(path, "cannot be read", error)),
        }
    }
    found.truncate(filled);
    if found == expected.as_bytes() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&found);
    let problem = match text.strip_prefix(MAGIC) {
        Some(other) => format!(
            "is of version '{}', this library needs '{}': give each version a file and sources \
             of its own",
            other.trim_end(),
            expected[MAGIC.len()..].trim_end(),
        ),
        None => "is not the shared file of a territory, or was cut short: name another path, or \
                 remove it when no pool uses it"
            .to_owned(),
    };
    Err(unfit(path, problem))
}

fn refuse_remote(path: &Path, file: &File) -> Result<(), Error> {
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `stat` has room for what the call writes.
    if unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(failed(path, "its filesystem cannot be examined", io::Error::last_os_error()));
    }
    // SAFETY: the call succeeded, so it has filled `stat`.
    let kind = unsafe { stat.assume_init() }.f_type as u32;
    match REMOTE.iter().find(|(magic, _)| *magic == kind) {
        None => Ok(()),
        Some((_, name)) => Err(unfit(
            path,
            format!(
                "lies on {name}, where locks can be lost unnoticed: name one on a local \
                 filesystem, such as /run"
            ),
        )),
    }
}

fn lock_failed(path: &Path, error: io::Error) -> Error {
    let problem = match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => {
            "cannot be locked (fcntl F_OFD_SETLK, since Linux 3.15): name one on a local \
             filesystem, such as /run"
        }
        Some(libc::ENOLCK) => "cannot be locked: the kernel is out of memory for locks",
        _ => "cannot be locked",
    };
    failed(path, problem, error)
}

pub(super) fn failed(path: &Path, problem: &str, error: io::Error) -> Error {
    Error::SharedFile { path: path.to_owned(), problem: problem.to_owned(), error: Some(error) }
}

pub(super) fn unfit(path: &Path, problem: impl Into<String>) -> Error {
    Error::SharedFile { path: path.to_owned(), problem: problem.into(), error: None }
}
