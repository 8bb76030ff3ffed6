//! What `portlease run` has asked for.

use super::agreement::variable;
use portlease::{Destinations, Error, ModeChoice, Pool, PortRange};
use std::collections::HashMap;
use std::ffi::{CStr, OsStr, c_char, c_int};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

type Variables = HashMap<&'static str, String>;

/// The variables as they were when the program was loaded: it may change its environment, or write
/// over it, as servers do to show a title in `ps`.
static VARIABLES: AtomicPtr<Variables> = AtomicPtr::new(std::ptr::null_mut());

const NAMES: [&str; 9] = [
    variable::SOURCES,
    variable::PORTS,
    variable::MODE,
    variable::REST_MS,
    variable::SHARED,
    variable::ONLY,
    variable::EXCEPT,
    variable::UDP,
    variable::TALLY,
];

/// Runs when the library is loaded.
#[used]
#[unsafe(link_section = ".init_array")]
static REMEMBER: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = remember;

extern "C" fn remember(_: c_int, _: *const *const c_char, mut variables: *const *const c_char) {
    let mut found = Variables::new();
    loop {
        // SAFETY: the loader passes the environment, which ends with NULL.
        let text = unsafe { *variables };
        if text.is_null() {
            break;
        }
        // SAFETY: strings of the environment end with NUL.
        let text = unsafe { CStr::from_ptr(text) }.to_bytes();
        if text.starts_with(variable::PREFIX.as_bytes()) {
            found.extend(NAMES.iter().filter_map(|name| {
                let value = text.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
                Some((*name, OsStr::from_bytes(value).to_string_lossy().into_owned()))
            }));
        }
        // SAFETY: not the last.
        variables = unsafe { variables.add(1) };
    }
    if found.contains_key(variable::SOURCES) {
        // Release: to those who load it; and nobody else is there yet.
        VARIABLES.store(Box::into_raw(Box::new(found)), Ordering::Release);
    }
}

fn variables() -> Option<&'static Variables> {
    // SAFETY: NULL, or leaked by `remember`. Acquire: as there.
    unsafe { VARIABLES.load(Ordering::Acquire).as_ref() }
}

/// Whether there is anything to do at all.
pub(crate) fn are_there() -> bool {
    variables().is_some()
}

/// The file of the counts.
pub(crate) fn tally() -> Option<&'static str> {
    variables()?.get(variable::TALLY).map(String::as_str)
}

/// Which connections are leased for.
pub(crate) struct Wish {
    only: Option<Destinations>,
    except: Destinations,
    pub(crate) udp: bool,
}

impl Wish {
    pub(crate) fn is_exempt(&self, destination: SocketAddr) -> bool {
        self.except.contains(destination)
            || self.only.as_ref().is_some_and(|only| !only.contains(destination))
    }
}

/// The pool and the wish that the variables ask for.
pub(crate) fn read() -> Result<(Pool, Wish), Error> {
    let none = Variables::new();
    let variables = variables().unwrap_or(&none);
    let get = |name| variables.get(name).filter(|value| !value.is_empty());
    let mut builder = Pool::builder().sources(get(variable::SOURCES).cloned().unwrap_or_default());
    if let Some(text) = get(variable::PORTS) {
        builder = builder.ports(ports(text).ok_or_else(|| wrong(variable::PORTS, text))?);
    }
    if let Some(text) = get(variable::REST_MS) {
        let rest_ms = text.parse().map_err(|_| wrong(variable::REST_MS, text))?;
        builder = builder.min_rest(Duration::from_millis(rest_ms));
    }
    if let Some(path) = get(variable::SHARED) {
        builder = builder.shared(path);
    }
    builder = builder.bind_mode(match get(variable::MODE).map(String::as_str) {
        None | Some("by-port") => ModeChoice::ByPort,
        Some("explicit") => ModeChoice::Explicit,
        Some("late") => ModeChoice::Late,
        Some(other) => return Err(wrong(variable::MODE, other)),
    });
    let only = get(variable::ONLY).map(|text| text.parse()).transpose()?;
    let except = get(variable::EXCEPT).map(|text| text.parse()).transpose()?.unwrap_or_default();
    let udp = get(variable::UDP).is_some();
    Ok((builder.build()?, Wish { only, except, udp }))
}

fn ports(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-')?;
    PortRange::new(first.parse().ok()?, last.parse().ok()?)
}

fn wrong(name: &str, value: &str) -> Error {
    Error::Config { problem: format!("{name}: '{value}' is not what `portlease run` sets") }
}
