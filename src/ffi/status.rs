//! Status and errors

use crate::error::Error;
use std::ffi::{CStr, c_char};
use std::fmt::Write;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What became of a call. Zero is success. Numbers are only ever appended, so treat one that you
/// do not know as a failure.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done; all results are written.
    Ok = 0,
    /// No four-tuple towards the destination is free. Exact, never a guess; the error has the
    /// counts.
    Exhausted = 1,
    /// The pool has no source of the destination's address family.
    NoSource = 2,
    /// A text of sources that cannot be understood; the error has the place.
    BadSources = 3,
    /// A setting that cannot be, such as an address that this host does not have; the error's
    /// message names the way out.
    BadConfig = 4,
    /// The kernel refused a system call; the error has the errno.
    Os = 5,
    /// The kernel of this host is too old for what was asked.
    Unsupported = 6,
    /// A source that is none of the pool's.
    NotOurs = 7,
    /// A four-tuple to be adopted that is leased, resting or excluded already, or whose port is in
    /// a block that another pool on the shared file holds.
    Taken = 8,
    /// The shared file of a territory cannot be used.
    SharedFile = 9,
    /// The lease was released before, is of another pool or destination, or never was. Nothing
    /// has changed.
    StaleLease = 10,
    /// The pool belongs to the parent of this process; make one of your own.
    Forked = 11,
    /// A pointer is NULL that must not be.
    NullArgument = 12,
    /// A socket address that is too short, of a family other than AF_INET and AF_INET6, or
    /// without a host or a port where one is needed.
    BadAddress = 13,
    /// A number that stands for nothing here, such as an unknown protocol.
    BadNumber = 14,
    /// A descriptor that is closed or no socket. It was not touched.
    BadDescriptor = 15,
    /// The socket is bound already, and not to the lease's source. It was not touched.
    BoundElsewhere = 16,
    /// A defect of the library, caught before it could reach the caller. Please report it.
    Panic = 17,
}

impl Status {
    fn text(self) -> &'static CStr {
        match self {
            Self::Ok => c"success",
            Self::Exhausted => c"no four-tuple towards the destination is free",
            Self::NoSource => c"the pool has no source of the destination's address family",
            Self::BadSources => c"a text of sources that cannot be understood",
            Self::BadConfig => c"a setting that cannot be",
            Self::Os => c"the kernel refused a system call",
            Self::Unsupported => c"the kernel of this host is too old",
            Self::NotOurs => c"a source that is none of the pool's",
            Self::Taken => c"the four-tuple is leased, resting or excluded already",
            Self::SharedFile => c"the shared file of a territory cannot be used",
            Self::StaleLease => c"the lease was released before, is not of this pool, or never was",
            Self::Forked => c"the pool belongs to the parent process",
            Self::NullArgument => c"a pointer is NULL that must not be",
            Self::BadAddress => c"a socket address that is no destination or source",
            Self::BadNumber => c"a number that stands for nothing here",
            Self::BadDescriptor => c"a descriptor that is closed or no socket",
            Self::BoundElsewhere => c"the socket is bound to another address or port",
            Self::Panic => c"a defect of the library",
        }
    }

    const ALL: [Self; 18] = [
        Self::Ok,
        Self::Exhausted,
        Self::NoSource,
        Self::BadSources,
        Self::BadConfig,
        Self::Os,
        Self::Unsupported,
        Self::NotOurs,
        Self::Taken,
        Self::SharedFile,
        Self::StaleLease,
        Self::Forked,
        Self::NullArgument,
        Self::BadAddress,
        Self::BadNumber,
        Self::BadDescriptor,
        Self::BoundElsewhere,
        Self::Panic,
    ];
}

