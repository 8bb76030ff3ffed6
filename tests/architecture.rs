//! Reads the sources and fails where they leave the plan of `ARCHITECTURE.md`: an import against
//! the arrow, a system call outside its rooms, an atomic that is not `sync.rs`'s.
//!
//! Code for tests alone may do as it likes.

#[path = "architecture/lexer.rs"]
mod lexer;
#[path = "architecture/rules.rs"]
mod rules;

use rules::{Sources, violations};
use std::fs;
use std::path::Path;

#[test]
fn the_sources_keep_to_the_plan() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Sources::new();
    read(&root, "", &mut sources);
    assert!(sources.contains_key("lib.rs"), "no sources below {}", root.display());
    let found = violations(&sources);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

fn read(folder: &Path, prefix: &str, sources: &mut Sources) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let entry = entry.expect("a readable entry");
        let name = format!("{prefix}{}", entry.file_name().to_str().expect("names in UTF-8"));
        if entry.path().is_dir() {
            read(&entry.path(), &format!("{name}/"), sources);
        } else if name.ends_with(".rs") {
            sources.insert(name, fs::read_to_string(entry.path()).expect("text"));
        }
    }
}

/// What the checker finds in one file beside a small front door.
fn found_in(file: &str, text: &str) -> Vec<String> {
    let lib = "mod error; mod ledger; mod connect;
        pub use error::{Error, Exhausted}; pub use connect::Pool;
        pub use ledger::{Destination, Source as Origin};";
    violations(&Sources::from([
        ("lib.rs".to_owned(), lib.to_owned()),
        (file.to_owned(), text.to_owned()),
    ]))
}

#[test]
fn what_leaves_the_plan_is_found() {
    for (file, text, what) in [
        // Against the arrow, in every spelling.
        (
            "ledger/mod.rs",
            "use crate::kernel::Clock;",
            "ledger/mod.rs:1: ledger must not use kernel",
        ),
        ("ledger/a.rs", "use crate::{Error, connect::Pool};", "ledger must not use connect"),
        ("ledger/a.rs", "\n\nuse crate::Pool;", "ledger/a.rs:3: ledger must not use connect"),
        ("ledger/a.rs", "fn f() { crate::territory::claim() }", "ledger must not use territory"),
        ("ledger/a.rs", "use super::super::kernel;", "ledger must not use kernel"),
        ("ledger/a/b.rs", "use super::{c, super::super::kernel::x};", "ledger must not use kernel"),
        ("ledger.rs", "use super::kernel;", "ledger must not use kernel"),
        ("ledger/a.rs", "macro_rules! m { () => { $crate::ffi::f() } }", "must not use ffi"),
        ("sync.rs", "use crate::ledger::Ledger;", "sync must not use ledger"),
        ("error.rs", "use crate::ledger::Ledger;", "error must not use ledger"),
        ("kernel/mod.rs", "use crate::connect::Pool;", "kernel must not use connect"),
        ("kernel/mod.rs", "use crate::territory::Block;", "kernel must not use territory"),
        ("territory/mod.rs", "use crate::Pool;", "territory must not use connect"),
        ("connect/mod.rs", "use crate::ffi::x;", "connect must not use ffi"),
        ("lib.rs", "use kernel::*; pub fn f() { libc::getpid(); }", "libc"),
        ("attic/mod.rs", "", "no room of that name"),
        // The ledger is pure.
        ("ledger/a.rs", "use std::time::Instant;", "the ledger is pure: not std::time"),
        ("ledger/a.rs", "use std::{fmt, time::Duration};", "not std::time"),
        ("ledger/a.rs", "fn f() { std::thread::yield_now() }", "not std::thread"),
        ("ledger/a.rs", "use std::net::{IpAddr, TcpStream};", "not std::net::TcpStream"),
        ("ledger/a.rs", "use std::net::UdpSocket;", "not std::net::UdpSocket"),
        ("ledger/a.rs", "use std::fs;", "not std::fs"),
        ("ledger/a.rs", "use socket2::Socket;", "not socket2"),
        ("ledger/a.rs", "use std::collections::HashMap;", "not std::collections::HashMap"),
        ("ledger/a.rs", "static COUNT: u32 = 0;", "no global"),
        // System calls have their rooms.
        ("connect/mod.rs", "fn f() { unsafe { libc::close(1) } }", "libc"),
        ("bin/portlease/main.rs", "use libc::kill;", "libc"),
        ("ffi/mod.rs", "fn f() { unsafe { libc::close(1) } }", "calls libc::close"),
        // One door to atomics and locks.
        ("ledger/a.rs", "use std::sync::atomic::AtomicU64;", "sync.rs is the only door"),
        ("kernel/a.rs", "use core::sync::{Arc, atomic};", "sync.rs is the only door"),
        ("connect/a.rs", "use std::sync::{Arc, Mutex};", "sync.rs is the only door"),
        ("connect/a.rs", "use parking_lot::Mutex;", "sync.rs is the only door"),
        ("ledger/a.rs", "use loom::thread;", "sync.rs is the only door"),
        // Not fooled by what stands around it.
        ("ledger/a.rs", "#[cfg(test)] mod t { }\nuse std::fs;", "ledger/a.rs:2"),
        ("ledger/a.rs", "const S: &str = \"//\"; use std::fs;", "std::fs"),
        ("ledger/a.rs", "const C: char = '\"'; use std::fs;", "std::fs"),
        ("ledger/a.rs", "const C: &str = r#\"\"\"#; use std::fs;", "std::fs"),
        ("ledger/a.rs", "fn f<'a>(x: &'a u8) {} use std::fs;", "std::fs"),
        ("ledger/a.rs", "#[cfg(not(test))] use std::fs;", "std::fs"),
    ] {
        let found = found_in(file, text);
        assert!(found.iter().any(|found| found.contains(what)), "{file}: {text}: {found:?}");
    }
}

