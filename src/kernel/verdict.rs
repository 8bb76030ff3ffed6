//! What a refused call says about the four-tuple.

use super::BindMode;
use std::io;

/// The call that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// bind(2).
    Bind,
    /// connect(2).
    Connect,
}

/// What to do after a refused call.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The tuple is fine, or nothing is known of it: take another one now.
    TryAnother,
    /// This four-tuple is taken: rest it, take another.
    RestTuple,
    /// This (address, port) is taken for all destinations: rest it, take another.
    RestPort,
    /// The address is not ours: rest it, take another.
    RestAddress,
    /// It is about the destination or the host: the caller's error.
    GiveUp,
}

/// The one table, over bind(2), connect(2) and the kernel's functions:
///
/// | call | errno | told by | what it means |
/// | --- | --- | --- | --- |
/// | bind | `EADDRINUSE` | `inet_csk_get_port`, `udp_lib_get_port` | the (address, port), for all destinations |
/// | bind | `EADDRNOTAVAIL` | `__inet_bind`, `inet6_bind` | the address is none of ours |
/// | bind | `EACCES` | `__inet_bind` | a port below `ip_unprivileged_port_start` |
/// | connect | `EADDRNOTAVAIL` | `__inet_check_established` | explicit: this four-tuple is in use |
/// | connect | `EADDRNOTAVAIL` | `__inet_hash_connect` | late: the same, or an explicit socket has the port |
/// | any | all others | routes, peers, permissions, limits | nothing about the source port |
///
/// In late mode the kernel does not tell a four-tuple in use from a port that an explicit socket
/// keeps from everyone who does not name it. It is judged as the four-tuple alone: resting the port
/// would keep it from destinations towards which it is free, and a pool would be exhausted that is
/// not. A port that is really lost costs one try for each destination and second.
pub(super) fn verdict(call: Call, errno: i32, mode: BindMode) -> Verdict {
    match (call, errno, mode) {
        // Somebody holds the port without sharing.
        (Call::Bind, libc::EADDRINUSE, BindMode::Explicit) => Verdict::RestPort,
        // The port is not chosen yet, so it cannot be in use; kernels before 4.2 alone say so.
        (Call::Bind, libc::EADDRINUSE, BindMode::Late) => Verdict::TryAnother,
        // The address is not local, and the socket has no IP_FREEBIND.
        (Call::Bind, libc::EADDRNOTAVAIL, _) => Verdict::RestAddress,
        // Also a security module's veto.
        (Call::Bind, libc::EACCES, BindMode::Explicit) => Verdict::RestPort,
        (Call::Connect, libc::EADDRNOTAVAIL, _) => Verdict::RestTuple,
        // BSD's name for the same; connect(2) lists it.
        (Call::Connect, libc::EADDRINUSE, _) => Verdict::RestTuple,
        // connect(2): "all port numbers in the ephemeral port range are in use", here of one port.
        (Call::Connect, libc::EAGAIN, BindMode::Late) => Verdict::RestTuple,
        // EINPROGRESS and EINTR are no refusals: the connection is under way. EACCES and EPERM
        // (a firewall, a broadcast address), ENETUNREACH, EHOSTUNREACH, ECONNREFUSED, ETIMEDOUT
        // are about the destination; EINVAL, EAFNOSUPPORT, EMFILE, ENOBUFS about the caller or
        // the host. Another tuple would not help.
        _ => Verdict::GiveUp,
    }
}

/// [`verdict`] of an error as it came.
pub(crate) fn verdict_on(call: Call, error: &io::Error, mode: BindMode) -> Verdict {
    error.raw_os_error().map_or(Verdict::GiveUp, |errno| verdict(call, errno, mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_errno_names_its_scope() {
        use BindMode::{Explicit, Late};
        use Call::{Bind, Connect};
        let table = [
            (Bind, libc::EADDRINUSE, Explicit, Verdict::RestPort),
            (Bind, libc::EADDRINUSE, Late, Verdict::TryAnother),
            (Bind, libc::EADDRNOTAVAIL, Explicit, Verdict::RestAddress),
            (Bind, libc::EADDRNOTAVAIL, Late, Verdict::RestAddress),
            (Bind, libc::EACCES, Explicit, Verdict::RestPort),
            (Bind, libc::EINVAL, Explicit, Verdict::GiveUp),
            (Bind, libc::EPERM, Explicit, Verdict::GiveUp),
            (Bind, libc::ENODEV, Explicit, Verdict::GiveUp),
            (Bind, libc::ENOBUFS, Late, Verdict::GiveUp),
            (Bind, libc::ENOPROTOOPT, Late, Verdict::GiveUp),
            (Bind, libc::EAFNOSUPPORT, Late, Verdict::GiveUp),
            (Connect, libc::EADDRNOTAVAIL, Explicit, Verdict::RestTuple),
            (Connect, libc::EADDRNOTAVAIL, Late, Verdict::RestTuple),
            (Connect, libc::EADDRINUSE, Explicit, Verdict::RestTuple),
            (Connect, libc::EAGAIN, Late, Verdict::RestTuple),
            (Connect, libc::EAGAIN, Explicit, Verdict::GiveUp),
            (Connect, libc::ECONNREFUSED, Explicit, Verdict::GiveUp),
            (Connect, libc::ETIMEDOUT, Late, Verdict::GiveUp),
            (Connect, libc::EPERM, Late, Verdict::GiveUp),
            (Connect, libc::EACCES, Explicit, Verdict::GiveUp),
            (Connect, libc::ENETUNREACH, Explicit, Verdict::GiveUp),
            (Connect, libc::EINPROGRESS, Late, Verdict::GiveUp),
            (Connect, libc::EINTR, Late, Verdict::GiveUp),
            (Connect, libc::EHOSTUNREACH, Late, Verdict::GiveUp),
            (Connect, libc::ECONNRESET, Explicit, Verdict::GiveUp),
            (Connect, libc::EMFILE, Explicit, Verdict::GiveUp),
            (Connect, libc::ENOBUFS, Late, Verdict::GiveUp),
            (Connect, 0, Explicit, Verdict::GiveUp),
        ];
        for (call, errno, mode, expected) in table {
            assert_eq!(verdict(call, errno, mode), expected, "{call:?} {errno} {mode:?}");
        }
    }
}
