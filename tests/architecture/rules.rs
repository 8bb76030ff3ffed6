//! The plan: who may use whom, and what has its room.

use crate::lexer::{Token, tokens};
use std::collections::{BTreeMap, BTreeSet};

/// Each file's path below `src/`, with its text.
pub(crate) type Sources = BTreeMap<String, String>;

/// A room and the rooms that it may use. One name in a room is written `room::Name`.
const ROOMS: &[(&str, &[&str])] = &[
    // An error names the destination that it is about.
    ("error", &["ledger::Destination"]),
    ("sync", &[]),
    ("ledger", &["error", "sync"]),
    ("kernel", &["error", "sync", "ledger"]),
    // What it keeps open lies where the kernel room keeps such.
    ("territory", &["error", "sync", "ledger", "kernel::beyond_low_numbers"]),
    ("connect", &["error", "sync", "ledger", "kernel", "territory"]),
    ("ffi", &["error", "sync", "ledger", "kernel", "territory", "connect"]),
    // The front door shows the rooms, and the binary is a crate of its own.
    ("lib", &["error", "sync", "ledger", "kernel", "territory", "connect", "ffi"]),
    ("bin", &[]),
];

const MAY_CALL_THE_SYSTEM: &[&str] = &["kernel", "territory"];
/// The C face takes and gives `sockaddr`s.
const MAY_NAME_LIBC: &[&str] = &["kernel", "territory", "ffi"];

/// Clocks, files, threads, sockets, randomness: to the ledger all of it comes from outside.
const NOT_IN_THE_LEDGER: &[&str] = &[
    "libc",
    "socket2",
    "getrandom",
    "std::time",
    "std::thread",
    "std::fs",
    "std::env",
    "std::process",
    "std::os",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    // Keyed by the system's randomness.
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::hash::RandomState",
];

const ATOMICS_AND_LOCKS: &[&str] = &[
    "parking_lot",
    "loom",
    "std::sync::atomic",
    "core::sync::atomic",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::Condvar",
    "std::sync::Once",
    "std::sync::OnceLock",
    "std::sync::LazyLock",
];
/// The binary can't reach the library's `sync.rs`; it has a flag for signals.
const MAY_NAME_ATOMICS: &[&str] = &["sync", "bin"];

/// All that leaves the plan, one line each: file, line, what.
pub(crate) fn violations(sources: &Sources) -> Vec<String> {
    let shown = shown_at_the_front_door(sources);
    let for_tests = modules_for_tests(sources);
    let mut found = Vec::new();
    for (file, text) in sources {
        let module = module_of(file);
        if for_tests.iter().any(|test| module.starts_with(test)) {
            continue;
        }
        let tokens = without_tests(tokens(text));
        let room = module.first().map_or("lib", |first| first.as_str());
        let Some((_, may_use)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            found.push(format!("{file}: no room of that name in the plan: {room}"));
            continue;
        };
        let mut report = |line: usize, what: String| found.push(format!("{file}:{line}: {what}"));
        for path in paths(&tokens) {
            if room != "bin" {
                if let Some((target, name)) = target_of(&path.words, &module, &shown) {
                    let allowed = target == room
                        || may_use.contains(&target.as_str())
                        || may_use.contains(&format!("{target}::{name}").as_str());
                    if !allowed {
                        report(path.line, format!("{room} must not use {target}"));
                    }
                }
            }
            let written = path.words.join("::");
            if path.words[0] == "libc" && path.words.len() > 1 {
                if !MAY_NAME_LIBC.contains(&room) {
                    report(path.line, format!("{room} must not name libc: kernel/ is the place"));
                } else if path.called && !MAY_CALL_THE_SYSTEM.contains(&room) {
                    report(path.line, format!("{room} calls {written}: kernel/ is the place"));
                }
            }
            let names = |forbidden: &&&str| begins_with(&path.words, forbidden);
            if let Some(impure) = NOT_IN_THE_LEDGER.iter().find(names).filter(|_| room == "ledger")
            {
                report(path.line, format!("the ledger is pure: not {impure}"));
            }
            if !MAY_NAME_ATOMICS.contains(&room) {
                if let Some(atomic) = ATOMICS_AND_LOCKS.iter().find(names) {
                    report(path.line, format!("sync.rs is the only door to {atomic}"));
                }
            }
        }
        if let Some(global) = tokens.iter().find(|token| token.text == "static") {
            if room == "ledger" {
                report(global.line, "the ledger is pure: no global".to_owned());
            }
        }
    }
    found
}

/// `["ledger", "sources", "text"]` of `ledger/sources/text.rs`; nothing of `lib.rs`.
fn module_of(file: &str) -> Vec<String> {
    let path = file.strip_suffix(".rs").unwrap_or(file);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    match path {
        "lib" => Vec::new(),
        _ => path.split('/').map(str::to_owned).collect(),
    }
}

