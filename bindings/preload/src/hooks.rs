//! The calls that the library takes part in. Each has the name and the type of the C library's
//! function, and does what its manual page says.

use super::connection::{self, Call, Connection, Holds};
use super::inside::Inside;
use super::leaving::Leaving;
use super::state::{self, State};
use super::{address, real, settings, socket};
use libc::{FILE, c_int, c_uint, sockaddr, socklen_t};
use portlease::Protocol;
use std::net::SocketAddr;

// ---- connecting -------------------------------------------------------------------------------

/// connect(2).
///
/// # Safety
///
/// That of connect(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn connect(
    fd: c_int,
    address: *const sockaddr,
    len: socklen_t,
) -> c_int {
    // SAFETY: the program's own arguments, as it gave them.
    let real = || unsafe { real::connect(fd, address, len) };
    if !settings::are_there() {
        return real();
    }
    // SAFETY: the program's own arguments.
    let Some(destination) = (unsafe { address::read(address, len) }) else { return real() };
    let Some(mut inside) = Inside::enter() else { return real() };
    let wanted = socket::protocol(fd).and_then(|protocol| Some((protocol, state::get()?)));
    match wanted {
        Some((protocol, state)) if protocol == Protocol::Tcp || state.wish.udp => {
            let call = Call { fd, protocol, destination, connect: &real };
            connection::connect(state, &mut inside, &call)
        }
        _ => inside.run(real),
    }
}

/// bind(2): to one of our addresses and any port, the port waits for a destination.
///
/// # Safety
///
/// That of bind(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn bind(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: the program's own arguments, as it gave them.
    let real = || unsafe { real::bind(fd, address, len) };
    if !settings::are_there() {
        return real();
    }
    // SAFETY: the program's own arguments.
    let source = unsafe { address::read(address, len) };
    let any_port = |source: &SocketAddr| source.port() == 0 && !source.ip().is_unspecified();
    let Some(source) = source.filter(any_port) else { return real() };
    let Some(mut inside) = Inside::enter() else { return real() };
    let is_ours = |state: &&State| {
        socket::protocol(fd) == Some(Protocol::Tcp) && state.pool.has_source(source.ip())
    };
    let Some(state) = state::get().filter(is_ours) else { return inside.run(real) };
    let waits = socket::leave_port(fd, true);
    let answer = inside.run(real);
    match socket::cookie(fd).filter(|_| waits && answer == 0) {
        Some(cookie) => connection::keep(state, fd, Connection::new(cookie, Holds::Address)),
        None => drop(socket::leave_port(fd, false)),
    }
    answer
}

/// getsockname(2): who wants to know the port that a socket was bound to gets one now.
///
/// # Safety
///
/// That of getsockname(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getsockname(
    fd: c_int,
    to: *mut sockaddr,
    len: *mut socklen_t,
) -> c_int {
    // SAFETY: the program's own arguments, as it gave them.
    let real = || unsafe { real::getsockname(fd, to, len) };
    let Some(state) = state::present().filter(|state| state.table.has(fd)) else { return real() };
    let Some(mut inside) = Inside::enter() else { return real() };
    if state.is_of_this_process() {
        let waits = |connection: &Connection| {
            matches!(connection.holds, Holds::Address)
                && socket::cookie(fd) == Some(connection.cookie)
                && socket::source(fd).is_some_and(|source| source.port() == 0)
        };
        if state.table.share(fd).is_some_and(|connection| waits(&connection)) {
            socket::take_port(fd);
        }
    }
    inside.run(real)
}

// ---- closing ----------------------------------------------------------------------------------

/// close(2).
///
/// # Safety
///
/// That of close(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn close(fd: c_int) -> c_int {
    // SAFETY: the program's own argument.
    let real = || unsafe { real::close(fd) };
    let Some(state) = state::present() else { return real() };
    if state.own_fds.contains(&fd) {
        return hidden(real);
    }
    closing(state, fd, real)
}

/// fclose(3).
///
/// # Safety
///
/// That of fclose(3).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fclose(file: *mut FILE) -> c_int {
    // SAFETY: the program's own argument.
    let real = || unsafe { real::fclose(file) };
    match state::present() {
        // SAFETY: the program's own argument.
        Some(state) if !file.is_null() => closing(state, unsafe { libc::fileno(file) }, real),
        _ => real(),
    }
}

/// Closes one descriptor. Linux closes it whatever close(2) answers, but for `EBADF`.
fn closing(state: &'static State, fd: c_int, real: impl FnOnce() -> c_int) -> c_int {
    if !state.table.has(fd) {
        return real();
    }
    let Some(mut inside) = Inside::enter() else { return real() };
    let leaving = Leaving::begin(state, fd);
    let answer = inside.run(real);
    if let Some(leaving) = leaving {
        leaving.end(state);
    }
    answer
}

/// Our own descriptor, which the program does not know of: it closes all numbers there are, and this
/// one is not open as far as it is concerned. From the inside it is.
fn hidden(real: impl FnOnce() -> c_int) -> c_int {
    match Inside::enter() {
        Some(mut inside) => inside.fail(libc::EBADF),
        None => real(),
    }
}

