//! The ways to open a TCP connection from a source port: the kernel's choice, and by hand.

use crate::random::Random;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::collections::VecDeque;
use std::io;
use std::mem::size_of_val;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// One that opens connections.
pub trait Dialer {
    /// An open connection with what it holds.
    type Connection;

    /// Opens one.
    fn dial(&mut self, to: SocketAddrV4) -> io::Result<Self::Connection>;

    /// Its socket.
    fn socket(connection: &Self::Connection) -> SockRef<'_>;

    /// Closes it as programs do.
    fn close(&mut self, connection: Self::Connection);

    /// Closes it by RST (socket(7), `SO_LINGER`): no TIME_WAIT stays, all is free at once.
    fn abort(&mut self, connection: Self::Connection);

    /// Sockets that were opened in vain, where it is known.
    fn retries(&self) -> Option<u64>;
}

/// Who picks the port, and how it is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `connect` alone.
    Kernel,
    /// `IP_BIND_ADDRESS_NO_PORT`, the source address bound with port 0 (ip(7), Linux 4.2).
    NoPort,
    /// `SO_REUSEADDR`, address and port bound (socket(7)).
    Explicit,
    /// As `NoPort`, with an `IP_LOCAL_PORT_RANGE` of one port (ip(7), Linux 6.3).
    Late,
}

/// A dialer by hand: ports of its own, taken at one end and given back at the other.
pub struct ByHand {
    mode: Mode,
    source: Ipv4Addr,
    free: VecDeque<u16>,
    retries: u64,
}

impl ByHand {
    /// `ports` are for the modes that name one.
    pub fn new(mode: Mode, source: Ipv4Addr, ports: RangeInclusive<u16>) -> Self {
        let mut free: Vec<u16> = ports.collect();
        Random::new(11).shuffle(&mut free);
        Self { mode, source, free: free.into(), retries: 0 }
    }

    fn try_port(&self, port: u16, to: SocketAddrV4) -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        match self.mode {
            Mode::Kernel => {}
            Mode::NoPort => self.bind_late(&socket)?,
            Mode::Explicit => {
                socket.set_reuse_address(true)?;
                socket.bind(&SocketAddrV4::new(self.source, port).into())?;
            }
            Mode::Late => {
                let one_port = u32::from(port) | u32::from(port) << 16;
                set_ip_option(&socket, IP_LOCAL_PORT_RANGE, one_port)?;
                self.bind_late(&socket)?;
            }
        }
        socket.connect(&SockAddr::from(to))?;
        Ok(socket)
    }

    fn bind_late(&self, socket: &Socket) -> io::Result<()> {
        set_ip_option(socket, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        socket.bind(&SocketAddrV4::new(self.source, 0).into())
    }
}

impl Dialer for ByHand {
    type Connection = (Socket, u16);

    fn dial(&mut self, to: SocketAddrV4) -> io::Result<Self::Connection> {
        if matches!(self.mode, Mode::Kernel | Mode::NoPort) {
            return self.try_port(0, to).map(|socket| (socket, 0));
        }
        let mut last = io::Error::from_raw_os_error(libc::EADDRNOTAVAIL);
        for _ in 0..self.free.len() {
            let port = self.free.pop_front().expect("as many as were counted");
            match self.try_port(port, to) {
                Ok(socket) => return Ok((socket, port)),
                Err(error) => last = error,
            }
            self.retries += 1;
            self.free.push_back(port);
        }
        Err(last)
    }

    fn socket(connection: &Self::Connection) -> SockRef<'_> {
        SockRef::from(&connection.0)
    }

    fn close(&mut self, (socket, port): Self::Connection) {
        drop(socket);
        if port != 0 {
            self.free.push_back(port);
        }
    }

    fn abort(&mut self, connection: Self::Connection) {
        reset_on_close(&connection.0);
        self.close(connection);
    }

    fn retries(&self) -> Option<u64> {
        Some(self.retries)
    }
}

fn reset_on_close(socket: &Socket) {
    socket.set_linger(Some(Duration::ZERO)).expect("an open socket has this option");
}

/// ip(7); not in every libc yet.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

fn set_ip_option(socket: &Socket, option: libc::c_int, value: u32) -> io::Result<()> {
    let bytes = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the descriptor is open, and `value` is as long as the call is told.
    let result = unsafe {
        let value = (&raw const value).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_IP, option, value, bytes)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
