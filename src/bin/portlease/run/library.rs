//! Where the library is that is preloaded.

use std::fs;
use std::path::{Path, PathBuf};

const NAME: &str = "libportlease_preload.so";
const BUILD: &str = "build it with `cargo build --release -p portlease-preload`";

/// The library's absolute path: the one that is named, or the first that is found.
pub(super) fn find(named: Option<&Path>) -> Result<PathBuf, String> {
    let found = match named {
        Some(path) => absolute(path)
            .ok_or_else(|| format!("--library {}: there is no such file: {BUILD}", path.display())),
        None => {
            let program = std::env::current_exe().unwrap_or_default();
            let folder = program.parent().unwrap_or(Path::new("/"));
            ["", "../lib", "../lib/portlease"]
                .iter()
                .find_map(|place| absolute(&folder.join(place).join(NAME)))
                .ok_or_else(|| {
                    format!(
                        "there is no {NAME} in {0} or in {0}/../lib: {BUILD}, or name it with \
                         --library",
                        folder.display()
                    )
                })
        }
    }?;
    // ld.so(8): the list of LD_PRELOAD is divided by both, and nothing escapes them.
    if found.as_os_str().as_encoded_bytes().iter().any(|byte| [b' ', b':'].contains(byte)) {
        return Err(format!(
            "{}: a library whose path has a space or a colon cannot be preloaded: move it, or name \
             another one with --library",
            found.display()
        ));
    }
    Ok(found)
}

fn absolute(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok().filter(|path| path.is_file())
}
