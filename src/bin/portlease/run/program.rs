//! What can be seen of a command before it runs: whether the library will be in it.

use nix::unistd::{getegid, geteuid};
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// As execvp(3) finds it.
pub(super) fn find(name: &OsStr) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(name.into());
    }
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

/// What keeps the library from `program`, in words; a program that cannot be examined will say
/// why itself.
pub(super) fn limits(program: &Path) -> Vec<String> {
    let mut limits = Vec::new();
    let Ok(image) = read_start(program) else { return limits };
    if let Some(interpreter) = interpreter_of_script(&image) {
        return match find(interpreter) {
            Some(interpreter) if interpreter != program => self::limits(&interpreter),
            _ => limits,
        };
    }
    let name = program.display();
    let way_out = "its connections are the kernel's choice";
    match Elf::of(&image) {
        Some(elf) if elf.is_foreign() => limits.push(format!(
            "{name} is for another kind of processor than this program and its library: {way_out}"
        )),
        Some(elf) => limits.extend(elf.limits().map(|limit| format!("{name} {limit}: {way_out}"))),
        None => {}
    }
    if let Some(right) = gains_rights(program) {
        limits.push(format!(
            "{name} {right}, so nothing is preloaded into it (ld.so(8), secure-execution mode): \
             {way_out}; run it as root, or without the right"
        ));
    }
    limits
}

/// Enough for the headers of an ELF file, which stand at its start, and their notes.
fn read_start(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut start = Vec::new();
    File::open(path)?.take(64 << 10).read_to_end(&mut start)?;
    Ok(start)
}

/// The program that runs a script: that of its first line, or the one that `env` is to find.
fn interpreter_of_script(image: &[u8]) -> Option<&OsStr> {
    let line = image.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let first = words.next()?;
    let is_option = |word: &&[u8]| word.starts_with(b"-") || word.contains(&b'=');
    match first.ends_with(b"/env") {
        true => words.find(|word| !is_option(word)),
        false => Some(first),
    }
    .map(OsStr::from_bytes)
}

/// The right that a program gains when it starts.
fn gains_rights(program: &Path) -> Option<&'static str> {
    const SETUID: u32 = 0o4000;
    const SETGID: u32 = 0o2000;
    let meta = fs::metadata(program).ok()?;
    if meta.mode() & SETUID != 0 && meta.uid() != geteuid().as_raw() {
        return Some("is setuid");
    }
    if meta.mode() & SETGID != 0 && meta.gid() != getegid().as_raw() {
        return Some("is setgid");
    }
    let mut capabilities = [0; 64];
    let has = rustix::fs::getxattr(program, "security.capability", &mut capabilities);
    (has.is_ok() && !geteuid().is_root()).then_some("has file capabilities")
}

/// The headers of an ELF file of the machine's byte order; elf(5).
struct Elf<'a> {
    image: &'a [u8],
}

impl<'a> Elf<'a> {
    const PT_INTERP: u32 = 3;
    const PT_NOTE: u32 = 4;
    /// The note that Go's linker leaves: its build id.
    const GO_NOTE: &'static [u8] = b"Go\0\0";

    fn of(image: &'a [u8]) -> Option<Self> {
        image.starts_with(b"\x7fELF").then_some(Self { image })
    }

    /// Of another class, or for another machine.
    fn is_foreign(&self) -> bool {
        const CLASS: usize = 4;
        const MACHINE: std::ops::Range<usize> = 18..20;
        let own = read_start(Path::new("/proc/self/exe")).unwrap_or_default();
        self.image.get(CLASS) != own.get(CLASS) || self.image.get(MACHINE) != own.get(MACHINE)
    }

