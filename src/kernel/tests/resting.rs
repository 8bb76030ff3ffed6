//! What `rest_ms` says is what the kernel does.

use crate::kernel::*;
use crate::testing::{in_namespace, set_ipv4};
use socket2::{Domain, Socket, Type};
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

fn connect(source: SocketAddr, to: SocketAddr, mode: BindMode) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    bind(&socket, source, mode, &SourceOptions::default()).map_err(|refused| refused.error)?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// Opens and closes one connection; the rest that is due after it.
fn once(source: SocketAddr, listener: &TcpListener, mode: BindMode, peer_first: bool) -> u64 {
    let mut ours = connect(source, listener.local_addr().unwrap(), mode).unwrap();
    let (mut theirs, _) = listener.accept().unwrap();
    let tcp;
    if peer_first {
        drop(theirs);
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
        tcp = closed_first(ours.as_fd()).unwrap();
        assert_eq!(tcp.closed, ClosedFirst::Peer);
        drop(ours);
    } else {
        tcp = closed_first(ours.as_fd()).unwrap();
        assert_eq!(tcp.closed, ClosedFirst::Us);
        drop(ours);
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
        drop(theirs);
    }
    rest_ms(mode, tcp.closed, tcp.timestamps, Settings::read().unwrap(), true, 0)
}

#[test]
fn a_tuple_rests_as_long_as_the_kernel_refuses_it() {
    in_namespace("kernel::tests::resting::a_tuple_rests_as_long_as_the_kernel_refuses_it", || {
        let mut port = 40000;
        for timestamps in ["1", "0"] {
            set_ipv4("tcp_timestamps", timestamps);
            for reuse in ["0", "1", "2"] {
                set_ipv4("tcp_tw_reuse", reuse);
                for mode in [BindMode::Explicit, BindMode::Late] {
                    for peer_first in [true, false] {
                        port += 1;
                        let source = SocketAddr::from(([127, 0, 0, 2], port));
                        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                        let to = listener.local_addr().unwrap();
                        let rest = once(source, &listener, mode, peer_first);
                        let case = format!(
                            "timestamps {timestamps} reuse {reuse} {mode:?} peer first \
                                 {peer_first}: rest {rest} ms"
                        );
                        if rest > 0 {
                            let refused = connect(source, to, mode).expect_err(&case);
                            assert_eq!(refused.raw_os_error(), Some(libc::EADDRNOTAVAIL));
                        }
                        if rest < 60_000 {
                            std::thread::sleep(Duration::from_millis(rest));
                            connect(source, to, mode)
                                .unwrap_or_else(|error| panic!("{case}: {error}"));
                        }
                    }
                }
            }
        }
    });
}
