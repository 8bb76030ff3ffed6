//! What the kernel's sockets hold, whoever made them: sock_diag(7) over netlink(7).
//!
//! Any user may ask, and sees the sockets of all users of the network namespace.

mod wire;

use super::beyond_low_numbers;
use crate::error::Error;
use crate::ledger::{Destination, Family, FourTuple, PortRange, Protocol};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use wire::{Entry, Request, What};

/// The kernel fills at most 32 KiB at once (`max_recvmsg_len` of `af_netlink.c`).
const BUFFER_LEN: usize = 64 << 10;

/// One answer about one socket.
const ANSWER_LEN: usize = 1 << 10;

/// How often a list is begun anew that changed while it was told.
const ROUNDS_MAX: u32 = 8;

/// A socket that takes what comes to its port, from whomever: a TCP listener, or a UDP socket
/// without a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) protocol: Protocol,
    /// In canonical form; the unspecified address for all of a family.
    pub(crate) address: SocketAddr,
    /// Whether `[::]` leaves IPv4 to others (`IPV6_V6ONLY`, ipv6(7)).
    v6_only: bool,
}

impl Listener {
    /// Whether it has its port on `address` too.
    pub(crate) fn covers(&self, address: IpAddr) -> bool {
        let own = self.address.ip();
        match own.is_unspecified() {
            true if own.is_ipv4() => address.is_ipv4(),
            true => address.is_ipv6() || !self.v6_only,
            false => own == address,
        }
    }
}

/// What a connected socket holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) four_tuple: FourTuple,
    pub(crate) state: SocketState,
    /// The interface that the socket is bound to, by its index; 0 for none.
    pub(crate) interface: u32,
}

/// How long a four-tuple stays held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketState {
    /// Until its socket is closed, and maybe longer.
    Live,
    /// Its socket is closed, and the kernel waits for the peer.
    Orphan,
    /// In TIME_WAIT, until it has been there for [`TIME_WAIT_MS`](super::TIME_WAIT_MS).
    TimeWait {
        /// What is left of it, in milliseconds.
        left_ms: u32,
    },
}

/// What the kernel does with a four-tuple, whoever asked it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KernelHolds {
    /// Nothing: it is free.
    Nothing,
    /// A socket that some process has a descriptor of.
    Socket,
    /// A socket that is closed by all and on its way out.
    Closing,
    /// TIME_WAIT.
    TimeWait,
}