#[test]
fn what_keeps_to_the_plan_is_left_alone() {
    for (file, text) in [
        ("ledger/a.rs", "use crate::sync::AtomicU64; use crate::{Error, Exhausted};"),
        ("ledger/a/b.rs", "use super::super::tuple; use super::kernel; use self::libc_like::x;"),
        (
            "ledger/a.rs",
            "// use crate::kernel;\n/* std::fs /* libc::x */ */ const S: &str = \"std::time::\";",
        ),
        ("ledger/a.rs", "#[cfg(test)] mod tests { use std::{fs, thread}; fn f() { if true { } } }"),
        ("ledger/a.rs", "#[cfg(all(test, not(loom)))]\n#[path = \"x\"] use std::fs;"),
        ("ledger/tests.rs", "use std::fs;"),
        ("ledger/tests/model.rs", "use std::fs;"),
        ("ledger/a.rs", "#[cfg(loom)] const NAME: &'static str = \"\";"),
        ("error.rs", "use crate::ledger::Destination;"),
        (
            "kernel/a.rs",
            "use crate::{Destination, Error, ledger::Clock}; fn f() { libc::close(1) }",
        ),
        ("territory/a.rs", "use libc::fcntl; use crate::sync::Mutex; use std::sync::Arc;"),
        ("connect/a.rs", "use crate::{kernel, territory::Territory, ledger::Ledger};"),
        ("ffi/a.rs", "use crate::connect::Pool; use libc::sockaddr;"),
        ("sync.rs", "pub(crate) use parking_lot::Mutex; use std::sync::atomic::AtomicU64;"),
        (
            "bin/portlease/main.rs",
            "use portlease::Pool; use crate::storm; use std::sync::atomic::AtomicBool;",
        ),
    ] {
        let found = found_in(file, text);
        assert!(found.is_empty(), "{file}: {text}: {found:?}");
    }
}

#[test]
fn a_module_for_tests_alone_is_left_alone() {
    let sources = Sources::from([
        ("lib.rs".to_owned(), String::new()),
        ("ledger/mod.rs".to_owned(), "#[cfg(test)] mod model; mod other;".to_owned()),
        ("ledger/model.rs".to_owned(), "use std::time::Instant;".to_owned()),
        ("ledger/model/deep.rs".to_owned(), "use std::time::Instant;".to_owned()),
        ("ledger/other.rs".to_owned(), "use std::time::Instant;".to_owned()),
    ]);
    let found = violations(&sources);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("ledger/other.rs:1:"), "{found:?}");
}
