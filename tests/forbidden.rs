//! What the kernel or a sandbox does not let us do: privileged ports, options of newer kernels.

mod common;
#[path = "common/seccomp.rs"]
mod seccomp;
#[path = "common/sysctl.rs"]
mod settings;

use common::in_namespace;
use portlease::{BindMode, Capability, Error, ModeChoice, Pool, PrivilegedPorts, Protocol};
use seccomp::forbid;
use settings::sysctl;
use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn privileged(sources: &str) -> Pool {
    Pool::builder()
        .sources(sources)
        .bind_mode(ModeChoice::Explicit)
        .privileged_ports(PrivilegedPorts::Lease)
        .build()
        .unwrap()
}

/// Takes all rights from this thread, those over its own namespaces included (capset(2)).
fn drop_rights() {
    let header = [0x2008_0522_u32, 0];
    let none = [0_u32; 6];
    // SAFETY: version 3 of the header, and two sets of three words, which are only read.
    let answer = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    assert_eq!(answer, 0, "{}", io::Error::last_os_error());
}

#[track_caller]
fn is_forbidden<T: std::fmt::Debug>(answer: Result<T, Error>) {
    let error = answer.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
    let text = error.to_string();
    for part in ["127.0.0.2:70", "CAP_NET_BIND_SERVICE", "net.ipv4.ip_unprivileged_port_start"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_pool_that_may_bind_nothing_says_so_and_not_exhausted() {
    in_namespace("a_pool_that_may_bind_nothing_says_so_and_not_exhausted", || {
        let to = at("127.0.0.1:5000");
        let _listener = TcpListener::bind(to).unwrap();
        let pool = privileged("127.0.0.2:700-703");
        let mixed = privileged("127.0.0.2:1022-1025");
        let stream = pool.connect(to).unwrap();
        assert!(stream.four_tuple().source.port() < 704);
        socket2::SockRef::from(stream.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                drop_rights();
                is_forbidden(pool.connect(to));
                assert_eq!(pool.census_of(Protocol::Tcp, to).unwrap().excluded, 4);
                // While all rest that is the answer to everybody.
                is_forbidden(pool.acquire(Protocol::Tcp, to));
                is_forbidden(pool.destination(Protocol::Tcp, to).unwrap().acquire());
                is_forbidden(pool.connect_udp(at("127.0.0.1:700")));
                // What may be bound is found, and when it is used up that is what is said.
                let held: Vec<_> = (0..2).map(|_| mixed.connect(to).unwrap()).collect();
                let ports: HashSet<_> = held.iter().map(|s| s.four_tuple().source.port()).collect();
                assert_eq!(ports, HashSet::from([1024, 1025]));
                match mixed.connect(to) {
                    Err(Error::Exhausted(counts)) => {
                        assert_eq!((counts.leased, counts.excluded), (2, 2));
                    }
                    other => panic!("{other:?}"),
                }
            });
        });
        // The other way out, without the right: what was forbidden is tried again.
        sysctl("net.ipv4.ip_unprivileged_port_start", "700");
        drop_rights();
        let _stream = loop {
            match pool.connect(to) {
                Ok(stream) => break stream,
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
    });
}

#[test]
fn a_kernel_without_late_binding_is_told_and_bound_explicitly() {
    in_namespace("a_kernel_without_late_binding_is_told_and_bound_explicitly", || {
        // IP_LOCAL_PORT_RANGE, which came with Linux 6.3.
        let arguments = [(1, libc::SOL_IP), (2, 51)];
        forbid(libc::SYS_setsockopt, &arguments, libc::ENOPROTOOPT);
        sysctl("net.ipv4.ip_local_port_range", "40000 40007");
        let to = at("127.0.0.1:700");
        let listener = TcpListener::bind(to).unwrap();
        let build = |mode| Pool::builder().sources("127.0.0.2").bind_mode(mode).build();
        match build(ModeChoice::Late) {
            Err(Error::Unsupported { capability, since: "6.3" }) => {
                assert!(capability.contains("IP_LOCAL_PORT_RANGE"), "{capability}");
            }
            other => panic!("{other:?}"),
        }
        for mode in [ModeChoice::ByPort, ModeChoice::Explicit] {
            let pool = build(mode).unwrap();
            let capabilities = pool.capabilities();
            assert_eq!(capabilities.late_bind(), Capability::NotSupported);
            assert!(capabilities.to_string().contains("IP_LOCAL_PORT_RANGE: not in this kernel"));
            // The whole range of the kernel's own, each port once, and the sockets have what was
            // leased.
            let mut streams = Vec::new();
            while let Ok(stream) = pool.connect(to) {
                assert_eq!(stream.lease().mode(), BindMode::Explicit);
                let leased = stream.four_tuple().source;
                assert_eq!(stream.get_ref().local_addr().unwrap(), leased);
                assert_eq!(listener.accept().unwrap().1, leased);
                streams.push(stream);
            }
            let ports: HashSet<_> = streams.iter().map(|s| s.four_tuple().source.port()).collect();
            assert_eq!(ports, (40_000..=40_007).collect());
            assert!(
                matches!(pool.connect(to), Err(Error::Exhausted(counts)) if counts.leased == 8)
            );
        }
    });
}
