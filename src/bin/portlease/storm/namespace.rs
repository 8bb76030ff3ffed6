//! A network namespace of the storm's own, where it may set sysctls and disturbs nobody.

use crate::args::RehearsalArgs;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use portlease::PortRange;
use socket2::{Domain, Socket, Type};
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::net::Ipv4Addr;
use std::process::{Command, ExitCode, Stdio};

/// `lo` is the first interface of every namespace.
const LO: u32 = 1;

/// What is set in a namespace of our own, where it is to differ.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// `net.ipv4.ip_local_port_range`.
    pub(crate) kernel_ports: Option<PortRange>,
    /// `net.core.somaxconn`.
    pub(crate) backlog: Option<u64>,
}

/// Tries [`enter`] in a process that can be lost: one that is refused half-way has left the
/// host's network and cannot come back.
pub(crate) fn rehearse(settings: &Settings) -> Result<(), String> {
    let tried = std::env::current_exe().and_then(|program| {
        let mut command = Command::new(program);
        command.arg("storm-rehearsal").stdin(Stdio::null());
        if let Some(ports) = settings.kernel_ports {
            command.args(["--ports", &ports.to_string()]);
        }
        if let Some(backlog) = settings.backlog {
            command.args(["--backlog", &backlog.to_string()]);
        }
        command.output()
    });
    match tried {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// The lost process of [`rehearse`].
pub(crate) fn rehearsal(args: &RehearsalArgs) -> ExitCode {
    match enter(&Settings { kernel_ports: args.ports, backlog: args.backlog }, &[]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Moves this thread, and so all processes that it starts from now on, into a new network
/// namespace with `lo` up, with `addresses` on it and with `settings`. At once where that is allowed, else inside a new user
/// namespace, which takes a process of one thread (unshare(2)).
pub(crate) fn enter(settings: &Settings, addresses: &[Ipv4Addr]) -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    if unshare(CloneFlags::CLONE_NEWNET).is_err() {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
        // user_namespaces(7): an ordinary user gives up setgroups before it maps its group.
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    }
    raise_loopback()?;
    for &address in addresses {
        add_to_loopback(address)?;
    }
    if let Some(ports) = settings.kernel_ports {
        let text = format!("{} {}", ports.first(), ports.last());
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", text)?;
    }
    if let Some(backlog) = settings.backlog {
        fs::write("/proc/sys/net/core/somaxconn", backlog.to_string())?;
    }
    Ok(())
}

/// Sets `lo` up.
fn raise_loopback() -> io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const IFF_UP: u32 = 1;
    // struct ifinfomsg: family and type, index, flags, which flags.
    let mut body = vec![0; 4];
    for word in [LO, IFF_UP, IFF_UP] {
        body.extend(word.to_ne_bytes());
    }
    ask_kernel(RTM_NEWLINK, 0, &body)
}

/// Gives `lo` one more address.
fn add_to_loopback(address: Ipv4Addr) -> io::Result<()> {
    const RTM_NEWADDR: u16 = 20;
    const NLM_F_CREATE_EXCL: u16 = 0x400 | 0x200;
    const AF_INET: u8 = 2;
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    // struct ifaddrmsg: family, length of the prefix, flags, scope, index.
    let mut body = vec![AF_INET, 32, 0, 0];
    body.extend(LO.to_ne_bytes());
    for attribute in [IFA_LOCAL, IFA_ADDRESS] {
        // struct rtattr: length, type, and the value.
        body.extend(8_u16.to_ne_bytes());
        body.extend(attribute.to_ne_bytes());
        body.extend(address.octets());
    }
    ask_kernel(RTM_NEWADDR, NLM_F_CREATE_EXCL, &body)
}

/// One request and its acknowledgement; see netlink(7) and rtnetlink(7).
fn ask_kernel(request: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    const AF_NETLINK: i32 = 16;
    const NLM_F_REQUEST_ACK: u16 = 0x1 | 0x4;
    const HEADER: usize = 16;
    // struct nlmsghdr: length, type, flags, sequence, port.
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(request.to_ne_bytes());
    message.extend((NLM_F_REQUEST_ACK | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);

    let mut socket = Socket::new(Domain::from(AF_NETLINK), Type::RAW, None)?;
    socket.send(&message)?;
    let mut answer = [0; 256];
    let length = socket.read(&mut answer)?;
    // struct nlmsgerr after the header: 0, or an errno below it.
    let error = answer[..length].get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok());
    match error.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
        None => Err(io::Error::from(ErrorKind::UnexpectedEof)),
    }
}