/// Why a call failed, with the numbers. Yours: put one on the stack and hand in its address, or
/// NULL where you do not care. It is written when a call fails, and only then.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ErrorInfo {
    /// The status that the call returned.
    pub status: Status,
    /// The errno behind it; 0 where there is none.
    pub os_error: i32,
    /// PORTLEASE_EXHAUSTED: four-tuples towards the destination that are leased.
    pub leased: u64,
    /// PORTLEASE_EXHAUSTED: those that rest after their release.
    pub resting: u64,
    /// PORTLEASE_EXHAUSTED: those that may not be leased.
    pub excluded: u64,
    /// PORTLEASE_EXHAUSTED: milliseconds until the next resting one is free; UINT64_MAX where
    /// none rests.
    pub next_free_ms: u64,
    /// PORTLEASE_BAD_SOURCES: where the bad part begins, in bytes from the start of the text.
    pub offset: u64,
    /// A sentence for the log, in UTF-8 and ended by a zero byte: what was tried, with its
    /// values, and the way out. Its wording may change.
    pub message: [c_char; 208],
}

const _: () = {
    assert!(size_of::<ErrorInfo>() == 256);
    assert!(std::mem::offset_of!(ErrorInfo, os_error) == 4);
    assert!(std::mem::offset_of!(ErrorInfo, leased) == 8);
    assert!(std::mem::offset_of!(ErrorInfo, resting) == 16);
    assert!(std::mem::offset_of!(ErrorInfo, excluded) == 24);
    assert!(std::mem::offset_of!(ErrorInfo, next_free_ms) == 32);
    assert!(std::mem::offset_of!(ErrorInfo, offset) == 40);
    assert!(std::mem::offset_of!(ErrorInfo, message) == 48);
};

/// A few words for a status, in static memory and never NULL; "unknown status" for a number that
/// is none. Safe in a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn portlease_status_str(status: i32) -> *const c_char {
    let known = Status::ALL.into_iter().find(|known| *known as i32 == status);
    known.map_or(c"unknown status", Status::text).as_ptr()
}

/// Why a call of the C face fails.
#[derive(Debug)]
pub(super) enum Failure {
    Of(Error),
    /// The argument that is NULL.
    Null(&'static str),
    Address(String),
    Number {
        argument: &'static str,
        value: i64,
        known: &'static str,
    },
    Descriptor {
        fd: i32,
        errno: i32,
    },
    BoundElsewhere {
        bound: SocketAddr,
        leased: SocketAddr,
    },
    Panic,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Of(error)
    }
}

/// Runs the body of a call: a failure or a panic becomes a status, and `error` is filled.
#[inline]
pub(super) fn answer(error: *mut ErrorInfo, body: impl FnOnce() -> Result<(), Failure>) -> Status {
    // A panic leaves the ledger whole: its locks do not poison, and what a lease is gets decided
    // by single atomic steps.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::Ok,
        Ok(Err(failure)) => failed(error, &failure),
        Err(payload) => {
            // Dropping it could panic again.
            std::mem::forget(payload);
            failed(error, &Failure::Panic)
        }
    }
}

#[cold]
fn failed(error: *mut ErrorInfo, failure: &Failure) -> Status {
    if !error.is_null() {
        let told = catch_unwind(AssertUnwindSafe(|| failure.info()));
        let info = told.unwrap_or_else(|payload| {
            std::mem::forget(payload);
            ErrorInfo::new(failure.status())
        });
        // SAFETY: not NULL, so by the conventions it points to a `portlease_error` that is ours
        // to write during the call.
        unsafe { error.write(info) };
    }
    failure.status()
}

impl Failure {
    fn status(&self) -> Status {
        match self {
            Self::Null(_) => Status::NullArgument,
            Self::Address(_) => Status::BadAddress,
            Self::Number { .. } => Status::BadNumber,
            Self::Descriptor { .. } => Status::BadDescriptor,
            Self::BoundElsewhere { .. } => Status::BoundElsewhere,
            Self::Panic => Status::Panic,
            Self::Of(error) => match error {
                Error::Exhausted(_) => Status::Exhausted,
                Error::NoSource { .. } => Status::NoSource,
                Error::Sources(_) => Status::BadSources,
                Error::Config { .. } => Status::BadConfig,
                Error::Os { .. } => Status::Os,
                Error::Unsupported { .. } => Status::Unsupported,
                Error::NotOurs { .. } => Status::NotOurs,
                Error::Taken { .. } | Error::HeldElsewhere { .. } => Status::Taken,
                Error::SharedFile { .. } => Status::SharedFile,
                Error::StaleLease => Status::StaleLease,
                Error::Forked => Status::Forked,
            },
        }
    }

