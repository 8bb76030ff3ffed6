//! Where the files are that processes share: the territory, with those of other runs, and the
//! counts, with those of this one.

use super::agreement::Count;
use nix::unistd::geteuid;
use std::collections::hash_map::RandomState;
use std::fs::{self, DirBuilder, File, Permissions};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The territory of all runs of this user in this network namespace, made if it is not there: two
/// runs at once from the same sources take their ports from one file. It stays: it is a line long.
///
/// A server that gives up its rights opens it when it first connects, as another user: so anybody
/// can. Who locks or spoils it keeps ports from the runs, as who binds them all does.
pub(super) fn territory() -> Result<PathBuf, String> {
    let temporary = std::env::temp_dir().join(format!("portlease-{}", geteuid()));
    let first = match (geteuid().is_root(), std::env::var_os("XDG_RUNTIME_DIR")) {
        (true, _) => Some(PathBuf::from("/run")),
        (false, folder) => folder.map(PathBuf::from),
    };
    if let Some(Ok(path)) = first.map(|folder| territory_in(&folder.join("portlease"))) {
        return Ok(path);
    }
    territory_in(&temporary).map_err(|error| {
        format!("territory in {}: {error}: name a file with --shared", temporary.display())
    })
}

fn territory_in(folder: &Path) -> io::Result<PathBuf> {
    match DirBuilder::new().create(folder) {
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(0o711))?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let found = fs::symlink_metadata(folder)?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(io::Error::other("not a folder that this user alone can change"));
    }
    let namespace = fs::metadata("/proc/self/ns/net")?.ino();
    let path = folder.join(format!("territory-{namespace}"));
    match File::create_new(&path) {
        Ok(file) => file.set_permissions(Permissions::from_mode(0o666))?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    Ok(path)
}

/// A folder of this run's own, removed at the end.
///
/// The counts are written by whatever user a server becomes. The folder does not tell their name,
/// and it cannot be guessed.
pub(super) struct Folder {
    path: PathBuf,
    tally: PathBuf,
}

impl Folder {
    pub(super) fn new() -> Result<Self, String> {
        let base = base();
        let path = base.join(format!("portlease-run-{}-{}", std::process::id(), random()));
        let make = || -> io::Result<Self> {
            DirBuilder::new().mode(0o711).create(&path)?;
            let tally = path.join(format!("tally-{}{}", random(), random()));
            let folder = Self { path: path.clone(), tally };
            fs::set_permissions(&folder.path, Permissions::from_mode(0o711))?;
            let file = File::create_new(&folder.tally)?;
            file.set_permissions(Permissions::from_mode(0o666))?;
            file.set_len(Count::FILE_LEN as u64)?;
            Ok(folder)
        };
        make().map_err(|error| {
            format!("{}: {error}: name a folder that can be written in TMPDIR", path.display())
        })
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
