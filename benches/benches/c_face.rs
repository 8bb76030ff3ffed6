//! One acquire and release through a destination handle, from C and from Rust, in turns of one
//! process: what the C face adds.
//!
//!     cargo bench -p portlease-benches --bench c_face [-- --write]

use portlease::ffi::{
    Status, portlease_config_add_sources, portlease_config_free, portlease_config_new,
    portlease_destination_free, portlease_pool_destination, portlease_pool_free,
    portlease_pool_new,
};
use portlease::{DestinationHandle, Pool, Protocol};
// Brings the C object along, too.
use portlease_benches::measure::median;
use portlease_benches::report::{Figure, Table, write_readme};
use socket2::SockAddr;
use std::ffi::{c_long, c_void};
use std::hint::black_box;
use std::net::SocketAddr;
use std::ptr::null_mut;
use std::time::Instant;

const ROUNDS: usize = 31;
const PAIRS: i32 = 200_000;

unsafe extern "C" {
    /// `bindings/c/bench.c`: nanoseconds for a pair, below zero if a call failed.
    fn portlease_bench_c(destination: *const c_void, rounds: c_long) -> f64;
}

fn rust_ns(handle: &DestinationHandle) -> f64 {
    let start = Instant::now();
    for _ in 0..PAIRS {
        black_box(handle.acquire().expect("64,512 ports are free")).release();
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(PAIRS)
}

fn main() {
    let to: SocketAddr = "127.0.0.1:443".parse().expect("an address");
    let sources = "127.0.1.1:1024-65535";
    let plain = Pool::builder().sources(sources).build().expect("127.0.1.1 is local");
    let plain = plain.destination(Protocol::Tcp, to).expect("there is a source");
    let named = Pool::builder().sources(sources).lease_ids().build().expect("127.0.1.1 is local");
    let named = named.destination(Protocol::Tcp, to).expect("there is a source");

    let (mut config, mut pool, mut c) = (null_mut(), null_mut(), null_mut());
    let (dst, text) = (SockAddr::from(to), c"127.0.1.1:1024-65535");
    // SAFETY: every pointer is to a local of the right type, and each object is used as the
    // header's conventions ask, from one thread.
    unsafe {
        assert_eq!(portlease_config_new(&mut config), Status::Ok);
        let added = portlease_config_add_sources(config, text.as_ptr(), null_mut());
        assert_eq!(added, Status::Ok);
        assert_eq!(portlease_pool_new(config, &mut pool, null_mut()), Status::Ok);
        portlease_config_free(config);
        let (tcp, at) = (Protocol::Tcp as i32, dst.as_ptr().cast());
        let opened = portlease_pool_destination(pool, tcp, at, dst.len(), &mut c, null_mut());
        assert_eq!(opened, Status::Ok);
    }

    let mut figures = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        // SAFETY: the destination lives until the end.
        let from_c = unsafe { portlease_bench_c(c.cast(), PAIRS.into()) };
        assert!(from_c > 0.0, "a call from C failed");
        for (all, one) in figures.iter_mut().zip([rust_ns(&plain), rust_ns(&named), from_c]) {
            all.push(one);
        }
    }
    let mut table = Table::new(&format!(
        "An acquire and a release through a handle: nanoseconds, median of {ROUNDS} rounds in turns"
    ));
    let rust = figures[0].clone();
    let names = ["Rust", "Rust, leases that have ids", "C"];
    for (name, all) in names.iter().zip(&mut figures) {
        let mut more: Vec<_> = all.iter().zip(&rust).map(|(one, rust)| one - rust).collect();
        table.set(name, "a pair", Figure::plain(median(all)));
        table.set(name, "more than Rust in the same round", Figure::plain(median(&mut more)));
    }
    print!("{}", table.markdown());
    if std::env::args().any(|argument| argument == "--write") {
        write_readme("c_face", &table.markdown()).expect("the README beside this package");
    }

    // SAFETY: made above, used by nobody any more, the destination before its pool.
    unsafe {
        portlease_destination_free(c);
        portlease_pool_free(pool);
    }
}
