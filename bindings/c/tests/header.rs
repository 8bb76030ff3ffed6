//! `include/portlease.h` and `bindings/c/symbols` are what `src/ffi/` says they are.
//!
//! `PORTLEASE_REWRITE=1 cargo test -p portlease-capi` writes them.

use cbindgen::{Builder, Config, DocumentationLength, DocumentationStyle, Language, Style};
use std::fs;
use std::path::{Path, PathBuf};

/// The parts of the header, in the order in which one reads them.
const PARTS: [&str; 8] =
    ["version", "status", "types", "config", "pool", "destination", "lease", "socket"];

/// Rust's name of each type, and C's.
const TYPES: [(&str, &str); 15] = [
    ("Status", "portlease_status"),
    ("ErrorInfo", "portlease_error"),
    ("Protocol", "portlease_protocol"),
    ("Mode", "portlease_mode"),
    ("Privileged", "portlease_privileged"),
    ("Maintenance", "portlease_maintenance"),
    ("Closed", "portlease_closed"),
    ("Call", "portlease_call"),
    ("Verdict", "portlease_verdict"),
    ("Progress", "portlease_progress"),
    ("Lease", "portlease_lease"),
    ("Census", "portlease_census"),
    ("Config", "portlease_config"),
    ("Pool", "portlease_pool"),
    ("Destination", "portlease_destination"),
];

/// C's own types, as C spells them.
const FOREIGN: [(&str, &str); 2] =
    [("sockaddr", "struct sockaddr"), ("sockaddr_storage", "struct sockaddr_storage")];

#[test]
fn the_header_is_what_the_sources_say() {
    same(&root().join("include/portlease.h"), &header());
}

#[test]
fn the_symbols_are_those_of_the_header() {
    let header = header();
    let mut names: Vec<_> = header
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .zip(header.split_inclusive(|c: char| !(c.is_alphanumeric() || c == '_')))
        .filter(|(name, with_end)| name.starts_with("portlease_") && with_end.ends_with('('))
        .map(|(name, _)| name)
        .collect();
    names.sort_unstable();
    names.dedup();
    assert!(names.len() > 20, "{names:?}");
    same(&root().join("bindings/c/symbols"), &(names.join("\n") + "\n"));
}

#[test]
fn the_cpp_face_leaves_no_function_out() {
    let read = |file| fs::read_to_string(root().join(file)).expect("a file of the tree");
    let (symbols, face) = (read("bindings/c/symbols"), read("bindings/cpp/portlease.hpp"));
    let words: Vec<_> = face.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    let left_out: Vec<_> = symbols.lines().filter(|name| !words.contains(name)).collect();
    assert!(left_out.is_empty(), "bindings/cpp/portlease.hpp has no wrapper of {left_out:?}");
}

#[test]
fn the_cmake_package_has_the_version_of_the_library() {
    let file = root().join("bindings/c/cmake/portlease-config-version.cmake");
    let text = fs::read_to_string(file).expect("a file of the tree");
    let version = concat!("set(PACKAGE_VERSION \"", env!("CARGO_PKG_VERSION"), "\")\n");
    assert!(text.starts_with(version), "not {version:?} but {text}");
}

