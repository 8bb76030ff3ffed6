//! One function for each socket option that `socket2` lacks or that differs by family.

use socket2::Socket;
use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

/// What the sockets of one source need beyond a port: for addresses that are not local, policy
/// routing, firewalls.
///
/// ```
/// use portlease::{Pool, SourceOptions};
///
/// // An address that is not on any interface, routed by its mark.
/// let options = SourceOptions::new().freebind().mark(7);
/// let pool = Pool::builder().sources("127.0.0.2").options_of([127, 0, 0, 2].into(), options);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceOptions {
    /// Bind to an address that is not there, or not yet; no privilege (`IP_FREEBIND`,
    /// `IPV6_FREEBIND`, ip(7)).
    pub freebind: bool,
    /// Use an address of somebody else, as a transparent proxy does; needs `CAP_NET_ADMIN` or
    /// `CAP_NET_RAW` (`IP_TRANSPARENT`, `IPV6_TRANSPARENT`, ip(7)).
    pub transparent: bool,
    /// The one interface that traffic goes through (`SO_BINDTODEVICE`, socket(7)).
    pub device: Option<String>,
    /// The mark for routing and firewall rules; needs `CAP_NET_ADMIN`, or `CAP_NET_RAW` since
    /// Linux 5.17 (`SO_MARK`, socket(7)).
    pub mark: Option<u32>,
}

impl SourceOptions {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`SourceOptions::freebind`](Self#structfield.freebind).
    pub fn freebind(mut self) -> Self {
        self.freebind = true;
        self
    }

    /// Sets [`SourceOptions::transparent`](Self#structfield.transparent).
    pub fn transparent(mut self) -> Self {
        self.transparent = true;
        self
    }

    /// Sets [`SourceOptions::device`](Self#structfield.device), by its name.
    pub fn device(mut self, name: impl Into<String>) -> Self {
        self.device = Some(name.into());
        self
    }

    /// Sets [`SourceOptions::mark`](Self#structfield.mark).
    pub fn mark(mut self, mark: u32) -> Self {
        self.mark = Some(mark);
        self
    }

    /// Sets the options on a socket that is not bound; the error names the option.
    pub(super) fn apply(
        &self,
        socket: &Socket,
        source: SocketAddr,
    ) -> Result<(), super::CallError> {
        let named = |call| move |error| super::CallError { call, error };
        if self.freebind {
            set_freebind(socket, source).map_err(named("setsockopt(IP_FREEBIND)"))?;
        }
        if self.transparent {
            set_transparent(socket, source).map_err(named("setsockopt(IP_TRANSPARENT)"))?;
        }
        if let Some(device) = &self.device {
            // SO_BINDTODEVICE, socket(7): since 5.7 without privilege on an unbound socket.
            socket
                .bind_device(Some(device.as_bytes()))
                .map_err(named("setsockopt(SO_BINDTODEVICE)"))?;
        }
        if let Some(mark) = self.mark {
            // SO_MARK, socket(7): since 2.6.25.
            socket.set_mark(mark).map_err(named("setsockopt(SO_MARK)"))?;
        }
        Ok(())
    }
}

/// `if_nametoindex(3)`: the index of an interface; `None` where there is none of that name.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: a string that ends with a zero byte, and is only read.
    Some(unsafe { libc::if_nametoindex(name.as_ptr()) }).filter(|index| *index != 0)
}

/// `IP_FREEBIND`, ip(7), 2.4; `IPV6_FREEBIND`, 4.15.
fn set_freebind(socket: &Socket, source: SocketAddr) -> io::Result<()> {
    match source {
        SocketAddr::V4(_) => socket.set_freebind_v4(true),
        SocketAddr::V6(_) => socket.set_freebind_v6(true),
    }
}

/// `IP_TRANSPARENT`, ip(7), 2.6.24; `IPV6_TRANSPARENT`, ipv6(7), 2.6.37.
fn set_transparent(socket: &Socket, source: SocketAddr) -> io::Result<()> {
    match source {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true),
        SocketAddr::V6(_) => set(socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, &1i32),
    }
}

/// `IP_BIND_ADDRESS_NO_PORT`, ip(7), 4.2: `bind` takes the address and leaves the port to
/// `connect`. Of level `SOL_IP` on IPv6 sockets too.
pub(super) fn set_bind_address_no_port(socket: &Socket) -> io::Result<()> {
    set(socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, &1i32)
}

/// `IP_LOCAL_PORT_RANGE`, ip(7), 6.3, of one port. Of level `SOL_IP` on IPv6 sockets too. Silently
/// without effect where the port is outside `ip_local_port_range`.
pub(super) fn set_local_port(socket: &Socket, port: u16) -> io::Result<()> {
    let range = u32::from(port) | u32::from(port) << 16;
    set(socket, libc::SOL_IP, IP_LOCAL_PORT_RANGE, &range)
}

/// `uapi/linux/in.h`.
const IP_LOCAL_PORT_RANGE: i32 = 51;

fn set<T>(socket: &Socket, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, a live plain integer that is only read.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
