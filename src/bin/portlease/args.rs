//! What the command line says.

use clap::{Args, Parser, Subcommand, ValueEnum};
use portlease::{Destinations, ModeChoice, PortRange, Slice};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Source ports, leased per destination.
#[derive(Parser)]
#[command(name = "portlease", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a program whose outgoing connections are spread over source addresses and ports.
    ///
    /// The program is left as it is: a library is preloaded that takes part in connect, close and
    /// what else begins or ends a descriptor, and leases a four-tuple for each TCP connection. All
    /// processes that the command starts share one territory. The library reaches dynamically
    /// linked programs that connect through the C library: not static ones, Go, io_uring, and
    /// setuid programs.
    ///
    /// Exit status: the command's own, and its signal if one ended it; 2 it cannot be run so, told
    /// before it starts; 126 it is no program, 127 it is not there.
    Run(RunArgs),
    /// Open more connections to one address and port than there are port numbers.
    ///
    /// Without options: 65,537 connections from loopback sources to a target that storm starts
    /// itself. They are opened one at a time, held, counted at both ends and reset, so that
    /// nothing stays behind. Latency is that of one dial: lease, socket, bind, connect.
    ///
    /// Exit status: 0 all that was asked for was opened; 1 it was not; 2 it cannot be, told
    /// before the first connection; 128 + N ended by signal N.
    Storm(StormArgs),
    /// Dials for a storm; started by it.
    #[command(hide = true)]
    StormWorker(WorkerArgs),
    /// Accepts for a storm; started by it.
    #[command(hide = true)]
    StormTarget(TargetArgs),
    /// Tries a network namespace for a storm; started by it.
    #[command(hide = true)]
    StormRehearsal(RehearsalArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RunArgs {
    /// Source addresses, as "10.0.0.2, 10.0.0.8-10.0.0.15:2048-4095"
    #[arg(long, value_name = "SET")]
    pub(crate) sources: String,
    /// Ports of each source that has no range of its own in --sources, as "1024-65535" [default:
    /// net.ipv4.ip_local_port_range]
    #[arg(long, value_name = "FIRST-LAST", value_parser = port_range)]
    pub(crate) ports: Option<PortRange>,
    /// How sockets are bound
    #[arg(long, value_enum, default_value_t = Mode::ByPort)]
    pub(crate) mode: Mode,
    /// The least time that a four-tuple rests after its connection was closed
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub(crate) rest: u64,
    /// Lease for these destinations alone, as "10.0.0.0/8:443, 192.0.2.1, [2001:db8::/32]:443"
    #[arg(long, value_name = "SET", value_parser = destinations)]
    pub(crate) only: Option<String>,
    /// Lease nothing for these destinations, as "127.0.0.0/8, ::1"
    #[arg(long, value_name = "SET", value_parser = destinations)]
    pub(crate) except: Option<String>,
    /// Lease for connected UDP sockets too
    #[arg(long)]
    pub(crate) udp: bool,
    /// Share the ports with all others that name the same file [default: the file
    /// of all runs of this user in the network namespace]
    #[arg(long, value_name = "FILE")]
    pub(crate) shared: Option<PathBuf>,
    /// Say beforehand what is preloaded, and at the end what was leased
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Write what was leased as one JSON object into FILE at the end
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// The library to preload [default: libportlease_preload.so beside this program or in ../lib]
    #[arg(long, value_name = "FILE")]
    pub(crate) library: Option<PathBuf>,
    /// The command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(crate) command: Vec<OsString>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct StormArgs {
    /// The target, address:port; storm starts one of its own on loopback if there is none
    #[arg(long, value_name = "ADDR")]
    pub(crate) to: Option<SocketAddr>,
    /// Source addresses, as "10.0.0.2, 10.0.0.8-10.0.0.15:2048-4095" [default: as many loopback
    /// addresses as it takes]
    #[arg(long, value_name = "SET")]
    pub(crate) sources: Option<String>,
    /// Connections to open [default: 65537; with --compare, all that sources and ports give]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) connections: Option<u64>,
    /// Ports of each source that has no range of its own in --sources, as "1024-65535"
    /// [default: what -n takes and 1 % more; the kernel's range with --by kernel or
    /// --mode late; 1024-65535
    /// with --compare; 10000-12000 with --churn]
    #[arg(long, value_name = "FIRST-LAST", value_parser = port_range)]
    pub(crate) ports: Option<PortRange>,
    /// Only this slice of each source's ports, as "2/8": several storms, or others that lease,
    /// split what there is
    #[arg(long, value_name = "K/N", value_parser = slice)]
    pub(crate) slice: Option<Slice>,
    /// Share the ports with all others that name the same file [default: the workers of this storm
    /// share one of their own where that leaves no port over]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["compare", "churn"])]
    pub(crate) shared: Option<PathBuf>,
    /// Who chooses the source port
    #[arg(long, value_enum, default_value_t = By::Portlease, conflicts_with = "compare")]
    pub(crate) by: By,
    /// How portlease binds
    #[arg(long, value_enum, default_value_t = Mode::ByPort)]
    pub(crate) mode: Mode,
    /// Both in turn, and the ratio; in a network namespace of its own where it needs other
    /// sysctls
    #[arg(long)]
    pub(crate) compare: bool,
    /// Connect and close in a loop, closing first, for --seconds or -n connections
    #[arg(long)]
    pub(crate) churn: bool,
    /// How long to churn
    #[arg(long, value_name = "S", default_value_t = 5, requires = "churn",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,
    /// Give up when a run has taken so many seconds
    #[arg(long, value_name = "S", default_value_t = 600,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: u64,
    /// One JSON object on standard output instead of the table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct WorkerArgs {
    #[arg(long)]
    pub(crate) parent: u32,
}

#[derive(Args)]
pub(crate) struct TargetArgs {
    #[arg(long)]
    pub(crate) parent: u32,
    /// Connections to hold before accepting no more; none: close each when its peer has.
    #[arg(long)]
    pub(crate) hold: Option<usize>,
}

#[derive(Args)]
pub(crate) struct RehearsalArgs {
    #[arg(long, value_parser = port_range)]
    pub(crate) ports: Option<PortRange>,
    #[arg(long)]
    pub(crate) backlog: Option<u64>,
}

/// Who chooses the source port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum By {
    /// A lease from portlease.
    Portlease,
    /// The kernel, at its best: IP_BIND_ADDRESS_NO_PORT and port 0.
    Kernel,
}

