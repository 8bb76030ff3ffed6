//! What all processes of a run have leased, and whether something is left.

use super::agreement::Count;
use super::folder::Folder;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_UNLCK, F_WRLCK, flock};
use serde::Serialize;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::path::Path;

/// To be read when all processes have ended.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    processes: u64,
    leased: u64,
    /// Released when the last descriptor was closed.
    closed: u64,
    /// Released later, as nobody had a descriptor any more.
    found: u64,
    /// Released by the kernel, with the process that had them.
    ended: u64,
    /// Whether anybody, another run included, still holds ports of the territory.
    left: bool,
    exhausted: u64,
    exempt: u64,
    bound: u64,
    no_source: u64,
    unleased: u64,
}

impl Report {
    pub(super) fn read(folder: &Folder, territory: &Path) -> Self {
        let bytes = fs::read(folder.tally()).unwrap_or_default();
        let count = |count: Count| {
            let at = count as usize * 8;
            let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_ne_bytes)
        };
        let [leased, closed, found] = [Count::Leased, Count::Closed, Count::Found].map(count);
        Self {
            processes: count(Count::Processes),
            leased,
            closed,
            found,
            ended: leased.saturating_sub(closed + found),
            left: is_held(territory),
            exhausted: count(Count::Exhausted),
            exempt: count(Count::Exempt),
            bound: count(Count::Bound),
            no_source: count(Count::NoSource),
            unleased: count(Count::Unleased),
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), String> {
        let told = serde_json::to_string(self).map_err(|error| error.to_string())?;
        fs::write(path, told + "\n")
            .map_err(|error| format!("--report {}: {error}", path.display()))
    }
}

/// Whether somebody has a lock on the file: ports are held by nothing else.
fn is_held(territory: &Path) -> bool {
    let Ok(file) = OpenOptions::new().read(true).write(true).open(territory) else { return false };
    let mut lock = flock { l_type: F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    let asked = fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock));
    asked.is_err() || lock.l_type != F_UNLCK as i16
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processes, leased, closed, found, ended, .. } = self;
        write!(
            f,
            "{leased} four-tuples leased by {processes} processes: {closed} released when closed, \
             {found} found closed, {ended} ended with their process"
        )?;
        f.write_str(match self.left {
            true => "; ports of the territory are still held, by this run or another",
            false => "; none is left",
        })?;
        for (count, what) in [
            (self.exhausted, "refused, as no four-tuple was free"),
            (self.exempt, "left alone as --only and --except ask"),
            (self.bound, "left alone, as the program has bound them itself"),
            (self.no_source, "left alone, as no source is of their family"),
            (self.unleased, "left to the kernel, as no lease could be had"),
        ] {
            if count > 0 {
                write!(f, "; {count} connections {what}")?;
            }
        }
        Ok(())
    }
}