/// close_range(2).
///
/// # Safety
///
/// That of close_range(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    // SAFETY: the program's own arguments.
    let real = |first, last| unsafe { real::close_range(first, last, flags) };
    let closes = flags & libc::CLOSE_RANGE_CLOEXEC as c_int == 0 && first <= last;
    let Some(state) = state::present().filter(|_| closes) else { return real(first, last) };
    let Some(mut inside) = Inside::enter() else { return real(first, last) };
    let as_fd = |number: c_uint| c_int::try_from(number).unwrap_or(c_int::MAX);
    let leaving: Vec<_> = state
        .table
        .descriptors(as_fd(first), as_fd(last))
        .into_iter()
        .filter_map(|fd| Some((fd, Leaving::begin(state, fd)?)))
        .collect();
    let own = state.own_fds.iter().filter_map(|&fd| c_uint::try_from(fd).ok());
    let own: Vec<_> = own.filter(|own| (first..=last).contains(own)).collect();
    let answer = inside.run(|| {
        // Around our own descriptors.
        let (mut answer, mut next) = (0, first);
        for own in own {
            if next < own {
                answer = real(next, own - 1).min(answer);
            }
            next = own + 1;
        }
        if next <= last { real(next, last).min(answer) } else { answer }
    });
    for (fd, leaving) in leaving {
        match answer {
            0 => leaving.end(state),
            _ => leaving.cancel(state, fd),
        }
    }
    answer
}

/// closefrom(3).
///
/// # Safety
///
/// That of closefrom(3).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn closefrom(lowest: c_int) {
    // SAFETY: plain numbers.
    let answer = unsafe { close_range(lowest.max(0) as c_uint, c_uint::MAX, 0) };
    if answer != 0 {
        // Linux before 5.9. SAFETY: plain numbers.
        let end = unsafe { libc::sysconf(libc::_SC_OPEN_MAX) }.clamp(0, c_int::MAX.into());
        for fd in lowest.max(0)..end as c_int {
            // SAFETY: a plain number, and what the program asked for.
            unsafe { close(fd) };
        }
    }
}

// ---- more descriptors of one connection -----------------------------------------------------------

/// dup(2).
///
/// # Safety
///
/// That of dup(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn dup(fd: c_int) -> c_int {
    // SAFETY: the program's own argument.
    let real = || unsafe { real::dup(fd) };
    copying(fd, real)
}

/// fcntl(2), of which `F_DUPFD` and `F_DUPFD_CLOEXEC` make descriptors.
///
/// # Safety
///
/// That of fcntl(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
    // SAFETY: the program's own arguments; where it gave no third, fcntl(2) reads none.
    let real = || unsafe { real::fcntl(fd, command, argument) };
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => copying(fd, real),
        _ => real(),
    }
}

/// As [`fcntl`], as programs with large files call it.
///
/// # Safety
///
/// That of fcntl(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fcntl64(fd: c_int, command: c_int, argument: usize) -> c_int {
    // SAFETY: as in `fcntl`.
    let real = || unsafe { real::fcntl64(fd, command, argument) };
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => copying(fd, real),
        _ => real(),
    }
}

fn copying(fd: c_int, real: impl FnOnce() -> c_int) -> c_int {
    let Some(state) = state::present().filter(|state| state.table.has(fd)) else { return real() };
    let Some(mut inside) = Inside::enter() else { return real() };
    let copy = inside.run(real);
    if copy >= 0 && state.is_of_this_process() {
        if let Some(connection) = state.table.share(fd) {
            connection::keep(state, copy, connection);
        }
    }
    copy
}

/// dup2(2).
///
/// # Safety
///
/// That of dup2(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn dup2(old: c_int, new: c_int) -> c_int {
    // SAFETY: the program's own arguments.
    let real = || unsafe { real::dup2(old, new) };
    replacing(old, new, real)
}

/// dup3(2).
///
/// # Safety
///
/// That of dup3(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
    // SAFETY: the program's own arguments.
    let real = || unsafe { real::dup3(old, new, flags) };
    replacing(old, new, real)
}

/// `new` is closed, and becomes another descriptor of what `old` is one of.
fn replacing(old: c_int, new: c_int, real: impl Fn() -> c_int) -> c_int {
    let concerned = |state: &&State| state.table.has(old) || state.table.has(new);
    let Some(state) = state::present().filter(concerned) else { return real() };
    if old == new {
        return real();
    }
    let Some(mut inside) = Inside::enter() else { return real() };
    let leaving = Leaving::begin(state, new);
    let answer = inside.run(real);
    if answer < 0 {
        leaving.into_iter().for_each(|leaving| leaving.cancel(state, new));
        return answer;
    }
    leaving.into_iter().for_each(|leaving| leaving.end(state));
    if state.is_of_this_process() {
        if let Some(connection) = state.table.share(old) {
            connection::keep(state, new, connection);
        }
    }
    answer
}
