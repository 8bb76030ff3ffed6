//! What only a look at the host tells beforehand.

use super::problem::Problem;
use portlease::Source;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

/// Whether each source is an address of this host.
pub(crate) fn sources_are_ours(sources: &[Source]) -> Result<(), Problem> {
    for address in super::sources::addresses(sources, 0) {
        match UdpSocket::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
                return Err(not_ours(address));
            }
            // Whatever else is wrong is told by the first connect.
            _ => {}
        }
    }
    Ok(())
}

fn not_ours(address: SocketAddr) -> Problem {
    let address = address.ip();
    Problem::impossible(
        format!("source {address} is not an address of this host"),
        format!("give it to an interface (ip address add {address} dev lo) or name another"),
    )
}
