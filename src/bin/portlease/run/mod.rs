//! `portlease run`: a program that knows nothing of leases connects under them.
//!
//! It finds the library ([`library`]), says what that cannot reach ([`program`]), prepares the
//! files that all processes share ([`folder`]), starts the command and waits for all that it has
//! started ([`tree`]), and tells what was leased ([`report`]).

mod agreement;
mod folder;
mod library;
mod program;
mod report;
mod tree;

use crate::args::RunArgs;
use agreement::variable;
use folder::Folder;
use portlease::Pool;
use report::Report;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// It cannot be run so.
const IMPOSSIBLE: u8 = 2;
/// As a shell says that a command cannot be executed, or is not there.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

pub(crate) fn run(args: &RunArgs) -> ExitCode {
    prepare_and_run(args).unwrap_or_else(|problem| {
        tell(problem);
        ExitCode::from(IMPOSSIBLE)
    })
}

fn prepare_and_run(args: &RunArgs) -> Result<ExitCode, String> {
    let library = library::find(args.library.as_deref())?;
    let program = program::find(&args.command[0]);
    for limit in program.iter().flat_map(|program| program::limits(program)) {
        tell(format!("warning: {limit}"));
    }
    let territory = match &args.shared {
        None => folder::territory()?,
        Some(path) => std::path::absolute(path)
            .map_err(|error| format!("--shared {}: {error}", path.display()))?,
    };
    let wants_report = args.verbose || args.report.is_some();
    let folder = if wants_report { Some(Folder::new()?) } else { None };
    try_out(args, &territory)?;
    if args.verbose {
        let (library, territory) = (library.display(), territory.display());
        tell(format!("preloading {library}; the territory is {territory}"));
    }
    let mut command = Command::new(&args.command[0]);
    command.args(&args.command[1..]);
    set_variables(&mut command, args, &library, &territory, folder.as_ref());
    let Some(folder) = folder else {
        return Ok(failed_to_start(args, &command.exec()));
    };
    let status = match tree::run(&mut command) {
        Ok(ended) => ended,
        Err(error) => return Ok(failed_to_start(args, &error)),
    };
    let report = Report::read(&folder, &territory);
    if args.verbose {
        tell(&report);
    }
    if let Some(path) = &args.report {
        report.write(path)?;
    }
    drop(folder);
    Ok(tree::end_as(status))
}

fn tell(what: impl std::fmt::Display) {
    eprintln!("portlease run: {what}");
}

fn failed_to_start(args: &RunArgs, error: &io::Error) -> ExitCode {
    let name = Path::new(&args.command[0]).display();
    match error.kind() {
        io::ErrorKind::NotFound => {
            tell(format!("{name}: {error}: name a program, or its path"));
            ExitCode::from(NOT_FOUND)
        }
        _ => {
            tell(format!("{name}: {error}"));
            ExitCode::from(NOT_EXECUTABLE)
        }
    }
}

/// Builds the pool that each process will build: what is wrong with it shows here, once.
fn try_out(args: &RunArgs, territory: &Path) -> Result<(), String> {
    let mut builder = Pool::builder()
        .sources(&args.sources)
        .bind_mode(args.mode.choice())
        .min_rest(Duration::from_millis(args.rest))
        .shared(territory);
    if let Some(ports) = args.ports {
        builder = builder.ports(ports);
    }
    builder.build().map(drop).map_err(|error| error.to_string())
}

/// What the library reads; see [`variable`].
fn set_variables(
    command: &mut Command,
    args: &RunArgs,
    library: &Path,
    territory: &Path,
    folder: Option<&Folder>,
) {
    let text = |value: &dyn ToString| OsString::from(value.to_string());
    let tally = folder.map(|folder| folder.tally().into());
    let variables = [
        (variable::SOURCES, Some(text(&args.sources))),
        (
            variable::PORTS,
            args.ports.map(|ports| text(&format!("{}-{}", ports.first(), ports.last()))),
        ),
        (variable::MODE, Some(text(&args.mode.name()))),
        (variable::REST_MS, Some(text(&args.rest))),
        (variable::SHARED, Some(territory.into())),
        (variable::ONLY, args.only.as_ref().map(|only| text(only))),
        (variable::EXCEPT, args.except.as_ref().map(|except| text(except))),
        (variable::UDP, args.udp.then(|| text(&1))),
        (variable::TALLY, tally),
    ];
    for (name, value) in variables {
        debug_assert!(name.starts_with(variable::PREFIX));
        // A run inside of a run has its own.
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let before = std::env::var_os("LD_PRELOAD");
    command.env("LD_PRELOAD", preload(before.as_deref(), library));
}

/// What was to be preloaded already comes first: should it change a destination, as proxifiers do,
/// ours sees what becomes of it.
fn preload(before: Option<&OsStr>, library: &Path) -> OsString {
    let mut all = OsString::new();
    if let Some(before) = before.filter(|before| !before.is_empty()) {
        all.push(before);
        all.push(":");
    }
    all.push(library);
    all
}