/// Names that `lib.rs` shows, and the room of each.
fn shown_at_the_front_door(sources: &Sources) -> BTreeMap<String, String> {
    let lib = tokens(sources.get("lib.rs").map_or("", |text| text));
    let mut shown = BTreeMap::new();
    for (at, token) in lib.iter().enumerate() {
        if token.text != "use" || at == 0 {
            continue;
        }
        let end =
            lib[at..].iter().position(|token| token.text == ";").map_or(lib.len(), |n| at + n);
        for path in paths(&lib[at + 1..end]) {
            let name = path.renamed.as_ref().or(path.words.last()).expect("a path has words");
            shown.insert(name.clone(), path.words[0].clone());
        }
    }
    shown
}

/// Modules behind `#[cfg(test)] mod name;`, and all that are called `tests`.
fn modules_for_tests(sources: &Sources) -> BTreeSet<Vec<String>> {
    let mut modules = BTreeSet::new();
    for (file, text) in sources {
        let module = module_of(file);
        if let Some(at) = module.iter().position(|name| name == "tests") {
            modules.insert(module[..=at].to_vec());
        }
        let all = tokens(text);
        for at in 0..all.len() {
            let Some(item) = item_for_tests(&all[at..]) else { continue };
            if let [.., keyword, name, semicolon] = &all[at..at + item] {
                if keyword.text == "mod" && semicolon.text == ";" {
                    modules.insert([module.as_slice(), std::slice::from_ref(&name.text)].concat());
                }
            }
        }
    }
    modules
}

fn without_tests(all: Vec<Token>) -> Vec<Token> {
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < all.len() {
        match item_for_tests(&all[at..]) {
            Some(len) => at += len,
            None => {
                kept.push(all[at].clone());
                at += 1;
            }
        }
    }
    kept
}

/// The length of an item that begins with `#[cfg(test)]` or alike.
fn item_for_tests(tokens: &[Token]) -> Option<usize> {
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token.text == text);
    if !(is(0, "#") && is(1, "[") && is(2, "cfg")) {
        return None;
    }
    let mut at = block(tokens, 1);
    let negated = |test: usize| test >= 2 && tokens[test - 2].text == "not";
    if !(3..at).any(|word| is(word, "test") && !negated(word)) {
        return None;
    }
    loop {
        match tokens.get(at).map(|token| token.text.as_str()) {
            None => return Some(at),
            Some(";") => return Some(at + 1),
            Some("{") => {
                let end = block(tokens, at);
                // `use a::{b, c};` ends with its semicolon.
                match is(end, ";") {
                    true => at = end,
                    false => return Some(end),
                }
            }
            Some("[" | "(") => at = block(tokens, at),
            Some(_) => at += 1,
        }
    }
}

/// The place behind the bracket that closes the one at `open`.
fn block(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

struct Path {
    words: Vec<String>,
    line: usize,
    renamed: Option<String>,
    /// A bracket follows: a call.
    called: bool,
}

/// All paths of a text, those in `use` groups one by one.
fn paths(tokens: &[Token]) -> Vec<Path> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        at = match tokens[at].is_word() {
            true => path(tokens, at, Vec::new(), &mut found),
            false => at + 1,
        };
    }
    found
}

/// Reads on from a word (or star) after `words`; gives the place behind.
fn path(tokens: &[Token], start: usize, mut words: Vec<String>, found: &mut Vec<Path>) -> usize {
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token.text == text);
    let line = tokens[start].line;
    let mut at = start;
    loop {
        words.push(tokens[at].text.clone());
        at += 1;
        if !is(at, "::") {
            break;
        }
        match tokens.get(at + 1) {
            Some(next) if next.is_word() || next.text == "*" => at += 1,
            Some(next) if next.text == "{" => {
                let end = block(tokens, at + 1);
                at += 2;
                while at < end {
                    at = match tokens[at].is_word() || tokens[at].text == "*" {
                        true => path(tokens, at, words.clone(), found),
                        false => at + 1,
                    };
                }
                return end;
            }
            _ => break,
        }
    }
    let renamed = is(at, "as").then(|| tokens.get(at + 1)).flatten().map(|name| name.text.clone());
    found.push(Path { words, line, called: is(at, "("), renamed: renamed.clone() });
    at + if renamed.is_some() { 2 } else { 0 }
}

/// The room that a path leads to and the name used there, if it leads through the crate's root.
fn target_of(
    words: &[String],
    module: &[String],
    shown: &BTreeMap<String, String>,
) -> Option<(String, String)> {
    let below = match words[0].as_str() {
        "crate" => &words[1..],
        "super" => {
            let supers = words.iter().take_while(|word| *word == "super").count();
            if supers != module.len() {
                return None;
            }
            &words[supers..]
        }
        _ => return None,
    };
    let first = below.first()?;
    match shown.get(first) {
        Some(room) => Some((room.clone(), first.clone())),
        None if ROOMS.iter().any(|(room, _)| room == first) => {
            Some((first.clone(), below.get(1).cloned().unwrap_or_default()))
        }
        None => None,
    }
}

fn begins_with(words: &[String], prefix: &str) -> bool {
    let mut words = words.iter();
    // A lone word, such as the `loom` in `cfg(loom)`, is not a path.
    words.len() > 1 && prefix.split("::").all(|part| words.next().is_some_and(|word| word == part))
}