/// How portlease binds a leased port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Late inside ip_local_port_range, explicit elsewhere.
    ByPort,
    /// SO_REUSEADDR and bind(address, port).
    Explicit,
    /// IP_BIND_ADDRESS_NO_PORT and a range of one port; inside ip_local_port_range only.
    Late,
}

impl By {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Portlease => "portlease",
            Self::Kernel => "kernel",
        }
    }
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ByPort => "by-port",
            Self::Explicit => "explicit",
            Self::Late => "late",
        }
    }

    pub(crate) fn choice(self) -> ModeChoice {
        match self {
            Self::ByPort => ModeChoice::ByPort,
            Self::Explicit => ModeChoice::Explicit,
            Self::Late => ModeChoice::Late,
        }
    }
}

fn slice(text: &str) -> Result<Slice, String> {
    text.parse().map_err(|error: portlease::Error| error.to_string())
}

/// A set of destinations, as it was written.
fn destinations(text: &str) -> Result<String, String> {
    match text.parse::<Destinations>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn port_range(text: &str) -> Result<PortRange, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| {
        text.trim()
            .parse::<u16>()
            .map_err(|_| format!("'{text}' is no port; write a range as 1024-65535"))
    };
    PortRange::new(port(first)?, port(last)?)
        .ok_or_else(|| "a range goes from a port above 0 to one that is not lower".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn port_ranges_are_inclusive_and_never_empty() {
        assert_eq!(port_range("1024-65535").unwrap().count(), 64_512);
        assert_eq!(port_range("7").unwrap().count(), 1);
        for bad in ["", "0-9", "9-8", "1-65536", "a-b", "1-2-3"] {
            assert!(port_range(bad).is_err(), "{bad}");
        }
    }
}