#[test]
fn every_item_of_the_header_has_its_comment() {
    let header = header();
    let mut before = "";
    for line in header.lines() {
        let begins = ["typedef struct", "enum portlease_", "#define PORTLEASE_"]
            .iter()
            .any(|item| line.starts_with(item))
            || (line.contains(" portlease_")
                && line.contains('(')
                && !line.starts_with([' ', '/']));
        if begins && line != "#define PORTLEASE_H" {
            assert!(before.trim().ends_with("*/"), "no comment before: {line}");
        }
        before = line;
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[track_caller]
fn same(file: &Path, wanted: &str) {
    if std::env::var_os("PORTLEASE_REWRITE").is_some() {
        fs::write(file, wanted).expect("a file that can be written");
    }
    let found = fs::read_to_string(file).unwrap_or_default();
    let differs = found.lines().zip(wanted.lines()).position(|(found, wanted)| found != wanted);
    assert!(
        found == wanted,
        "{} differs from src/ffi/ (first in line {}): PORTLEASE_REWRITE=1 cargo test -p \
         portlease-capi writes it",
        file.display(),
        differs.map_or(0, |line| line + 1)
    );
}

fn header() -> String {
    let mut text = String::from("/*\n");
    for line in module_doc("mod") {
        text.push_str(format!(" * {line}").trim_end());
        text.push('\n');
    }
    text.push_str(
        " */\n\n#ifndef PORTLEASE_H\n#define PORTLEASE_H\n\n#include <stdint.h>\n\
         #include <sys/socket.h>\n\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n",
    );
    for part in PARTS {
        let title = module_doc(part).join(" ");
        text.push_str(&format!("\n/* ---- {title} {} */\n\n", "-".repeat(88 - title.len())));
        text.push_str(generated(part).trim());
        text.push('\n');
    }
    text.push_str("\n#ifdef __cplusplus\n}\n#endif\n\n#endif /* PORTLEASE_H */\n");
    text
}

/// What `cbindgen` makes of one file.
fn generated(part: &str) -> String {
    let mut config = Config {
        language: Language::C,
        cpp_compat: true,
        style: Style::Both,
        documentation_style: DocumentationStyle::Doxy,
        documentation_length: DocumentationLength::Full,
        no_includes: true,
        sort_by: cbindgen::SortKey::None,
        line_length: 92,
        tab_width: 4,
        usize_is_size_t: true,
        ..Config::default()
    };
    config.function.sort_by = None;
    config.constant.allow_static_const = false;
    config.enumeration.rename_variants = cbindgen::RenameRule::QualifiedScreamingSnakeCase;
    for (rust, c) in TYPES.iter().chain(&FOREIGN) {
        config.export.rename.insert((*rust).to_owned(), (*c).to_owned());
    }
    // A type that no function names by its name is part of the interface all the same.
    config.export.include = TYPES.iter().map(|(rust, _)| (*rust).to_owned()).collect();
    let bindings = Builder::new()
        .with_config(config)
        .with_src(root().join(format!("src/ffi/{part}.rs")))
        .generate()
        .expect("sources that cbindgen understands");
    let mut text = Vec::new();
    bindings.write(&mut text);
    let text = String::from_utf8(text).expect("a header in UTF-8");
    // One `extern "C"` is around all parts.
    let text = text
        .replace("#ifdef __cplusplus\nextern \"C\" {\n#endif // __cplusplus\n", "")
        .replace("#ifdef __cplusplus\n}  // extern \"C\"\n#endif  // __cplusplus\n", "")
        .replace(
            "#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L\n  : int32_t\n\
             #endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L\n {",
            "#ifdef __cplusplus\n    : int32_t\n#endif\n{",
        )
        .replace("PORTLEASE_STATUS_", "PORTLEASE_");
    tidy(&without_c23(&text))
}

/// An enum is an `int32_t` in all dialects of C, the newest included.
fn without_c23(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        match line {
            "#if __STDC_VERSION__ >= 202311L" => {
                assert_eq!(lines.by_ref().nth(1), Some("#else"));
                kept.push_str(lines.next().expect("a typedef"));
                lines.next();
            }
            "#endif // __cplusplus" => kept.push_str("#endif"),
            _ => kept.push_str(line),
        }
        kept.push('\n');
    }
    kept
}

/// One name for each type, one blank line at most, one line for a comment of one line.
fn tidy(text: &str) -> String {
    let mut kept: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.is_empty() && kept.last().is_some_and(String::is_empty) {
            continue;
        }
        kept.push(match line.starts_with("typedef struct") {
            true => line.to_owned(),
            false => line.replace("struct portlease_", "portlease_"),
        });
        if let [.., open, only, close] = kept.as_slice() {
            if open.trim() == "/**" && close.trim() == "*/" {
                let one = format!("{open} {} */", only.trim().trim_start_matches("* "));
                kept.truncate(kept.len() - 3);
                kept.push(one);
            }
        }
    }
    kept.join("\n")
}

/// The `//!` lines of a file, without the fences that keep its C from being taken for Rust.
fn module_doc(part: &str) -> Vec<String> {
    let path = root().join(format!("src/ffi/{part}.rs"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{part}: {error}"));
    text.lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line).to_owned())
        .filter(|line| !line.starts_with("```"))
        .collect()
}