/// The way to ask.
#[derive(Debug)]
pub(crate) struct Diag {
    socket: OwnedFd,
    /// Which socket it is (`SO_COOKIE`, Linux 4.12); 0 where the kernel does not tell.
    cookie: u64,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Diag {
    /// # Errors
    ///
    /// [`Error::Unsupported`] where the kernel has no sock_diag (Linux 3.3, `CONFIG_INET_DIAG`,
    /// `CONFIG_INET_UDP_DIAG`) or a sandbox forbids it, here and in all that follows;
    /// [`Error::Os`] for all else, such as no descriptor left.
    pub(crate) fn open() -> Result<Self, Error> {
        Self::open_with(BUFFER_LEN)
    }

    /// As [`Diag::open`], for [`Diag::find`] alone: it costs less.
    pub(crate) fn open_to_find() -> Result<Self, Error> {
        Self::open_with(ANSWER_LEN)
    }

    fn open_with(buffer_len: usize) -> Result<Self, Error> {
        let (family, kind) = (libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC);
        // SAFETY: takes plain numbers.
        let fd = unsafe { libc::socket(family, kind, libc::NETLINK_SOCK_DIAG) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                // The last two: a sandbox. systemd's answers EAFNOSUPPORT.
                Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EPERM | libc::EACCES) => {
                    unsupported()
                }
                _ => failed(error),
            });
        }
        // SAFETY: `fd` is open, and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { cookie: cookie(&socket), socket, sequence: 0, buffer: vec![0; buffer_len] })
    }

    /// The same, but beyond the numbers that programs give to descriptors of their own choice.
    pub(crate) fn out_of_the_way(mut self) -> Self {
        self.socket = beyond_low_numbers(self.socket);
        self
    }

    /// Itself, if it could be told from another later.
    pub(crate) fn if_known(self) -> Option<Self> {
        (self.cookie != 0).then_some(self)
    }

    /// Itself, if its descriptor is the socket that was opened: somebody may have closed it. What
    /// has its number then is not touched.
    pub(crate) fn if_intact(self) -> Option<Self> {
        if cookie(&self.socket) == self.cookie {
            return Some(self);
        }
        // Not ours to close.
        let _ = self.socket.into_raw_fd();
        None
    }

    /// The number of its descriptor.
    #[cfg(test)]
    pub(crate) fn number(&self) -> i32 {
        self.socket.as_raw_fd()
    }

    /// All that listen on one of `ports`, on any address.
    pub(crate) fn listeners(
        &mut self,
        protocol: Protocol,
        ports: PortRange,
    ) -> Result<Vec<Listener>, Error> {
        let states = match protocol {
            Protocol::Tcp => wire::LISTEN,
            Protocol::Udp => wire::CLOSE,
        };
        let mut all = Vec::new();
        self.dump(protocol, states, ports, |entry| {
            let (address, v6_only) = (entry.source, entry.v6_only);
            all.push(Listener { protocol, address, v6_only });
        })?;
        Ok(all)
    }

    /// Calls `each` with all that connected sockets with one of `ports` hold, those in TIME_WAIT
    /// among them. It may be called twice with the same.
    pub(crate) fn connected(
        &mut self,
        protocol: Protocol,
        ports: PortRange,
        mut each: impl FnMut(Held),
    ) -> Result<(), Error> {
        self.dump(protocol, wire::CONNECTED, ports, |entry| each(held(protocol, &entry)))
    }

    /// What the kernel does with one four-tuple, `None` if nothing: a look into its hash table,
    /// however many sockets there are. `interface` is that of [`Held`].
    pub(crate) fn find(
        &mut self,
        four_tuple: &FourTuple,
        interface: u32,
    ) -> Result<Option<SocketState>, Error> {
        let protocol = four_tuple.destination.protocol();
        self.sequence = self.sequence.wrapping_add(1);
        self.send(&wire::lookup(self.sequence, four_tuple, interface))?;
        loop {
            let len = self.receive()?;
            // None of them where it is the answer to a question that was given up.
            let Some(answer) = wire::answers(&self.buffer[..len], self.sequence).next() else {
                continue;
            };
            return match answer.what {
                What::Entry(entry) => {
                    // Where nobody has it, the kernel finds who listens.
                    let held = held(protocol, &entry);
                    Ok((held.four_tuple == *four_tuple).then_some(held.state))
                }
                What::Done | What::Failed(libc::ENOENT) => Ok(None),
                What::Failed(errno) => Err(refused(errno)),
            };
        }
    }

    fn dump(
        &mut self,
        protocol: Protocol,
        states: u32,
        ports: PortRange,
        mut each: impl FnMut(Entry),
    ) -> Result<(), Error> {
        for family in [Family::V4, Family::V6] {
            let mut rounds = 0;
            let request = Request { family, protocol, states, ports };
            while !self.dump_once(&request, &mut each)? {
                rounds += 1;
                if rounds == ROUNDS_MAX {
                    return Err(refused(libc::EINTR));
                }
            }
        }
        Ok(())
    }

    /// Whether the list was told from its begin to its end without a change in between.
    fn dump_once(
        &mut self,
        request: &Request,
        each: &mut impl FnMut(Entry),
    ) -> Result<bool, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        self.send(&wire::dump(self.sequence, request))?;
        let mut whole = true;
        loop {
            let len = self.receive()?;
            for answer in wire::answers(&self.buffer[..len], self.sequence) {
                whole &= !answer.interrupted;
                match answer.what {
                    What::Entry(entry) => each(entry),
                    What::Done => return Ok(whole),
                    // Nobody who knows the protocol.
                    What::Failed(libc::ENOENT | libc::EOPNOTSUPP) => return Err(unsupported()),
                    What::Failed(errno) => return Err(refused(errno)),
                }
            }
        }
    }

    fn send(&self, request: &[u8]) -> Result<(), Error> {
        // SAFETY: `request` is that long.
        let sent = unsafe {
            libc::send(self.socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0)
        };
        if sent < 0 { Err(failed(io::Error::last_os_error())) } else { Ok(()) }
    }

    /// One datagram into the buffer. The kernel answers before `send` returns, and goes on with a
    /// list as it is read: there is nothing to wait for.
    fn receive(&mut self) -> Result<usize, Error> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        let buffer = &mut self.buffer;
        // SAFETY: `buffer` is that long and ours alone.
        let len = unsafe {
            libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags)
        };
        match usize::try_from(len) {
            Ok(len) if len <= buffer.len() => Ok(len),
            Ok(_) => Err(refused(libc::EMSGSIZE)),
            Err(_) => Err(failed(io::Error::last_os_error())),
        }
    }
}

fn cookie(socket: &OwnedFd) -> u64 {
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_COOKIE);
    // SAFETY: `cookie` and `len` describe a writable place.
    let answer = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut cookie).cast(), &raw mut len)
    };
    if answer == 0 { cookie } else { 0 }
}

fn held(protocol: Protocol, entry: &Entry) -> Held {
    Held {
        four_tuple: FourTuple {
            source: entry.source,
            destination: Destination::new(protocol, entry.destination),
        },
        state: match (entry.is_time_wait, entry.has_holder) {
            (true, _) => SocketState::TimeWait { left_ms: entry.expires_ms },
            (false, true) => SocketState::Live,
            (false, false) => SocketState::Orphan,
        },
        interface: entry.interface,
    }
}

fn unsupported() -> Error {
    Error::Unsupported { capability: "sock_diag that this process may use", since: "3.3" }
}

fn refused(errno: i32) -> Error {
    failed(io::Error::from_raw_os_error(errno))
}

fn failed(error: io::Error) -> Error {
    Error::Os { call: "sock_diag", source_address: None, destination: None, error }
}