    fn info(&self) -> ErrorInfo {
        let mut info = ErrorInfo::new(self.status());
        match self {
            Self::Of(error) => {
                info.os_error = error.raw_os_error().unwrap_or(0);
                match error {
                    Error::Exhausted(counts) => {
                        info.leased = counts.leased;
                        info.resting = counts.resting;
                        info.excluded = counts.excluded;
                        info.next_free_ms = counts.next_free_ms.unwrap_or(u64::MAX);
                    }
                    Error::Sources(bad) => info.offset = bad.offset as u64,
                    _ => {}
                }
                info.say(format_args!("{error}"));
            }
            Self::Null(argument) => info.say(format_args!("argument {argument} is NULL")),
            Self::Address(problem) => info.say(format_args!("{problem}")),
            Self::Number { argument, value, known } => {
                info.say(format_args!("argument {argument} is {value}: it takes {known}"));
            }
            Self::Descriptor { fd, errno } => {
                info.os_error = *errno;
                let error = std::io::Error::from_raw_os_error(*errno);
                info.say(format_args!("descriptor {fd} is no open socket: {error}"));
            }
            Self::BoundElsewhere { bound, leased } => info.say(format_args!(
                "the socket is bound to {bound} and the lease is of {leased}: acquire a lease \
                 from that source, or bind a new socket"
            )),
            Self::Panic => info.say(format_args!("a defect of portlease: please report it")),
        }
        info
    }
}

impl ErrorInfo {
    fn new(status: Status) -> Self {
        Self {
            status,
            os_error: 0,
            leased: 0,
            resting: 0,
            excluded: 0,
            next_free_ms: u64::MAX,
            offset: 0,
            message: [0; 208],
        }
    }

    /// Writes the message, cut at the end of a character where it is too long.
    fn say(&mut self, message: std::fmt::Arguments<'_>) {
        let mut rest = Rest { message: &mut self.message, written: 0 };
        // Cutting is no error.
        let _ = rest.write_fmt(message);
    }
}

struct Rest<'a> {
    message: &'a mut [c_char; 208],
    written: usize,
}

impl Write for Rest<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        // One byte stays zero.
        let room = self.message.len() - 1 - self.written;
        let mut len = text.len().min(room);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        for byte in &text.as_bytes()[..len] {
            self.message[self.written] = *byte as c_char;
            self.written += 1;
        }
        if len < text.len() { Err(std::fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(info: &ErrorInfo) -> String {
        let bytes = info.message.iter().map(|byte| *byte as u8);
        String::from_utf8(bytes.take_while(|byte| *byte != 0).collect()).unwrap()
    }

    #[test]
    fn a_panic_is_a_status() {
        let mut info = ErrorInfo::new(Status::Ok);
        assert_eq!(answer(&mut info, || panic!("a test's")), Status::Panic);
        assert_eq!(info.status, Status::Panic);
        assert!(message(&info).contains("defect"));
        assert_eq!(answer(std::ptr::null_mut(), || panic!("a test's")), Status::Panic);
    }

    #[test]
    fn success_leaves_the_error_alone() {
        let mut info = ErrorInfo::new(Status::Taken);
        assert_eq!(answer(&mut info, || Ok(())), Status::Ok);
        assert_eq!(info.status, Status::Taken);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        for pad in 0..4 {
            let mut info = ErrorInfo::new(Status::BadConfig);
            info.say(format_args!("{}{}", "x".repeat(pad), "\u{20ac}".repeat(100)));
            let message = message(&info);
            assert!((204..=207).contains(&message.len()), "{}", message.len());
            assert!(message.chars().skip(pad).all(|c| c == '\u{20ac}'));
            assert_eq!(info.message[207], 0);
        }
    }

    #[test]
    fn each_status_has_its_number_and_its_own_words() {
        let texts: std::collections::HashSet<_> =
            Status::ALL.iter().map(|status| status.text()).collect();
        assert_eq!(texts.len(), Status::ALL.len());
        for (number, status) in (0..).zip(Status::ALL) {
            assert_eq!(status as i32, number);
        }
    }
}