    fn limits(&self) -> impl Iterator<Item = &'static str> {
        let is_go = self.segments(Self::PT_NOTE).any(|note| {
            // Lengths of name and content, a kind, and the name (elf(5), "Notes").
            note.get(12..16) == Some(Self::GO_NOTE)
        });
        let interpreter = self.segments(Self::PT_INTERP).next();
        let is_musl = interpreter.is_some_and(|path| path.starts_with(b"/lib/ld-musl"));
        [
            (is_go, "is a Go program, which calls the kernel without the C library"),
            (
                interpreter.is_none() && !is_go,
                "is linked statically, so nothing is preloaded into it",
            ),
            (is_musl, "uses musl, into which a library for glibc is not loaded"),
        ]
        .into_iter()
        .filter_map(|(is_so, limit)| is_so.then_some(limit))
    }

    /// The contents of all segments of a kind, as far as they stand at the start.
    fn segments(&self, kind: u32) -> impl Iterator<Item = &'a [u8]> {
        let (table, size, count) =
            (self.number(32, 8), self.number(54, 2), self.number(56, 2).unwrap_or(0));
        let (table, size) = (table.unwrap_or(0), size.unwrap_or(0));
        let image = self.image;
        (0..count).filter_map(move |index| {
            let header = image.get(table.checked_add(index * size)?..)?;
            let number = |at: usize, len: usize| number(header, at, len);
            if number(0, 4)? != kind as usize {
                return None;
            }
            let (begin, len) = (number(8, 8)?, number(32, 8)?);
            image.get(begin..begin.checked_add(len)?)
        })
    }

    fn number(&self, at: usize, len: usize) -> Option<usize> {
        number(self.image, at, len)
    }
}

/// A number of `len` bytes, of a 64-bit ELF file in the machine's byte order.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<usize> {
    let mut value = [0; 8];
    let bytes = bytes.get(at..at.checked_add(len)?)?;
    if cfg!(target_endian = "little") {
        value[..len].copy_from_slice(bytes);
    } else {
        value[8 - len..].copy_from_slice(bytes);
    }
    usize::try_from(u64::from_ne_bytes(value)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_run_by_its_first_line_or_by_what_env_finds() {
        for (text, expected) in [
            ("#!/bin/sh\nexit", Some("/bin/sh")),
            ("#! /usr/bin/python3 -u\n", Some("/usr/bin/python3")),
            ("#!/usr/bin/env -S X=1 node --flag\n", Some("node")),
            ("#!/usr/bin/env\n", None),
            ("#!", None),
            ("exit 0\n", None),
        ] {
            let found = interpreter_of_script(text.as_bytes());
            assert_eq!(found, expected.map(OsStr::new), "{text:?}");
        }
    }

    /// An ELF file of this machine with these segments: kind and content.
    fn elf(segments: &[(u32, &[u8])]) -> Vec<u8> {
        let mut image = fs::read("/proc/self/exe").unwrap()[..64].to_vec();
        let content_at = 64 + segments.len() * 56;
        image[32..40].copy_from_slice(&64_u64.to_ne_bytes());
        image[54..56].copy_from_slice(&56_u16.to_ne_bytes());
        image[56..58].copy_from_slice(&(segments.len() as u16).to_ne_bytes());
        let mut content = Vec::new();
        for (kind, bytes) in segments {
            let mut header = [0; 56];
            header[..4].copy_from_slice(&kind.to_ne_bytes());
            header[8..16].copy_from_slice(&((content_at + content.len()) as u64).to_ne_bytes());
            header[32..40].copy_from_slice(&(bytes.len() as u64).to_ne_bytes());
            image.extend(header);
            content.extend_from_slice(bytes);
        }
        [image, content].concat()
    }

    #[test]
    fn what_keeps_the_library_out_is_seen_in_the_headers() {
        let interpreter = (Elf::PT_INTERP, &b"/lib64/ld-linux-x86-64.so.2\0"[..]);
        let musl = (Elf::PT_INTERP, &b"/lib/ld-musl-x86_64.so.1\0"[..]);
        let go = (Elf::PT_NOTE, &b"\x04\0\0\0\x04\0\0\0\x04\0\0\0Go\0\0abcd"[..]);
        let gnu = (Elf::PT_NOTE, &b"\x04\0\0\0\x04\0\0\0\x03\0\0\0GNU\0abcd"[..]);
        for (segments, expected) in [
            (&[interpreter, gnu][..], None),
            (&[gnu], Some("statically")),
            (&[], Some("statically")),
            (&[go], Some("Go")),
            (&[interpreter, go], Some("Go")),
            (&[musl], Some("musl")),
        ] {
            let image = elf(segments);
            let elf = Elf::of(&image).unwrap();
            assert!(!elf.is_foreign());
            let limits: Vec<_> = elf.limits().collect();
            assert_eq!(limits.len(), usize::from(expected.is_some()), "{limits:?}");
            assert!(limits.iter().all(|limit| limit.contains(expected.unwrap())), "{limits:?}");
        }
        let cut_short = &elf(&[interpreter])[..70];
        assert_eq!(Elf::of(cut_short).unwrap().limits().count(), 1);
        assert!(Elf::of(b"#!/bin/sh").is_none());
    }
}
