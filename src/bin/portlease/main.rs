//! `portlease`, the command line.

mod args;
mod run;
mod storm;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Storm(args) => storm::run(&args),
        Command::StormWorker(args) => storm::worker::run(&args),
        Command::StormTarget(args) => storm::target::run(&args),
        Command::StormRehearsal(args) => storm::namespace::rehearsal(&args),
    }
}
