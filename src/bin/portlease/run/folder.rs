//! What the processes of one run share, beside each other: the territory and the counts.

use super::agreement::Count;
use nix::unistd::geteuid;
use std::collections::hash_map::RandomState;
use std::fs::{self, DirBuilder, File, Permissions};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A folder of its own, removed at the end.
///
/// A server that gives up its rights opens the files when it first connects, as another user: so
/// they can be written by all who know their names. The folder does not tell those, and they
/// cannot be guessed.
pub(super) struct Folder {
    path: PathBuf,
    territory: PathBuf,
    tally: PathBuf,
}

impl Folder {
    pub(super) fn new() -> Result<Self, String> {
        let base = base();
        let path = base.join(format!("portlease-run-{}-{}", std::process::id(), random()));
        let make = || -> io::Result<Self> {
            DirBuilder::new().mode(0o711).create(&path)?;
            let secret = format!("{}{}", random(), random());
            let (territory, tally) =
                (path.join(format!("territory-{secret}")), path.join(format!("tally-{secret}")));
            let folder = Self { path: path.clone(), territory, tally };
            fs::set_permissions(&folder.path, Permissions::from_mode(0o711))?;
            for (path, len) in [(&folder.territory, 0), (&folder.tally, Count::FILE_LEN)] {
                let file = File::create_new(path)?;
                file.set_permissions(Permissions::from_mode(0o666))?;
                file.set_len(len as u64)?;
            }
            Ok(folder)
        };
        make().map_err(|error| {
            format!("{}: {error}: name a folder that can be written in TMPDIR", path.display())
        })
    }

    pub(super) fn territory(&self) -> &Path {
        &self.territory
    }

    pub(super) fn tally(&self) -> &Path {
        &self.tally
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is a few bytes in a folder for such.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Where files are kept that need not outlive the host, on a filesystem of its own.
fn base() -> PathBuf {
    let of_the_user = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match of_the_user.filter(|path| path.is_dir()) {
        // Nobody else could enter it.
        Some(path) if !geteuid().is_root() => path,
        _ => std::env::temp_dir(),
    }
}

fn random() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}
