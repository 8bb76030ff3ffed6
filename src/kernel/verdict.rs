//! What a refused call says about the four-tuple.

use super::BindMode;

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

/// The table. Sources: bind(2), connect(2), ip(7), and measurement on Linux 6.18.
pub(crate) fn verdict(call: Call, errno: i32, mode: BindMode) -> Verdict {
    match (call, errno, mode) {
        // Somebody holds the port without sharing: inet_csk_get_port.
        (Call::Bind, libc::EADDRINUSE, BindMode::Explicit) => Verdict::RestPort,
        // The port is not chosen yet, so it cannot be in use; kernels before 4.2 alone say so.
        (Call::Bind, libc::EADDRINUSE, BindMode::Late) => Verdict::TryAnother,
        // The address is not local: __inet_bind without IP_FREEBIND.
        (Call::Bind, libc::EADDRNOTAVAIL, _) => Verdict::RestAddress,
        // A port below ip_unprivileged_port_start: __inet_bind. Also a security module's veto.
        (Call::Bind, libc::EACCES, BindMode::Explicit) => Verdict::RestPort,
        // The four-tuple lives: __inet_check_established.
        (Call::Connect, libc::EADDRNOTAVAIL, BindMode::Explicit) => Verdict::RestTuple,
        // The same, or an explicit socket on any address holds the port; the errno cannot tell,
        // so the narrower scope: a port that is poisoned costs one try for each destination.
        (Call::Connect, libc::EADDRNOTAVAIL, BindMode::Late) => Verdict::RestTuple,
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
        ];
        for (call, errno, mode, expected) in table {
            assert_eq!(verdict(call, errno, mode), expected, "{call:?} {errno} {mode:?}");
        }
    }
}
