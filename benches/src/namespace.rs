//! A network namespace of our own, for benches that fill port ranges: nothing outside sees
//! them, and its settings are ours to change.

use std::fs;
use std::io;
use std::mem::zeroed;

/// Moves this process into a new user and network namespace (namespaces(7)) and brings `lo`
/// up. Only while the process has one thread. Works for an ordinary user where unprivileged
/// user namespaces are allowed.
pub fn enter() -> io::Result<()> {
    // SAFETY: calls without preconditions.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    // SAFETY: no pointer is passed.
    check(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) })?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    raise_loopback()
}

/// Sets a sysctl below `net.ipv4` or `net.core`, named with slashes.
pub fn set(name: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value)
        .map_err(|error| io::Error::new(error.kind(), format!("{path} = {value}: {error}")))
}

/// netdevice(7), `SIOCSIFFLAGS`.
fn raise_loopback() -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    // SAFETY: a plain structure, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: the descriptor is open, and the request lives through the call.
    check(unsafe { libc::ioctl(descriptor, libc::SIOCSIFFLAGS as _, &raw mut request) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
