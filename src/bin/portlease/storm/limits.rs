//! What this host and this process allow.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use portlease::PortRange;
use std::fs;
use std::num::NonZero;
use std::thread;

/// Read once, before anything is planned.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Descriptors that one process may hold: the hard `RLIMIT_NOFILE`.
    pub(crate) descriptors: u64,
    /// Processors that this process may use.
    pub(crate) processors: usize,
    /// Files that the whole host may still open.
    pub(crate) files_free: Option<u64>,
    /// `MemAvailable`, in bytes.
    pub(crate) memory_available: Option<u64>,
    /// `net.ipv4.ip_local_port_range`, in the namespace of the moment.
    pub(crate) kernel_ports: PortRange,
}

impl Limits {
    pub(crate) fn read() -> Self {
        Self {
            // A limit that cannot be read is the least that every Linux gives.
            descriptors: getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(_, hard)| hard),
            processors: thread::available_parallelism().map_or(1, NonZero::get),
            files_free: files_free(),
            memory_available: meminfo("MemAvailable"),
            kernel_ports: kernel_ports(),
        }
    }
}

/// Raises this process's soft limit of descriptors to the hard one.
pub(crate) fn raise_descriptors() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}

/// Bytes of kernel slab in use, by everything on the host.
pub(crate) fn slab() -> Option<u64> {
    meminfo("Slab")
}

/// Bytes of memory that a process has resident.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    kilobytes(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmRSS")
}

fn meminfo(field: &str) -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, field)
}

fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// `fs.file-nr`: allocated, unused, limit; see proc_sys_fs(5).
fn files_free() -> Option<u64> {
    let text = fs::read_to_string("/proc/sys/fs/file-nr").ok()?;
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    let (allocated, _, limit) =
        (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(limit.saturating_sub(allocated))
}

fn kernel_ports() -> PortRange {
    let read = || {
        let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
        let mut ports = text.split_whitespace().map(str::parse::<u16>);
        PortRange::new(ports.next()?.ok()?, ports.next()?.ok()?)
    };
    // The kernel's own default; see ip(7).
    read().or_else(|| PortRange::new(32_768, 60_999)).expect("a range that is not empty")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kilobytes_are_found_by_the_whole_name() {
        let text = "SlabX: 9 kB\nSlab:     12 kB\nHuge: 3\n";
        assert_eq!(kilobytes(text, "Slab"), Some(12 * 1024));
        assert_eq!(kilobytes(text, "Huge"), None);
        assert_eq!(kilobytes(text, "Sla"), None);
    }

    #[test]
    fn this_process_is_resident() {
        assert!(resident(std::process::id()).is_some_and(|bytes| bytes > 4096));
        assert_eq!(resident(0), None);
    }
}
