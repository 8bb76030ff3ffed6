//! The file that the workers of a storm share.

use super::plan::Plan;
use super::problem::Problem;
use super::wish::Wish;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

/// Where the workers' ports come from.
pub(crate) enum Share {
    /// Each has a slice.
    Nothing,
    /// A file of the user's.
    Theirs(PathBuf),
    /// A file in a directory of our own, gone with this value.
    Ours(PathBuf),
}

impl Share {
    pub(crate) fn new(wish: &Wish, plan: &Plan) -> Result<Self, Problem> {
        match (&wish.shared, plan.is_shared) {
            (Some(file), true) => Ok(Self::Theirs(file.clone())),
            (None, true) => private_directory().map(Self::Ours).map_err(|error| {
                let place = std::env::temp_dir();
                Problem::failed(
                    format!("no directory of its own in {}: {error}", place.display()),
                    "set TMPDIR, or name a file with --shared",
                )
            }),
            (_, false) => Ok(Self::Nothing),
        }
    }

    pub(crate) fn file(&self) -> Option<PathBuf> {
        match self {
            Self::Nothing => None,
            Self::Theirs(file) => Some(file.clone()),
            Self::Ours(directory) => Some(directory.join("territory")),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Self::Ours(directory) = self {
            // What cannot be removed is a file of some bytes that nobody uses.
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// A new directory that nobody else can enter.
fn private_directory() -> io::Result<PathBuf> {
    let mut number = 0;
    loop {
        let name = format!("portlease-storm-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && number < 100 => number += 1,
            done => return done.map(|()| path),
        }
    }
}
